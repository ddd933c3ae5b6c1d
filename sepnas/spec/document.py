"""Files that people and programs write: read with every mistake named, written whole or not at all.

Each document carries ``format`` and ``version``. YAML and JSON are both read; JSON is written unless the
name ends in ``.yaml`` or ``.yml``.
"""

from __future__ import annotations

import json
import os
import re
import reprlib
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, ClassVar

import yaml
from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationError
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, ErrorDetails
from typing_extensions import Self

from sepnas.errors import SpecError, StorageError, VersionError

FILE_SUFFIXES = (".json", ".yaml", ".yml")
"""What tells the name of a file from another name."""

MOST_FILE_BYTES = 64 << 20


def _refuse_conversions(schema: Any) -> None:
    """Make all numbers and booleans strict; pydantic's own switch would refuse lists for tuples, too."""
    if isinstance(schema, dict):
        if schema.get("type") in ("bool", "int", "float"):
            schema["strict"] = True
        schema = list(schema.values())
    for inner in schema if isinstance(schema, list) else ():
        _refuse_conversions(inner)


class Part(BaseModel):
    """A piece of a document: immutable, no unknown keys, no silent conversions between text, numbers and booleans."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        schema = handler(source)
        _refuse_conversions(schema)
        return schema

    def with_checked(self, **values: Any) -> Self:
        """A copy with other values that are known to fit, as ``model_copy(update=values)`` in a third of the time.

        What a search makes for every candidate is worth it.
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

    format: str = ""
    version: int = 1

    def model_post_init(self, context: Any, /) -> None:
        # `format` and `version` are always written, and never need to be typed in Python.
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
        """Validate plain data; ``where`` (a file's name) opens every message."""
        if not isinstance(data, dict):
            raise SpecError(f"{where}: a {cls.format_name} document is a mapping of fields, got {short(data)}")
        _check_head(cls, data, where)
        try:
            return cls.model_validate(data, context={"where": where})
        except ValidationError as error:
            raise SpecError(explain(cls, error, where, data)) from None

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read a YAML or JSON file; raises :class:`SpecError` that names file, field, value and what is allowed."""
        return cls.from_data(read_data(path), str(path))

    def to_data(self) -> dict[str, Any]:
        return self.model_dump(mode="json")

    def dumps(self) -> str:
        return json.dumps(self.to_data(), indent=2) + "\n"

    def save(self, path: str | os.PathLike[str], comment: str = "") -> Path:
        """Write beside the target, then rename over it. ``comment`` opens a YAML file; JSON has no place for one."""
        path = Path(path)
        if path.suffix in (".yaml", ".yml"):
            head = "".join(f"# {line}".rstrip() + "\n" for line in comment.splitlines())
            return write_text(path, head + yaml.dump(self.to_data(), Dumper=_YamlDumper, sort_keys=False))
        return write_text(path, self.dumps())


class _YamlLoader(yaml.SafeLoader):
    """Refuses what a few lines can make enormous: numbers that cannot be printed, merges of merges of merges."""

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        number: int = super().construct_yaml_int(node)
        str(number)  # ValueError where there are too many digits, as in JSON
        return number

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        super().flatten_mapping(node)
        if len(node.value) > _MOST_MERGED:
            raise yaml.constructor.ConstructorError(None, None, "merges too many keys", node.start_mark)


_MOST_MERGED = 100_000
_SURROGATE = re.compile(r"\\(u|U0000)[dD][89a-fA-F]")
_YamlLoader.add_constructor("tag:yaml.org,2002:int", _YamlLoader.construct_yaml_int)


class _YamlDumper(yaml.SafeDumper):
    pass


# PyYAML takes 5e9 for a text, JSON and YAML 1.2 for a number
_EXPONENT = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+\Z")
yaml.add_implicit_resolver("tag:yaml.org,2002:float", _EXPONENT, list("-+.0123456789"), _YamlLoader, _YamlDumper)


def read_data(path: str | os.PathLike[str]) -> Any:
    """The plain data of a YAML or JSON file; :class:`SpecError` when it is not there or no such file."""
    path = Path(path)
    kind = "JSON" if path.suffix == ".json" else "YAML"
    text = _read_text(path)
    try:
        data = json.loads(text) if kind == "JSON" else yaml.load(text, _YamlLoader)
        if _SURROGATE.search(text):  # perhaps one of a pair, as JSON has them; one alone is no text
            json.dumps(data, ensure_ascii=False, skipkeys=True, default=str).encode()
        return data
    except RecursionError:
        raise SpecError(f"{path}: not valid {kind}: nested too deeply") from None
    # numbers of thousands of digits, dates that do not exist, tags without a value
    except (ValueError, LookupError, AttributeError, yaml.YAMLError) as error:
        raise SpecError(f"{path}: not valid {kind}: {error}") from None


def _read_text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(MOST_FILE_BYTES + 1)
        if len(data) <= MOST_FILE_BYTES:
            return data.decode("utf-8-sig")
    except FileNotFoundError:
        raise SpecError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"{path}: cannot be read as text: {getattr(error, 'strerror', error)}") from None
    raise SpecError(f"{path}: is larger than {MOST_FILE_BYTES >> 20} MiB, which no description is")


def refuse_folder(path: str | os.PathLike[str]) -> None:
    """Raise :class:`StorageError` where a file cannot be written because a folder has its name."""
    with suppress(OSError):  # writing will tell
        if Path(path).is_dir():
            raise StorageError(f"'{path}' is a folder; name the file to write")


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary path beside ``path`` to write to, and rename it over ``path`` at the end.

    When the block fails the temporary file is removed and ``path`` is as it was.
    Errors of the operating system come out as :class:`StorageError`.
    """
    path = Path(path)
    refuse_folder(path)
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
        os.close(handle)
        temporary = Path(name)
        temporary.chmod(0o644)
        yield temporary
        temporary.replace(path)
    except OSError as error:
        raise StorageError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        if temporary is not None and temporary.exists():
            temporary.unlink()


