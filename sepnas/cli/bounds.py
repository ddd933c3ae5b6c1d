"""The options that bound objectives: ``--bound`` for all, and a short form for each objective that has one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, make_dataclass
from typing import Annotated, Any, TypeVar

import typer

from sepnas.errors import SpecError
from sepnas.objectives import OBJECTIVES, PLAN_OBJECTIVES, Bound, Bounds, Objective

_Group = TypeVar("_Group")


def _with_options(group: type[_Group], objectives: Mapping[str, Objective]) -> type[_Group]:
    """The option group with a field for each option: typer sees dataclasses only."""
    names = ", ".join(f"{name}{known.comparison}" for name, known in objectives.items())
    every = typer.Option(
        "--bound", parser=_bound_reader(objectives), metavar="BOUND",
        help="A bound on any objective, such as 'latency_s<=20ms'; again for each. Quote it: an unquoted < makes the "
        f"shell read a file. One of {names} and a value.",
    )  # fmt: skip
    options: list[tuple[str, Any, Any]] = [("bound", Annotated[list[Bound] | None, every], None)]
    for objective in objectives.values():
        if objective.short:
            kind, quantity = "min" if objective.maximised else "max", objective.quantity
            option = typer.Option(
                f"--{kind}-{objective.short}", parser=_reader(objective), metavar=quantity.metavar,
                help=f"{objective.bound_help}: {quantity.examples}.",
            )  # fmt: skip
            options.append((f"{kind}_{objective.short.replace('-', '_')}", Annotated[Bound | None, option], None))
    return make_dataclass(group.__name__, options, bases=(group,), frozen=True, namespace={"__doc__": group.__doc__})


def _bound_reader(objectives: Mapping[str, Objective]) -> Callable[[str | Bound], Bound]:
    def read(text: str | Bound) -> Bound:
        if isinstance(text, Bound):  # typer parses a default once more
            return text
        try:
            return Bound.parse(text, objectives)
        except SpecError as error:
            raise typer.BadParameter(str(error)) from None

    return read


def _reader(objective: Objective) -> Callable[[str | Bound], Bound]:
    """The parser of an objective's short option."""

    def read(text: str | Bound) -> Bound:
        if isinstance(text, Bound):
            return text
        try:
            return Bound(objective, objective.quantity.parse(text))
        except ValueError as error:
            raise typer.BadParameter(str(error)) from None

    return read


def _options_for(objectives: Mapping[str, Objective]) -> Callable[[type[_Group]], type[_Group]]:
    return lambda group: _with_options(group, objectives)


class _Bounded:
    def bounds(self) -> Bounds:
        """All that were given, those of the short forms in the order of the objectives."""
        every, *shorts = (getattr(self, field.name) for field in fields(self))  # type: ignore[arg-type]
        return Bounds((*(bound for bound in shorts if bound is not None), *(every or ())))


@_options_for(OBJECTIVES)
class BoundOptions(_Bounded):
    """``--bound`` and its short forms for candidates; a group for :func:`sepnas.cli.grouped.grouped`."""


@_options_for(PLAN_OBJECTIVES)
class PlanBoundOptions(_Bounded):
    """``--bound`` and its short forms for plans, which have a throughput and no accuracy of their own."""
