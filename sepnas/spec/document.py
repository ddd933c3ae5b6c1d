"""Files that people and programs write: read with every mistake named, written whole or not at all.

Each document carries ``format`` and ``version``. YAML and JSON are both read; JSON is written unless the
name ends in ``.yaml`` or ``.yml``.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError
from typing_extensions import Self

from sepnas.errors import SpecError, StorageError, VersionError


class Part(BaseModel):
    """A piece of a document: immutable, no unknown keys, no silent conversions of text to numbers."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


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
    def from_data(cls, data: Any, where: str = "value") -> Self:
        """Validate plain data; ``where`` (a file's name) opens every message."""
        if not isinstance(data, dict):
            raise SpecError(f"{where}: a {cls.format_name} document is a mapping of fields, got {short(data)}")
        _check_head(cls, data, where)
        try:
            return cls.model_validate(data, context={"where": where})
        except ValidationError as error:
            raise SpecError(explain(cls, error, where)) from None

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read a YAML or JSON file; raises :class:`SpecError` that names file, field, value and what is allowed."""
        return cls.from_data(read_data(path), str(path))

    def to_data(self) -> dict[str, Any]:
        return self.model_dump(mode="json")

    def dumps(self) -> str:
        return json.dumps(self.to_data(), indent=2) + "\n"

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write beside the target, then rename over it."""
        path = Path(path)
        if path.suffix in (".yaml", ".yml"):
            return write_text(path, yaml.safe_dump(self.to_data(), sort_keys=False))
        return write_text(path, self.dumps())


def read_data(path: str | os.PathLike[str]) -> Any:
    """The plain data of a YAML or JSON file."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise SpecError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"{path}: cannot be read as text: {error}") from None
    try:
        return json.loads(text) if Path(path).suffix == ".json" else yaml.safe_load(text)
    except (json.JSONDecodeError, yaml.YAMLError) as error:
        kind = "JSON" if Path(path).suffix == ".json" else "YAML"
        raise SpecError(f"{path}: not valid {kind}: {error}") from None


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary path beside ``path`` to write to, and rename it over ``path`` at the end.

    When the block fails the temporary file is removed and ``path`` is as it was.
    Errors of the operating system come out as :class:`StorageError`.
    """
    path = Path(path)
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


def explain(cls: type[BaseModel], error: ValidationError, where: str) -> str:
    lines = []
    for problem in error.errors():
        place = ".".join(str(p) for p in problem["loc"]) or "(the whole document)"
        if problem["type"] == "extra_forbidden":
            allowed = ", ".join(_fields_at(cls, problem["loc"][:-1])) or "none here"
            lines.append(f"{where}: field `{place}`: unknown key; allowed: {allowed}")
            continue
        message = problem["msg"].removeprefix("Value error, ")
        shown = "" if problem["type"] in ("missing", "value_error") else f", got {short(problem['input'])}"
        lines.append(f"{where}: field `{place}`: {message}{shown}")
    return "\n".join(lines)


def _fields_at(cls: type[BaseModel], place: tuple[int | str, ...]) -> list[str]:
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


def short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
