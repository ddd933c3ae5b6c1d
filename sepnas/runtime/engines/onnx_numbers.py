"""Whole numbers that an ``.onnx`` graph works out from the sizes of its tensors, such as the number of samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod

from sepnas.deployment.engines.graph import Node, ShapeOf
from sepnas.runtime.engines.onnx_pieces import Numbers, held_numbers

_Found = tuple[list[int], ShapeOf]
"""The numbers, and the shape of the tensor that holds them."""


def _sizes(node: Node, inputs: Sequence[ShapeOf], numbers: Numbers) -> _Found:
    (start, *_), (end, *_) = node.numbers.get("start") or [0], node.numbers.get("end") or [len(inputs[0])]
    found = [*inputs[0][start:end]]
    return found, (len(found),)


def _slice(node: Node, inputs: Sequence[ShapeOf], numbers: Numbers) -> _Found:
    starts, ends = held_numbers(node, numbers, 1), held_numbers(node, numbers, 2)
    axes, steps = held_numbers(node, numbers, 3, [0]), held_numbers(node, numbers, 4, [1])
    if axes != [0] or len(starts) != 1 or len(ends) != 1 or len(steps) != 1 or steps[0] < 1:
        raise ValueError("has an operator Slice of sizes along other axes than the first")
    found = held_numbers(node, numbers, 0)[starts[0] : ends[0] : steps[0]]
    return _list(node, found, inputs[:1])


def _concat(node: Node, inputs: Sequence[ShapeOf], numbers: Numbers) -> _Found:
    return _list(
        node, [number for place in range(len(inputs)) for number in held_numbers(node, numbers, place)], inputs
    )


def _gather(node: Node, inputs: Sequence[ShapeOf], numbers: Numbers) -> _Found:
    held, places = held_numbers(node, numbers, 0), held_numbers(node, numbers, 1)
    if len(inputs[0]) != 1 or any(not -len(held) <= place < len(held) for place in places):
        raise ValueError(f"has an operator Gather of places {places} of {len(held)}"[:200])
    return [held[place] for place in places], inputs[1]


def _list(node: Node, found: list[int], inputs: Sequence[ShapeOf]) -> _Found:
    """Numbers of lists, in a list."""
    if any(len(shape) != 1 for shape in inputs):
        raise ValueError(f"has an operator {node.operator} of sizes of shapes {[*inputs]}"[:200])
    return found, (len(found),)


def _same(node: Node, inputs: Sequence[ShapeOf], numbers: Numbers) -> _Found:
    return held_numbers(node, numbers, 0), inputs[0]


def _cast(node: Node, inputs: Sequence[ShapeOf], numbers: Numbers) -> _Found:
    """To a type that holds all of them, so that they are the same afterwards."""
    found, kind = held_numbers(node, numbers, 0), node.numbers.get("to", [])
    if len(kind) != 1 or any(abs(number) > _EXACT.get(kind[0], -1) for number in found):
        raise ValueError(f"has an operator {node.operator} of sizes {found} to type {kind}"[:200])
    return found, inputs[0]


def _reshaped(node: Node, inputs: Sequence[ShapeOf], numbers: Numbers) -> _Found:
    """As one list, or as a single number."""
    found, sizes = held_numbers(node, numbers, 0), held_numbers(node, numbers, 1)
    if sizes not in ([-1], [len(found)], []) or (not sizes and len(found) != 1):
        raise ValueError(f"has an operator {node.operator} of {len(found)} sizes to {sizes}"[:200])
    return found, (len(found),) if sizes else ()


def _as_list(node: Node, inputs: Sequence[ShapeOf], numbers: Numbers) -> _Found:
    if inputs[0] or held_numbers(node, numbers, 1) not in ([0], [-1]):
        raise ValueError(f"has an operator {node.operator} of sizes of shape {inputs[0]}")
    return held_numbers(node, numbers, 0), (1,)


def _as_number(node: Node, inputs: Sequence[ShapeOf], numbers: Numbers) -> _Found:
    if inputs[0] != (1,) or held_numbers(node, numbers, 1, [0]) not in ([0], [-1]):
        raise ValueError(f"has an operator {node.operator} of sizes of shape {inputs[0]}")
    return held_numbers(node, numbers, 0), ()


_EXACT = {1: 1 << 24, 6: (1 << 31) - 1, 7: (1 << 63) - 1}
"""The largest whole number that each type holds exactly, as well as all below it: fp32, int32 and int64."""


_FOLDED: dict[str, Callable[[Node, Sequence[ShapeOf], Numbers], _Found]] = {
    "Cast": _cast,
    "Concat": _concat,
    "Gather": _gather,
    "Identity": _same,
    "Reshape": _reshaped,
    "Slice": _slice,
    "Squeeze": _as_number,
    "Unsqueeze": _as_list,
}
SIZES = "Shape"
"""The operator that gives the sizes of a tensor as numbers."""
_MAX_NUMBERS = 64


def worked_out(node: Node, inputs: Sequence[ShapeOf], numbers: Numbers) -> _Found | None:
    """The numbers that a node makes of sizes; None if it computes on tensors. Raises :class:`ValueError`."""
    if len(node.outputs) != 1 or not inputs:
        return None
    if node.operator == SIZES:
        return _sizes(node, inputs, numbers)
    takes_lists = numbers[0] is not None and len(inputs[0]) < 2
    if node.operator not in _FOLDED or not takes_lists:
        return None
    found, shape = _FOLDED[node.operator](node, inputs, numbers)
    if len(found) > _MAX_NUMBERS or prod(shape) != len(found):
        raise ValueError(f"has an operator {node.operator} that makes {len(found)} numbers of shape {shape}")
    return found, shape
