"""What the graph of a segment (``models/model.json`` of a ``.pt2``) may hold: a few operators, plain names and sizes.

``torch.export.load`` evaluates sizes, looks operators up by name and writes names into the source code of a function.
So all of it is looked through, and what no exported segment has is refused, harmless or not.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sepnas.plan.kinds.registry import BY_OVERLOAD
from sepnas.spec.reading import parse_json

OPERATORS = frozenset(f"torch.ops.aten.{name}" for name in (*BY_OVERLOAD, "sym_size.int"))
"""What parts of networks are exported to: the operators that a graph may have, and the number of samples. None makes a
tensor from a number alone."""
_WORDS = frozenset(("none", "tanh", "constant", "reflect", "replicate", "circular", "trunc", "floor"))
"""Texts that say how an operator works."""

MAX_NODES = 20_000
_MAX_DEPTH = 32
_MAX_CHARACTERS = 500
_SPECS = ("in_spec", "out_spec", "context")
"""Text that is JSON again: how arguments are packed."""
_EMPTY = (
    "guards_code", "custom_obj_values", "sym_bool_values", "sym_float_values", "treespec_namedtuple_fields",
    "constants", "extra_files",
)  # fmt: skip
_UNUSED = ("metadata",)
"""Left out: source locations, and what other versions of torch write there."""
_IDENTIFIERS = ("name", "as_name", "forward_arg_names")
_SIZES = "sym_int_values"
"""The sizes that a graph takes from its inputs: names, each with a size of the same form as those of tensors."""
_VALUES = frozenset(
    f"as_{kind}"
    for kind in (
        *("none", "tensor", "tensors", "int", "ints", "float", "floats", "bool", "bools"),
        *("expr", "sym_int", "sym_ints", "name", "string", "scalar_type"),
    )
)
_SIZE = frozenset(("as_expr", "as_int"))
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_PLAIN = re.compile(r"[A-Za-z0-9_.+:-]*", re.ASCII)
_SYMBOL = re.compile(r"Symbol\('[su]\d+', positive=True, integer=True\)|Symbol\('[su]\d+', integer=True\)", re.ASCII)
_ARITHMETIC = re.compile(r"(Integer|Mul|Add|[su]?[0-9]|[-+/(), ]|\*(?!\*))*", re.ASCII)
"""No powers: 9**9**9 would be computed. Each character fits one alternative only, so that matching is linear."""


@dataclass(frozen=True)
class Allowed:
    """What a graph may use: operators, and kinds of arguments."""

    operators: Callable[[str], bool]
    values: frozenset[str]


_SEGMENTS = Allowed(OPERATORS.__contains__, _VALUES)
MORE_VALUES = _VALUES | {
    f"as_{kind}" for kind in ("strings", "memory_format", "layout", "device", "optional_tensor", "optional_tensors")
}
"""The kinds of arguments of any network's graph."""


def checked_graph(model: Any, allowed: Allowed = _SEGMENTS) -> dict[str, Any]:
    """The same graph without what is not needed; :class:`ValueError` says why it is none of ours."""
    if not isinstance(model, dict):
        raise ValueError("holds no graph")
    checked: dict[str, Any] = _checked(model, 0, allowed)
    nodes = checked.get("graph_module", {}).get("graph", {}).get("nodes", ())
    if len(nodes) > MAX_NODES:
        raise ValueError(f"has {len(nodes):,} operators; at most {MAX_NODES:,} are run")
    return checked


def is_arithmetic(text: str) -> bool:
    """Whether a size is made of numbers and symbols by addition, subtraction, multiplication and division."""
    return len(text) <= _MAX_CHARACTERS and _ARITHMETIC.fullmatch(_SYMBOL.sub("1", text)) is not None


def _checked(node: Any, depth: int, allowed: Allowed) -> Any:
    if depth > _MAX_DEPTH:
        raise ValueError("is nested too deeply")
    if isinstance(node, list):
        return [_checked(item, depth + 1, allowed) for item in node]
    if isinstance(node, dict):
        return {_plain(key): _checked_field(key, value, depth + 1, allowed) for key, value in node.items()}
    return _plain(node) if isinstance(node, str) else node


def _checked_field(key: str, value: Any, depth: int, allowed: Allowed) -> Any:
    if key in _UNUSED:
        return {}
    if key in _EMPTY and value:
        raise ValueError(f"holds '{key}', which no segment has")
    if key.startswith("as_") and key not in allowed.values:
        raise ValueError(f"holds a value of the kind '{key}', which no segment has")
    if key == "as_string" and allowed is _SEGMENTS and value not in _WORDS:
        raise ValueError(f"holds the text '{_start(value)}', which no operator of a segment takes")
    if key == "target" and not (isinstance(value, str) and allowed.operators(value)):
        others = f"; operators of a segment are {', '.join(sorted(OPERATORS))}" if allowed is _SEGMENTS else ""
        raise ValueError(f"uses operator '{_start(value)}'{others}")
    if key == "expr_str" and not is_arithmetic(str(value)):
        raise ValueError(f"has a size that is no arithmetic: {_start(value)!r}")
    if key == "expr_str":
        return str(value)
    if key in _SPECS and isinstance(value, str):
        return json.dumps(_checked(parse_json(value), depth, allowed))
    if key in (*_IDENTIFIERS, _SIZES):
        _check_identifiers(key, _names_of_sizes(value) if key == _SIZES else value)
    return _checked(value, depth, allowed)


def _check_identifiers(key: str, value: Any) -> None:
    for name in value if isinstance(value, list) else (value,):
        if name is not None and not (isinstance(name, str) and _IDENTIFIER.fullmatch(name)):
            raise ValueError(f"has a `{key}` that is no name: {_start(name)!r}")


def _names_of_sizes(value: Any) -> list[str]:
    if not isinstance(value, dict) or not all(isinstance(size, dict) and {*size} <= _SIZE for size in value.values()):
        raise ValueError(f"has `{_SIZES}` that are no sizes by name: {_start(value)!r}")
    return [*value]


def _plain(text: str) -> str:
    if len(text) > _MAX_CHARACTERS or not _PLAIN.fullmatch(text):
        raise ValueError(f"holds a text that no segment has: {_start(text)!r}")
    return text


def _start(value: Any) -> str:
    return str(value)[:80]
