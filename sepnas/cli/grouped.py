"""Option groups: a verb takes frozen dataclasses, and typer sees each of their fields as an option of its own.

    @dataclass(frozen=True)
    class ComputeOptions:
        device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto"
        threads: Annotated[int | None, typer.Option(min=1)] = None

    @grouped
    def train(out: Out, compute: ComputeOptions) -> None: ...      # sepnas train --out runs/a --threads 2

A group may hold other groups. `--help` lists the fields where the group stands in the signature.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import wraps
from typing import Any, get_type_hints


def grouped(verb: Callable[..., None]) -> Callable[..., None]:
    """The verb with its option groups flattened into parameters that typer can read.

    Raises :class:`TypeError` when two options share a name.
    """
    flat = list(_flattened(verb))
    names = [parameter.name for parameter in flat]
    if twice := {name for name in names if names.count(name) > 1}:
        raise TypeError(f"{verb.__name__}: options defined twice: {', '.join(sorted(twice))}")
    kinds = _parameter_types(verb)

    @wraps(verb)
    def run(**options: Any) -> None:
        verb(**{name: _taken(name, kind, options) for name, kind in kinds.items()})

    # Keyword-only, so that an option with a default may stand before one without.
    signature = inspect.Signature([parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in flat])
    run.__signature__ = signature  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in flat} | {"return": None}
    return run


def _flattened(verb: Callable[..., None]) -> Iterator[inspect.Parameter]:
    kinds = _parameter_types(verb)
    for parameter in inspect.signature(verb).parameters.values():
        kind = kinds[parameter.name]
        if is_dataclass(kind):
            yield from _options_of(kind)
        else:
            yield parameter.replace(annotation=kind)


def _options_of(group: Any) -> Iterator[inspect.Parameter]:
    kinds = get_type_hints(group, include_extras=True)
    for field in fields(group):
        kind = kinds[field.name]
        if is_dataclass(kind):
            yield from _options_of(kind)
        else:
            default = inspect.Parameter.empty if field.default is MISSING else field.default
            yield inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)


def _taken(name: str, kind: Any, options: Mapping[str, Any]) -> Any:
    """The value of one parameter of a verb: an option's, or a group built from the options of its fields."""
    if not is_dataclass(kind):
        return options[name]
    kinds = get_type_hints(kind)
    group: Callable[..., Any] = kind  # type: ignore[assignment]
    return group(**{field.name: _taken(field.name, kinds[field.name], options) for field in fields(kind)})


def _parameter_types(verb: Callable[..., None]) -> dict[str, Any]:
    kinds = get_type_hints(verb, include_extras=True)
    kinds.pop("return", None)
    return kinds
