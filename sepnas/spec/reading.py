"""Reads YAML and JSON files as plain data, and refuses files that are too large or too deep for a document.

A few lines can expand to millions of values (aliases), or nest deeper than any reader can follow. So the size of the
expanded data is bounded before any of it is built.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import yaml

from sepnas.errors import SpecError, UnreadableError
from sepnas.spec.files import FileTooLargeError, read_regular, why

MAX_FILE_BYTES = 64 << 20
MAX_VALUES = 100_000
"""Maximum number of keys and values of a YAML file, aliases expanded, unless its document allows more."""
MAX_JSON_VALUES = 4_000_000
MAX_DEPTH = 64
MAX_KEYS = 20_000
"""Maximum number of keys of one mapping."""
MAX_NUMBER_CHARACTERS = 1000
_MAX_ERROR_CHARACTERS = 500
_JSON_SIGNS = (b",", b":", b"[", b"{")
_SURROGATE = re.compile(r"\\(u|U0000)[dD][89a-fA-F]")

if TYPE_CHECKING:
    _Loader = yaml.SafeLoader
else:
    _Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read_data(path: str | os.PathLike[str], max_values: int = MAX_VALUES) -> Any:
    """The plain data of a YAML or JSON file; :class:`SpecError` if the file is missing or is neither."""
    return parse_data(read_document(path), path, max_values)


def read_document(path: str | os.PathLike[str]) -> bytes:
    """The bytes of a description; :class:`SpecError` if it cannot be read or is too large."""
    try:
        return read_regular(path, MAX_FILE_BYTES)
    except FileNotFoundError:
        raise SpecError(f"{path}: no such file") from None
    except FileTooLargeError:
        raise SpecError(f"{path}: is larger than {MAX_FILE_BYTES >> 20} MiB, too large for a description") from None
    except OSError as error:
        raise UnreadableError(f"{path}: cannot be read as text: {why(error, path)}") from None
    except ValueError as error:  # not a valid file name
        raise SpecError(f"{path}: cannot be read as text: {error}") from None


def parse_data(data: bytes, path: str | os.PathLike[str], max_values: int = MAX_VALUES) -> Any:
    """The plain data of a file's bytes, JSON or YAML by the name in ``path``. Raises :class:`SpecError`."""
    kind = "JSON" if Path(path).suffix == ".json" else "YAML"
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SpecError(f"{path}: cannot be read as text: {error}") from None
    try:
        # documents refuse numbers that are not finite themselves, and name the field
        found = parse_json(text, float) if kind == "JSON" else _parse_yaml(text, max_values)
        if _SURROGATE.search(text):  # JSON writes surrogates in pairs; a lone one is not valid text
            json.dumps(found, ensure_ascii=False, skipkeys=True, default=str).encode()
        return found
    except RecursionError:
        raise SpecError(f"{path}: not valid {kind}: nested too deeply") from None
    # numbers of thousands of digits, dates that do not exist, tags without a value
    except (ValueError, LookupError, AttributeError, TypeError, ArithmeticError, yaml.YAMLError) as error:
        says = " ".join(str(error).split())[:_MAX_ERROR_CHARACTERS]
        says = says.replace("invalid Unicode character escape code", "half a character (surrogates are none)")
        raise SpecError(f"{path}: not valid {kind}: {says}") from None


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def parse_json(text: str | bytes, constant: Callable[[str], Any] = _no_constant) -> Any:
    """The value of a JSON text; :class:`ValueError` for duplicate keys, and for data that is too large or deep.

    ``constant`` converts ``NaN``, ``Infinity`` and ``-Infinity``, which are refused without it.
    """
    data = text.encode(errors="surrogatepass") if isinstance(text, str) else text
    if has_too_many_values(data):
        raise ValueError(f"holds more than {MAX_JSON_VALUES:,} values")
    try:
        return json.loads(text, object_pairs_hook=_object, parse_constant=constant)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def has_too_many_values(json_text: bytes) -> bool:
    """Whether a JSON text may hold more than ``MAX_JSON_VALUES`` values; counts signs, also those inside of texts."""
    return sum(map(json_text.count, _JSON_SIGNS)) > MAX_JSON_VALUES


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                break
            seen.add(key)
        raise ValueError(f"key {key[:80]!r} occurs twice in one object")
    return found


def _parse_yaml(text: str, max_values: int) -> Any:
    _check_size(text, max_values)
    return yaml.load(text, _YamlLoader)


