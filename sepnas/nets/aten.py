"""Runs the ATen calls of an operator's kind: the only place where their names become torch's operators."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from sepnas.errors import SpecError
from sepnas.plan.kinds.kind import AtenCall

_OVERLOAD = re.compile(r"[a-z_][A-Za-z0-9_]*\.[A-Za-z][A-Za-z0-9_]*", re.ASCII)
_NOT_FINITE = {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}


@lru_cache(maxsize=1024)
def overload(name: str) -> Any:
    """ATen's operator of a name such as ``conv2d.default``; :class:`SpecError` if this torch has none."""
    packet, _, which = name.partition(".")
    try:
        if _OVERLOAD.fullmatch(name):
            return getattr(getattr(torch.ops.aten, packet), which)
    except (AttributeError, RuntimeError):
        pass
    raise SpecError(f"this torch ({torch.__version__}) has no operator aten.{name}")


def run_calls(calls: Sequence[AtenCall], tensors: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
    """The results of the last of the calls, each on the result of the one before; ``tensors`` are by role."""
    found: tuple[Tensor, ...] = ()
    for call in calls:
        found = _run(call, {**tensors, **({"": found[0]} if found else {})})
    return found


def _run(call: AtenCall, tensors: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
    operator = overload(call.overload)
    given = {name: _tensors(roles, tensors) for name, roles in call.operands.items()}
    positional, keywords = _bound(operator, given, call.arguments)
    result = operator(*positional, **keywords)
    return tuple(result) if isinstance(result, tuple | list) else (result,)


def _tensors(roles: str | tuple[str | None, ...], tensors: Mapping[str, Tensor]) -> Any:
    return tensors[roles] if isinstance(roles, str) else [None if role is None else tensors[role] for role in roles]


def _bound(operator: Any, given: Mapping[str, Any], arguments: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """All arguments as the schema has them: no tensor is passed by the keyword ``self``."""
    positional: list[Any] = []
    keywords: dict[str, Any] = {}
    for argument in operator._schema.arguments:
        value = given.get(argument.name, _value(arguments.get(argument.name, argument.default_value)))
        if argument.kwarg_only:
            keywords[argument.name] = value
        else:
            positional.append(value)
    return positional, keywords


def _value(value: Any) -> Any:
    """An attribute as torch takes it: data types and numbers that are not finite are texts in a graph."""
    if isinstance(value, str) and value.startswith("torch."):
        found = getattr(torch, value.removeprefix("torch."), None)
        if not isinstance(found, torch.dtype):
            raise SpecError(f"{value!r} is no data type of torch")
        return found
    if isinstance(value, str):
        return _NOT_FINITE.get(value, value)
    return [_value(each) for each in value] if isinstance(value, list | tuple) else value
