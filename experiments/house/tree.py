"""Counts of a source tree, read with ``ast``: nothing of the tree is imported or run."""

from __future__ import annotations

import ast
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

SHARED_LINES = 6
"""Places that repeat at least so many lines of code count as repeated."""
CONTRACT = "[[tool.importlinter.contracts]]"

Definition = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Function:
    """A function or method and its length in lines, with and without its docstring."""

    place: str
    lines: int
    code_lines: int


class SourceTree:
    """The Python files of ``package`` below ``root``; names of modules are dotted, ``sepnas.plan.steps``."""

    def __init__(self, root: Path, package: str) -> None:
        self.root, self.package = root, package
        self.texts = {path: path.read_text(encoding="utf-8") for path in sorted((root / package).rglob("*.py"))}

    @cached_property
    def modules(self) -> dict[str, ast.Module]:
        return {self._name_of(path): ast.parse(text) for path, text in self.texts.items()}

    def _name_of(self, path: Path) -> str:
        parts = path.relative_to(self.root).with_suffix("").parts
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    @cached_property
    def file_lines(self) -> dict[str, int]:
        return {str(path.relative_to(self.root)): len(text.splitlines()) for path, text in self.texts.items()}

    @cached_property
    def functions(self) -> list[Function]:
        """All functions and methods, nested ones too, the longest first."""
        found = [
            Function(f"{module}.{node.name}", _lines(node), _lines(node) - _docstring_lines(node))
            for module, tree in self.modules.items()
            for node in ast.walk(tree)
            if isinstance(node, Definition)
        ]
        return sorted(found, key=lambda each: (-each.lines, each.place))

    def classes_of_one_name(self) -> dict[str, list[str]]:
        """Public classes at the top of modules whose name is used more than once, with their modules."""
        places: dict[str, list[str]] = defaultdict(list)
        for module, tree in self.modules.items():
            for node in tree.body:
                if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                    places[node.name].append(module)
        return {name: modules for name, modules in sorted(places.items()) if len(modules) > 1}

    def contracts(self) -> int:
        """Contracts of import-linter in pyproject.toml."""
        return (self.root / "pyproject.toml").read_text(encoding="utf-8").count(CONTRACT)

    def circles(self) -> list[list[str]]:
        """Groups of modules that import each other when they are loaded; imports in functions do not count."""
        imports = {name: set(self._imported(name, tree)) for name, tree in self.modules.items()}
        reach = {name: _reached(name, imports) for name in imports}
        groups = {frozenset(b for b in reach[a] if a in reach[b]) for a in imports if a in reach[a]}
        return sorted(sorted(group) for group in groups)

    def _imported(self, module: str, tree: ast.Module) -> Iterator[str]:
        for node in _loaded(tree):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names if alias.name in self.modules)
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                for alias in node.names:
                    part = f"{node.module}.{alias.name}"
                    if (name := part if part in self.modules else node.module) in self.modules and name != module:
                        yield name

    def repeated(self) -> list[str]:
        """Places, ``file:line``, whose code stands elsewhere too: six lines or more that differ at most in their
        indentation. Blank lines, comments, docstrings and imports do not count."""
        windows = {path: _windows(text) for path, text in self.texts.items()}
        counts = Counter(window for found in windows.values() for _, window in found)
        return [
            f"{path.relative_to(self.root)}:{line}"
            for path, found in windows.items()
            for place, (line, window) in enumerate(found)
            if counts[window] > 1 and (place == 0 or counts[found[place - 1][1]] == 1)
        ]


def _lines(node: Definition) -> int:
    assert node.end_lineno is not None
    return node.end_lineno - node.lineno + 1


def _docstring_lines(node: ast.AST) -> int:
    return len(_docstring(node))


def _docstring(node: ast.AST) -> range:
    """The line numbers of a docstring; empty where there is none."""
    if not isinstance(node, ast.Module | ast.ClassDef | Definition) or ast.get_docstring(node, clean=False) is None:
        return range(0)
    first = node.body[0]
    return range(first.lineno, (first.end_lineno or first.lineno) + 1)


def _loaded(tree: ast.Module) -> Iterator[ast.stmt]:
    """Statements that run when a module is loaded; not those below ``if TYPE_CHECKING``."""
    waiting: list[ast.stmt] = list(tree.body)
    while waiting:
        node = waiting.pop(0)
        yield node
        if isinstance(node, ast.If) and not (isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"):
            waiting = [*node.body, *node.orelse, *waiting]
        elif isinstance(node, ast.Try):
            waiting = [*node.body, *node.orelse, *node.finalbody, *waiting]


def _reached(start: str, edges: Mapping[str, set[str]]) -> set[str]:
    """All that ``start`` leads to, itself only if there is a way back."""
    found: set[str] = set()
    waiting = list(edges[start])
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += edges[name]
    return found


def _windows(text: str) -> list[tuple[int, tuple[str, ...]]]:
    """Each run of six lines of code, with the number of its first line."""
    tree = ast.parse(text)
    left_out = {line for node in ast.walk(tree) for line in _docstring(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom) and node.end_lineno is not None:
            left_out |= set(range(node.lineno, node.end_lineno + 1))
    code = [
        (number, line.strip())
        for number, line in enumerate(text.splitlines(), start=1)
        if number not in left_out and line.strip() and not line.strip().startswith("#")
    ]
    rows = range(len(code) - SHARED_LINES + 1)
    return [(code[row][0], tuple(line for _, line in code[row : row + SHARED_LINES])) for row in rows]