def _check_size(text: str, max_values: int) -> None:
    """Count the values with every alias expanded, before any value is built."""
    sizes: dict[str, int] = {}
    around: list[_Open] = []
    count = 0
    for event in yaml.parse(text, _Loader):
        if isinstance(event, yaml.NodeEvent) and around:
            around[-1].take(event)
        if isinstance(event, yaml.AliasEvent):
            count += _size_of(event, sizes)
        elif isinstance(event, yaml.CollectionStartEvent):
            around.append(_Open(event.anchor, count, isinstance(event, yaml.MappingStartEvent)))
            count += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            closed = around.pop()
            _note(closed.anchor, count - closed.before, sizes)
        elif isinstance(event, yaml.ScalarEvent):
            count += 1
            _note(event.anchor, 1, sizes)
        if len(around) > MAX_DEPTH:
            raise ValueError(f"nested too deeply: more than {MAX_DEPTH} levels in line {_line(event)}")
        if count > max_values:
            raise _too_many(max_values, bool(sizes), event)


def count_values(data: Any) -> int:
    """The number of keys and values of plain data, lists and mappings included: what ``max_values`` limits."""
    if isinstance(data, dict):
        return 1 + len(data) + sum(map(count_values, data.values()))
    return 1 + (sum(map(count_values, data)) if isinstance(data, list | tuple) else 0)


def _note(anchor: str | None, size: int, sizes: dict[str, int]) -> None:
    if anchor is not None:
        sizes[anchor] = size


def _too_many(max_values: int, has_anchors: bool, event: yaml.Event) -> ValueError:
    how = "merges too many keys, or repeats too many values" if has_anchors else "too many values"
    return ValueError(f"{how}: more than {max_values:,} in all up to line {_line(event)}")


@dataclass(slots=True)
class _Open:
    """An open list or mapping, and the number of values before it."""

    anchor: str | None
    before: int
    has_keys: bool
    nodes: int = 0

    def take(self, event: yaml.NodeEvent) -> None:
        self.nodes += 1
        if self.has_keys and self.nodes > 2 * MAX_KEYS:
            raise ValueError(f"a mapping of more than {MAX_KEYS:,} keys up to line {_line(event)}")


def _line(event: yaml.Event) -> int:
    return 1 + getattr(event.start_mark, "line", 0)


def _size_of(event: yaml.AliasEvent, sizes: dict[str, int]) -> int:
    if event.anchor not in sizes:
        raise ValueError(f"line {_line(event)}: alias '{event.anchor}' before its anchor is complete")
    return sizes[event.anchor]


class _YamlLoader(_Loader):
    """Refuses duplicate keys, of which YAML readers take the last, and numbers that cannot be printed."""

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        _check_number(node)
        number: int = super().construct_yaml_int(node)
        str(number)  # ValueError if it has too many digits, as in JSON
        return number

    def construct_yaml_float(self, node: yaml.ScalarNode) -> float:
        _check_number(node)
        number: float = super().construct_yaml_float(node)
        return number

    def get_single_data(self) -> Any:
        node = self.get_single_node()
        if node is None:
            return None
        _refuse_twice(node)
        return self.construct_document(node)


def _check_number(node: yaml.ScalarNode) -> None:
    """Refuse numbers in base 60 (59:59:59): parsing them takes time quadratic in their length."""
    if len(node.value) > MAX_NUMBER_CHARACTERS:
        raise ValueError(
            f"line {node.start_mark.line + 1}: a number of {len(node.value):,} characters; it may have at most "
            f"{MAX_NUMBER_CHARACTERS:,} digits"
        )


def _refuse_twice(root: yaml.Node) -> None:
    seen, left = {id(root)}, [root]
    while left:
        node = left.pop()
        lines: dict[tuple[str, str], int] = {}
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if isinstance(key, yaml.ScalarNode):
                name, line = (key.tag, key.value), key.start_mark.line + 1
                if name in lines:
                    raise ValueError(f"line {line}: key '{key.value[:80]}' is already in line {lines[name]}")
                lines[name] = line
        for child in _children(node):
            if id(child) not in seen:
                seen.add(id(child))
                left.append(child)


def _children(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [child for pair in node.value for child in pair]
    return node.value if isinstance(node, yaml.SequenceNode) else []


_YamlLoader.add_constructor("tag:yaml.org,2002:int", _YamlLoader.construct_yaml_int)
_YamlLoader.add_constructor("tag:yaml.org,2002:float", _YamlLoader.construct_yaml_float)
# PyYAML reads 5e9 as text, JSON and YAML 1.2 as a number
EXPONENT = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+\Z")
EXPONENT_STARTS = list("-+.0123456789")
yaml.add_implicit_resolver("tag:yaml.org,2002:float", EXPONENT, EXPONENT_STARTS, _YamlLoader)
