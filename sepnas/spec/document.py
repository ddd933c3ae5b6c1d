"""Files that people and programs write: every mistake is named on reading, and writing is atomic.

Each document carries ``format`` and ``version``. YAML and JSON are both read; JSON is written unless the
name ends in ``.yaml`` or ``.yml``.
"""

from __future__ import annotations

import json
import os
import re
import reprlib
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import pydantic
import yaml
from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationError
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, ErrorDetails
from typing_extensions import Self

from sepnas.errors import SpecError, VersionError
from sepnas.spec.reading import (
    EXPONENT,
    EXPONENT_STARTS,
    MAX_FILE_BYTES,
    MAX_JSON_VALUES,
    MAX_KEYS,
    MAX_VALUES,
    count_values,
    has_too_many_values,
    read_data,
)
from sepnas.spec.writing import refuse_folder, replacing, write_bytes, write_text

__all__ = [
    "FILE_SUFFIXES",
    "MAX_FILE_BYTES",
    "MAX_PROBLEMS",
    "Document",
    "Part",
    "explain",
    "few",
    "read_data",
    "refuse_folder",
    "repeated",
    "replacing",
    "short",
    "write_bytes",
    "write_text",
]  # fmt: skip

FILE_SUFFIXES = (".json", ".yaml", ".yml")
"""Suffixes that mark a name as that of a file."""

MAX_PROBLEMS = 24
"""Maximum number of mistakes reported for one file; the rest are only counted."""
_MAX_ERRORS = 5_000
_START = 40
_MAX_LINE_CHARACTERS = 600


MAX_ITEMS = 100_000
_FAIL_FAST = tuple(map(int, pydantic.VERSION.split(".")[:2])) >= (2, 8)
MAX_INT, _MAX_FLOAT = 1 << 53, 1e30
_DEFAULT_BOUNDS: dict[str, dict[str, float]] = {
    "int": {"ge": -MAX_INT, "le": MAX_INT},
    "float": {"ge": -_MAX_FLOAT, "le": _MAX_FLOAT},
    "str": {"max_length": 20_000},
    "list": {"max_length": MAX_ITEMS},
    "tuple": {"max_length": MAX_ITEMS},
    "dict": {"max_length": MAX_KEYS},
}
"""Bounds of fields that declare none: every number and every length is bounded."""


def _restrict(schema: Any) -> None:
    """Bound all numbers and make them and booleans strict (pydantic's own switch would refuse lists for tuples)."""
    if isinstance(schema, dict):
        kind = schema.get("type")
        if kind in ("bool", "int", "float"):
            schema["strict"] = True
        if kind in ("list", "tuple") and "max_length" not in schema and _FAIL_FAST:
            schema["fail_fast"] = True  # one mistake per list: long lists are written by programs
        for name, bound in _DEFAULT_BOUNDS.get(kind, {}).items() if isinstance(kind, str) else ():
            if name.replace("e", "t") not in schema:
                schema.setdefault(name, bound)
        schema = list(schema.values())
    for inner in schema if isinstance(schema, list) else ():
        _restrict(inner)


