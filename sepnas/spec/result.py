"""Result files: the measures of an experiment, with its command, commit and machine.

Only the command writes them. They begin with ``schema``, a number, instead of the ``format`` and ``version`` of the
other documents.
"""

from __future__ import annotations

import json
import math
import operator
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import (
    AwareDatetime,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    JsonValue,
    PlainSerializer,
    ValidationError,
)
from pydantic import model_validator as validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema
from typing_extensions import Self

from sepnas.errors import SpecError, VersionError
from sepnas.spec.document import Part, explain, few, read_data, repeated, short, write_text

_COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    "==": operator.eq,
    ">": operator.gt,
    "<": operator.lt,
}
_GOAL = re.compile(r"\s*(>=|<=|==|>|<)\s*(\S+)\s*")


def goal_met(goal: str, value: float) -> bool:
    """Whether ``value`` satisfies a goal such as ``>= 0.7``, ``<= 180`` or ``== 0``."""
    found = _GOAL.fullmatch(goal)
    bound = _number(found[2]) if found else None
    if found is None or bound is None:
        raise SpecError(f"goal {goal!r}: expected one of {', '.join(_COMPARISONS)} and a number, such as '>= 0.7'")
    return _COMPARISONS[found[1]](value, bound)


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _whole_if_whole(value: float) -> int | float:
    return int(value) if value.is_integer() and abs(value) < 2**53 else value


# Byte counts are written as 5505024, not as 5505024.0.
Value = Annotated[float, PlainSerializer(_whole_if_whole)]
Table = list[dict[str, JsonValue]]


class StrictPart(Part):
    """A part whose values must have the exact type: a number in quotes is refused."""

    model_config = ConfigDict(strict=True)


_StrictPart = TypeVar("_StrictPart", bound=StrictPart)


def _checked(cls: type[_StrictPart], data: dict[str, Any], where: str) -> _StrictPart:
    # Through JSON, whose strict mode accepts a list as a tuple, but refuses "3" as a number.
    try:
        checked = cls.model_validate_json(json.dumps(data))
        json.dumps(data, allow_nan=False)  # pydantic accepts NaN in the cells of tables
    except ValidationError as error:
        raise SpecError(explain(cls, error, where, data)) from None
    except TypeError as error:
        raise SpecError(f"{where}: cannot be written as JSON: {error}; use plain numbers and text") from None
    except ValueError:
        raise SpecError(f"{where}: a number is not finite; write null for a missing number") from None
    return checked


class MachineFacts(StrictPart):
    """The machine of an experiment; ``cores`` counts those that the process may use."""

    cpu: str
    cores: Annotated[int, Field(gt=0)]
    gpu: str | None = None
    torch: str | None = None
    python: str


class Measure(StrictPart):
    """One measured number; ``low`` and ``high`` are its spread over ``n`` seeds or repeats."""

    name: Annotated[str, Field(min_length=1)]
    value: Value
    unit: str = ""
    low: Value | None = None
    high: Value | None = None
    n: Annotated[int, Field(gt=0)] = 1
    goal: str | None = None
    met: bool | None = None

    @validator(mode="after")
    def _consistent(self) -> Self:
        if self.low is not None and self.high is not None and self.low > self.high:
            raise ValueError(f"`low <= high` must hold, but got (low={self.low:g}, high={self.high:g})")
        try:
            met = None if self.goal is None else goal_met(self.goal, self.value)
        except SpecError as error:
            raise ValueError(str(error)) from None
        if self.met != met:
            said, true = json.dumps(self.met), json.dumps(met)
            raise ValueError(f"`met` is {said}, but goal {self.goal!r} with value {self.value:g} makes it {true}")
        return self

    @classmethod
    def of(cls, name: str, value: float, **others: Any) -> Measure:
        """A measure from its fields, with ``met`` computed from ``goal``."""
        goal = others.get("goal")
        data = {"name": name, "value": value, **others, "met": None if goal is None else goal_met(goal, value)}
        return _checked(cls, data, f"measure {name!r}")


class ResultFile(StrictPart):
    """``experiments/<slug>/result.json``."""

    current_schema: ClassVar[int] = 1

    command: Annotated[str, Field(min_length=1)]
    commit: str | None = None
    started: AwareDatetime
    duration_s: Annotated[float, Field(ge=0)]
    machine: MachineFacts
    seeds: tuple[int, ...] = ()
    measures: tuple[Measure, ...] = ()
    tables: dict[str, Table] = Field(default_factory=dict)

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        found = handler(schema)
        fields = handler.resolve_ref_schema(found)
        head = {"schema": {"type": "integer", "minimum": 1, "maximum": cls.current_schema}}
        fields["properties"] = head | fields["properties"]
        fields["required"] = [*head, *fields["required"]]
        return found

    @validator(mode="after")
    def _names_differ(self) -> Self:
        twice = sorted(repeated(measure.name for measure in self.measures))
        if twice:
            raise ValueError(f"each measure may occur once; repeated: {few(twice)}")
        return self

    @classmethod
    def from_data(cls, data: Any, where: str = "value") -> ResultFile:
        """Validate plain data; ``where`` (a file's name) begins every message."""
        if not isinstance(data, dict):
            raise SpecError(f"{where}: a result file is a mapping of fields, got {short(data)}")
        _check_schema(data.get("schema"), where)
        return _checked(cls, {key: value for key, value in data.items() if key != "schema"}, where)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> ResultFile:
        """Read a result file; raises :class:`SpecError` that names file, field and value."""
        return cls.from_data(read_data(path), str(path))

    def to_data(self) -> dict[str, Any]:
        """Plain data in the field order of the design."""
        return {"schema": self.current_schema, **self.model_dump(mode="json")}

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write beside the target, then rename over it."""
        return write_text(path, json.dumps(self.to_data(), indent=2, allow_nan=False) + "\n")


def _check_schema(schema: Any, where: str) -> None:
    current = ResultFile.current_schema
    if not isinstance(schema, int) or isinstance(schema, bool) or schema < 1:
        raise SpecError(f"{where}: field `schema`: expected a whole number from 1, got {short(schema)}")
    if schema > current:
        raise VersionError(
            f"{where}: field `schema`: this sepnas reads result files up to {current}, got {schema}; "
            "update sepnas to read it"
        )


def plain_table(name: str, rows: list[dict[str, Any]]) -> Table:
    """Check ``rows`` at once, so that a long experiment does not fail when it writes its result."""

    class Rows(StrictPart):
        rows: Table

    plain = [{key: getattr(cell, "item", lambda cell=cell: cell)() for key, cell in row.items()} for row in rows]
    return _checked(Rows, {"rows": plain}, f"table {name!r}").rows


__all__ = ["MachineFacts", "Measure", "ResultFile", "Table", "goal_met", "plain_table"]
