"""The shapes of ``.onnx`` operators that take, join, surround or regroup parts of tensors.

What they make depends on whole numbers that the graph holds as initializers, or works out from sizes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod

from sepnas.deployment.engines.graph import Node, ShapeOf

Numbers = Sequence[list[int] | None]
"""For each input the numbers that it holds; None for a tensor of any other kind."""


def held_numbers(node: Node, numbers: Numbers, place: int, default: list[int] | None = None) -> list[int]:
    """The whole numbers that an input holds, or the default of an input that is left out; :class:`ValueError`."""
    given = place < len(node.inputs) and bool(node.inputs[place])
    found = numbers[place] if given else default
    if found is None:
        raise ValueError(f"has an operator {node.operator} whose input {place} is not held as whole numbers")
    return found


def _one_output(node: Node, inputs: Sequence[ShapeOf], least: int, most: int) -> None:
    if not least <= len(inputs) <= most or len(node.outputs) != 1 or len(inputs[0]) < 2:
        raise ValueError(f"has an operator {node.operator} of {len(inputs)} inputs or {len(node.outputs)} outputs")


def _pad(node: Node, inputs: list[ShapeOf], numbers: Numbers) -> ShapeOf:
    """By a constant, on both sides of all axes but the first."""
    _one_output(node, inputs, 2, 3)
    pads, count = held_numbers(node, numbers, 1), len(inputs[0])
    if len(pads) != 2 * count or min(pads) < 0 or pads[0] or pads[count]:
        raise ValueError(f"has an operator Pad by {pads} of a tensor of shape {inputs[0]}"[:200])
    if len(inputs) > 2 and node.inputs[2] and inputs[2] != ():
        raise ValueError(f"has an operator Pad by a value of shape {inputs[2]}")
    return tuple(size + pads[axis] + pads[axis + count] for axis, size in enumerate(inputs[0]))


def _slice(node: Node, inputs: list[ShapeOf], numbers: Numbers) -> ShapeOf:
    """Along all axes but the first, also backward."""
    _one_output(node, inputs, 3, 5)
    starts, ends = held_numbers(node, numbers, 1), held_numbers(node, numbers, 2)
    axes = held_numbers(node, numbers, 3, [*range(len(starts))])
    steps = held_numbers(node, numbers, 4, [1] * len(starts))
    dims = list(inputs[0])
    if not len(starts) == len(ends) == len(axes) == len(steps) or len({*axes}) < len(axes):
        raise ValueError("has an operator Slice whose axes and borders are not as many")
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        if not 0 < axis < len(dims) or step == 0:
            raise ValueError(f"has an operator Slice along axis {axis} by steps of {step}")
        dims[axis] = len(range(dims[axis])[start:end:step])
    if min(dims) < 1:
        raise ValueError(f"has an operator Slice that leaves nothing of a tensor of shape {inputs[0]}")
    return tuple(dims)


def _concat(node: Node, inputs: list[ShapeOf], numbers: Numbers) -> ShapeOf:
    """Along any axis but the first."""
    _one_output(node, inputs, 1, 4096)
    (axis,), first = node.numbers.get("axis", [0]), inputs[0]
    axis = axis + len(first) if axis < 0 else axis
    fits = all(
        len(each) == len(first) and each[:axis] + each[axis + 1 :] == first[:axis] + first[axis + 1 :]
        for each in inputs
    )
    if not 0 < axis < len(first) or not fits:
        raise ValueError(f"has an operator Concat along axis {axis} of tensors that do not fit: {inputs}"[:200])
    return (*first[:axis], sum(each[axis] for each in inputs), *first[axis + 1 :])


def _reshape(node: Node, inputs: list[ShapeOf], numbers: Numbers) -> ShapeOf:
    """To sizes of which one may be -1 (what is left), and some 0 (those of the input)."""
    if len(inputs) != 2 or len(node.outputs) != 1:
        raise ValueError(f"has an operator {node.operator} of {len(inputs)} inputs; it takes 2")
    shape, sizes = inputs[0], held_numbers(node, numbers, 1)
    keeps = not any(node.numbers.get("allowzero", []))
    made = [shape[at] if each == 0 and keeps and at < len(shape) else each for at, each in enumerate(sizes)]
    known = prod(each for each in made if each != -1)
    made = [prod(shape) // known if each == -1 and known > 0 else each for each in made]
    if sizes.count(-1) > 1 or min(made, default=1) < 1 or prod(made) != prod(shape):
        raise ValueError(f"has an operator Reshape of a tensor of shape {shape} to {sizes}"[:200])
    return tuple(made)


NUMBERED: dict[str, Callable[[Node, list[ShapeOf], Numbers], ShapeOf]] = {
    "Concat": _concat,
    "Pad": _pad,
    "Reshape": _reshape,
    "Slice": _slice,
}
"""What parts of traced networks are exported to besides layers."""