class Part(BaseModel):
    """A piece of a document: immutable, no unknown keys, no silent conversion between text, numbers and booleans."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        schema = handler(source)
        _restrict(schema)
        return schema

    def with_checked(self, **values: Any) -> Self:
        """A copy with other values, known to be valid: ``model_copy(update=values)`` in a third of the time.

        Use on the search's hot path only.
        """
        copied = object.__new__(type(self))
        object.__setattr__(copied, "__dict__", self.__dict__ | values)
        object.__setattr__(copied, "__pydantic_fields_set__", self.__pydantic_fields_set__ | values.keys())
        object.__setattr__(copied, "__pydantic_extra__", None)
        object.__setattr__(copied, "__pydantic_private__", None)
        return copied


class Document(Part):
    """A whole file. Subclasses set ``format_name`` and ``current_version``."""

    format_name: ClassVar[str]
    current_version: ClassVar[int] = 1
    max_values: ClassVar[int] = MAX_VALUES
    """Maximum number of values in its YAML file: see :func:`sepnas.spec.reading.read_data`."""

    format: str = ""
    version: int = 1

    def model_post_init(self, context: Any, /) -> None:
        # `format` and `version` are always written, and can always be omitted in Python
        object.__setattr__(self, "format", self.format_name)
        object.__setattr__(self, "version", self.current_version)

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        found = handler(schema)
        fields = handler.resolve_ref_schema(found)["properties"]
        fields["format"] = {"const": cls.format_name}
        fields["version"] |= {"default": cls.current_version, "minimum": 1, "maximum": cls.current_version}
        return found

    @classmethod
    def from_data(cls, data: Any, where: str = "value") -> Self:
        """Validate plain data; ``where`` (a file's name) begins every message."""
        if not isinstance(data, dict):
            raise SpecError(f"{where}: a {cls.format_name} document is a mapping of fields, got {short(data)}")
        _check_head(cls, data, where)
        _check_lengths(data, where)
        try:
            return cls.model_validate(data, context={"where": where})
        except ValidationError as error:
            raise SpecError(explain(cls, error, where, data)) from None

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read a YAML or JSON file; raises :class:`SpecError` that names file, field, value and allowed values."""
        return cls.from_data(read_data(path, cls.max_values), str(path))

    def to_data(self) -> dict[str, Any]:
        return self.model_dump(mode="json")

    def dumps(self) -> str:
        return json.dumps(self.to_data(), indent=2) + "\n"

    def save(self, path: str | os.PathLike[str], comment: str = "") -> Path:
        """Write beside the target, then rename over it. A YAML file begins with ``comment``; JSON has no comments.

        Raises :class:`SpecError`, and writes nothing, if the file would be too large to be read again.
        """
        path = Path(path)
        if path.suffix not in (".yaml", ".yml"):
            text = self.dumps()
        else:
            head = "".join(f"# {line}".rstrip() + "\n" for line in comment.splitlines())
            data = self.to_data()
            num_values = count_values(data)
            if num_values > self.max_values:
                raise SpecError(
                    f"{path}: is not written: a YAML file of {self.format_name} may hold {self.max_values:,} keys and "
                    f"values, this one would hold {num_values:,}; name a file that ends in .json"
                )
            text = head + yaml.dump(data, Dumper=_YamlDumper, sort_keys=False)
        _check_readable(text, path)
        return write_text(path, text)


def _check_readable(text: str, path: Path) -> None:
    """Raise :class:`SpecError` for the text of a file that :func:`read_data` would refuse for its size."""
    num_bytes = len(text) if text.isascii() else len(text.encode())
    if num_bytes > MAX_FILE_BYTES:
        raise SpecError(
            f"{path}: is not written: it would have {num_bytes:,} bytes; at most {MAX_FILE_BYTES:,} are read again"
        )
    if path.suffix not in (".yaml", ".yml") and has_too_many_values(text.encode()):
        raise SpecError(f"{path}: is not written: it would hold more than {MAX_JSON_VALUES:,} values")


class _YamlDumper(yaml.SafeDumper):
    pass


yaml.add_implicit_resolver("tag:yaml.org,2002:float", EXPONENT, EXPONENT_STARTS, Dumper=_YamlDumper)


def _check_lengths(data: Any, where: str) -> None:
    """Refuse mappings and lists that are too long for any field, before any entry is looked at."""
    left: list[tuple[str, Any]] = [("", data)]
    while left:
        place, value = left.pop()
        if not isinstance(value, dict | list | tuple):
            continue
        limit, what = (MAX_KEYS, "keys") if isinstance(value, dict) else (MAX_ITEMS, "items")
        if len(value) > limit:
            raise SpecError(f"{where}: field `{place}`: has {len(value):,} {what}; at most {limit:,} are read")
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, inner in items:
            if isinstance(inner, dict | list | tuple):
                left.append((f"{place}.{_key(key)}" if place else _key(key), inner))


def _check_head(cls: type[Document], data: dict[str, Any], where: str) -> None:
    found = data.get("format", cls.format_name)
    if found != cls.format_name:
        raise SpecError(f"{where}: field `format`: expected '{cls.format_name}', got {short(found)}")
    version = data.get("version", cls.current_version)
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise SpecError(f"{where}: field `version`: expected a whole number from 1, got {short(version)}")
    if version > cls.current_version:
        raise VersionError(
            f"{where}: field `version`: this sepnas reads {cls.format_name} up to version "
            f"{cls.current_version}, got {version}; update sepnas to read it"
        )


def explain(cls: type[BaseModel], error: ValidationError, where: str, data: Any) -> str:
    """One line for each mistake in ``data``, up to ``MAX_PROBLEMS``."""
    found: dict[_Place, list[ErrorDetails]] = {}
    for problem in _problems(cls, error, data):
        found.setdefault(_place(problem, data), []).append(problem)
    # the error of a whole that follows from an error inside it is not reported
    wholes = {place[:length] for place in found for length in range(len(place))}
    places = [place for place in found if place not in wholes]
    told = [f"{where}: {_cut(_explain_place(cls, place, found[place]))}" for place in places[:MAX_PROBLEMS]]
    left = max(len(places), error.error_count() if error.error_count() > _MAX_ERRORS else 0) - len(told)
    return "\n".join([*told, *([f"{where}: and {left:,} more"] if left > 0 else [])])


def _problems(cls: type[BaseModel], error: ValidationError, data: Any) -> list[ErrorDetails]:
    """All errors; if there are too many, those at the start: as objects they take more memory than the data."""
    if error.error_count() <= _MAX_ERRORS:
        return error.errors(include_url=False)
    try:
        cls.model_validate(_start(data), context={})
    except ValidationError as shorter:
        if shorter.error_count() <= _MAX_ERRORS:
            return [problem for problem in shorter.errors(include_url=False) if problem["type"] != "value_error"]
    return []


def _start(data: Any) -> Any:
    if isinstance(data, dict):
        return {key: _start(data[key]) for key in [*data][:_START]}
    return [_start(item) for item in data[:_START]] if isinstance(data, list) else data


def _cut(line: str) -> str:
    return line if len(line) <= _MAX_LINE_CHARACTERS else line[: _MAX_LINE_CHARACTERS - 3] + "..."


_Place = tuple[int | str, ...]


def _place(problem: ErrorDetails, data: Any) -> _Place:
    """The path of the problem in ``data``, without the union members that pydantic adds to it."""
    place = []
    for depth, key in enumerate(problem["loc"], start=1):
        try:
            data = data[key]
        except (LookupError, TypeError):
            if problem["type"] != "missing" or depth < len(problem["loc"]):
                continue
        place.append(key)
    return tuple(place)


def _key(key: int | str) -> str:
    text = str(key)
    return text if len(text) <= 80 and text.isprintable() else short(text)


def _explain_place(cls: type[BaseModel], place: _Place, problems: Sequence[ErrorDetails]) -> str:
    field = f"field `{'.'.join(map(_key, place))}`: " if place else ""
    kind = problems[0]["type"]
    if kind == "extra_forbidden":
        allowed = ", ".join(_fields_at(cls, place[:-1])) or "none here"
        return f"{field}unknown key; allowed: {allowed}"
    first, *others = dict.fromkeys(map(_message, problems))
    message = " or ".join([first, *(other.removeprefix("must be ") for other in others)])
    shown = "" if kind in ("missing", "value_error") else f", got {short(problems[0]['input'])}"
    return f"{field}{message}{shown}"


_WORDS = (
    (r"^Value error, ", ""),
    (r"^Field required$", "is missing"),
    (r"^(Input|List|Tuple|String) should ", "must "),
    (r"(,| after validation,) (not \d+|got a number with a fractional part|unable to parse .*)$", ""),
    (r"have at least 1 character", "not be empty"),
    (r"greater than or equal to", "at least"),
    (r"less than or equal to", "at most"),
    (r"a valid integer", "a whole number"),
    (r"a valid (number|datetime)", r"a \1"),
    (r"a valid string", "text"),
    (r"a valid boolean", "true or false"),
    (r"a valid (list|tuple)", "a list"),
    (r"a valid dictionary( or instance of \w+)?", "a mapping of fields"),
)
"""pydantic's wording, and the wording for people who write files."""


def _message(problem: ErrorDetails) -> str:
    """pydantic's message in terms of the file, not of Python."""
    message = problem["msg"]
    for theirs, ours in _WORDS:
        message = re.sub(theirs, ours, message)
    return message


def _fields_at(cls: type[BaseModel], place: _Place) -> list[str]:
    """The field names of the model at ``place`` below ``cls``."""
    model: Any = cls
    for key in place:
        if isinstance(key, int) or not isinstance(model, type) or not issubclass(model, BaseModel):
            continue
        if key in model.model_fields:
            model = _model_in(model.model_fields[key].annotation)
    return list(model.model_fields) if isinstance(model, type) and issubclass(model, BaseModel) else []


def _model_in(annotation: Any) -> Any:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for inner in getattr(annotation, "__args__", ()):
        found = _model_in(inner)
        if found is not None:
            return found
    return None


_SHORT = reprlib.Repr()  # stops early if a value is large or deep
_SHORT.maxstring = _SHORT.maxother = 200


def short(value: Any) -> str:
    text = _SHORT.repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


_Value = TypeVar("_Value", bound=Hashable)


def repeated(values: Iterable[_Value]) -> list[_Value]:
    """The values that occur more than once, each listed once."""
    return [value for value, times in Counter(values).items() if times > 1]


def few(values: Sequence[object], most: int = 8) -> str:
    """The first ``most`` values, and the number of the rest."""
    more = f" and {len(values) - most:,} more" if len(values) > most else ""
    return ", ".join(_cut(str(value)) for value in values[:most]) + more
