"""What nodes of an exported program are called, and their arguments as a graph holds them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import fx

from sepnas.errors import ImportFailedError
from sepnas.spec.document import MAX_INT, short

_NO_END = {2**63 - 1: MAX_INT, -(2**63): -MAX_INT}
"""ATen's ends of a slice that goes to the end: no tensor is as long as either."""


def arguments_of(node: fx.Node, names: Mapping[str, str]) -> tuple[dict[str, str], dict[str, Any]]:
    """The tensors of a call by role, and its other arguments that are not the default."""
    assert isinstance(node.target, torch._ops.OpOverload)
    operands: dict[str, str] = {}
    arguments: dict[str, Any] = {}
    schema = node.target._schema.arguments
    given = {argument.name: value for argument, value in zip(schema, node.args, strict=False)} | node.kwargs
    for argument in schema:
        value = given.get(argument.name, argument.default_value)
        if isinstance(value, fx.Node):
            operands[argument.name] = names[value.name]
        elif isinstance(value, list | tuple) and any(isinstance(each, fx.Node) for each in value):
            for place, each in enumerate(value):
                if isinstance(each, fx.Node):
                    operands[f"{argument.name}.{place}"] = names[each.name]
        elif value is not None and (not argument.has_default_value() or value != argument.default_value):
            arguments[argument.name] = plain(value)
    return operands, arguments


def uses_first_only(node: fx.Node) -> bool:
    return all(user.args[1] == 0 for user in node.users if getattr(user.target, "__name__", "") == "getitem")


def output_name(path: str, place: int, count: int) -> str:
    """``['out']`` is ``out``, ``.logits`` is ``logits``; places get a number."""
    words = "_".join("".join(each if each.isalnum() else " " for each in path).split())
    if not words:
        return "output"
    return words if not words[0].isdigit() else f"output_{place}" if count > 1 else "output"


def module_of(node: fx.Node) -> str:
    """The path of the module that a node comes from, in the network's own names."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    return str(stack[-1][0]).removeprefix("L['self'].") if stack else ""


def where_in(node: fx.Node) -> str:
    module = module_of(node)
    return f" in module '{module}'" if module else ""


def name_of(target: Any) -> str:
    return getattr(target, "__name__", None) or str(target)


def dtype_name(dtype: torch.dtype) -> Any:
    return str(dtype).removeprefix("torch.")


def plain(value: Any) -> Any:
    """An argument as a graph holds it; :class:`ImportFailedError` for what none can hold."""
    if isinstance(value, torch.dtype):
        return str(value)
    if isinstance(value, torch.device | torch.layout | torch.memory_format):
        return str(value)
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, list | tuple):
        return tuple(plain(each) for each in value)
    if type(value) is int and value in _NO_END:
        return _NO_END[value]
    if isinstance(value, bool | float | str) or (isinstance(value, int) and abs(value) <= MAX_INT):
        return value
    raise ImportFailedError(f"has an argument {short(value)}, which a graph cannot hold")