def write_text(path: str | os.PathLike[str], text: str) -> Path:
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return Path(path)


def write_bytes(path: str | os.PathLike[str], data: bytes, mode: int = 0o644) -> Path:
    with replacing(path) as temporary:
        temporary.chmod(mode)
        temporary.write_bytes(data)
    return Path(path)


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
    """One line for each mistake in ``data``."""
    found: dict[_Place, list[ErrorDetails]] = {}
    for problem in error.errors():
        found.setdefault(_place(problem, data), []).append(problem)
    # what is wrong only because a part of it is wrong goes without saying
    wholes = {place[:length] for place in found for length in range(len(place))}
    return "\n".join(f"{where}: {_explain_place(cls, place, found[place])}" for place in found if place not in wholes)


_Place = tuple[int | str, ...]


def _place(problem: ErrorDetails, data: Any) -> _Place:
    """Where in ``data`` the problem is: pydantic also names the members of unions on the way."""
    place = []
    for depth, key in enumerate(problem["loc"], start=1):
        try:
            data = data[key]
        except (LookupError, TypeError):
            if problem["type"] != "missing" or depth < len(problem["loc"]):
                continue
        place.append(key)
    return tuple(place)


def _explain_place(cls: type[BaseModel], place: _Place, problems: Sequence[ErrorDetails]) -> str:
    field = f"field `{'.'.join(map(str, place))}`: " if place else ""
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
"""pydantic's words, and those of a person who writes a file."""


def _message(problem: ErrorDetails) -> str:
    """pydantic's message in the words of the file, not of Python."""
    message = problem["msg"]
    for theirs, ours in _WORDS:
        message = re.sub(theirs, ours, message)
    return message


def _fields_at(cls: type[BaseModel], place: _Place) -> list[str]:
    """The names of the fields of the model that stands at ``place`` below ``cls``."""
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


_SHORT = reprlib.Repr()  # stops early where a value is large or deep
_SHORT.maxstring = _SHORT.maxother = 200


def short(value: Any) -> str:
    text = _SHORT.repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
