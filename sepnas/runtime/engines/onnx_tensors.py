"""The shapes of ``.onnx`` operators that networks other than convolutional classifiers consist of.

Products of matrices, norms, softmax, reductions, comparisons, and operators that turn axes. Functions are as those of
:mod:`sepnas.runtime.engines.onnx_shapes` and :mod:`sepnas.runtime.engines.onnx_pieces`. Samples need not be axis 0
between operators: a graph is checked for one sample and for many (:mod:`sepnas.runtime.engines.onnx_check`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sepnas.deployment.engines.graph import Node, ShapeOf
from sepnas.runtime.engines.onnx_pieces import NUMBERED, Numbers, held_numbers

_CASTS = (1, 6, 7, 9)
"""ONNX's numbers of fp32, int32, int64 and truth values."""


def _count(node: Node, inputs: Sequence[ShapeOf], least: int, most: int) -> None:
    if not least <= len(inputs) <= most or not all(node.inputs[:least]) or len(node.outputs) != 1:
        raise ValueError(f"has an operator {node.operator} of {len(inputs)} inputs; it takes {least}..{most}")


def _one(node: Node, inputs: list[ShapeOf]) -> ShapeOf:
    _count(node, inputs, 1, 1)
    return inputs[0]


def _front(node: Node, axis: int, rank: int) -> int:
    if not -rank <= axis < rank:
        raise ValueError(f"has an operator {node.operator} along axis {axis} of {rank}")
    return axis % rank


def _axis(node: Node, rank: int, default: int) -> int:
    (axis,) = node.numbers.get("axis") or [default]
    return _front(node, axis, rank)


def _broadcast(node: Node, inputs: Sequence[ShapeOf]) -> ShapeOf:
    rank = max(map(len, inputs))
    padded = [(1,) * (rank - len(shape)) + tuple(shape) for shape in inputs]
    made = tuple(max(sizes) for sizes in zip(*padded, strict=True))
    if any(size not in (1, total) for shape in padded for size, total in zip(shape, made, strict=True)):
        raise ValueError(f"has an operator {node.operator} of tensors of shapes {inputs}"[:200])
    return made


def _together(least: int, most: int) -> Callable[[Node, list[ShapeOf]], ShapeOf]:
    def shape(node: Node, inputs: list[ShapeOf]) -> ShapeOf:
        _count(node, inputs, least, most)
        return _broadcast(node, inputs)

    return shape


def _cast(node: Node, inputs: list[ShapeOf]) -> ShapeOf:
    if not {*node.numbers.get("to", [0])} <= {*_CASTS}:
        raise ValueError(f"has an operator {node.operator} to another type than {_CASTS}")
    return _one(node, inputs)


def _along_axis(node: Node, inputs: list[ShapeOf]) -> ShapeOf:
    _axis(node, len(_one(node, inputs)), -1)
    return inputs[0]


def _matmul(node: Node, inputs: list[ShapeOf]) -> ShapeOf:
    _count(node, inputs, 2, 2)
    one, other = inputs
    if min(len(one), len(other)) < 2 or one[-1] != other[-2]:
        raise ValueError(f"has an operator {node.operator} of tensors of shapes {one} and {other}")
    return (
        *_broadcast(node, [one[:-2] or (1,), other[:-2] or (1,)])[: max(len(one), len(other)) - 2],
        one[-2],
        other[-1],
    )


def _transpose(node: Node, inputs: list[ShapeOf]) -> ShapeOf:
    shape = _one(node, inputs)
    order = node.numbers.get("perm", [*range(len(shape))][::-1])
    if sorted(order) != [*range(len(shape))]:
        raise ValueError(f"has an operator {node.operator} of a tensor of shape {shape} by {order}"[:200])
    return tuple(shape[axis] for axis in order)


def _layer_norm(node: Node, inputs: list[ShapeOf]) -> ShapeOf:
    _count(node, inputs, 2, 3)
    axis, shape = _axis(node, len(inputs[0]), -1), inputs[0]
    if any(each != shape[axis:] for each in inputs[1:]):
        raise ValueError(f"has an operator {node.operator} on a tensor of shape {shape} whose scale is {inputs[1]}")
    return shape


def _instance_norm(node: Node, inputs: list[ShapeOf]) -> ShapeOf:
    _count(node, inputs, 3, 3)
    if len(inputs[0]) < 3 or any(each != inputs[0][1:2] for each in inputs[1:]):
        raise ValueError(f"has an operator {node.operator} on a tensor of shape {inputs[0]} whose scale is {inputs[1]}")
    return inputs[0]


def _group_norm(node: Node, inputs: list[ShapeOf]) -> ShapeOf:
    groups = node.numbers.get("num_groups", [0])
    if len(groups) != 1 or groups[0] < 1 or inputs[0][1] % groups[0]:
        raise ValueError(f"has an operator {node.operator} of {groups} groups of {inputs[0]}"[:200])
    return _instance_norm(node, inputs)


def _blocks(node: Node, inputs: list[ShapeOf]) -> ShapeOf:
    shape = _one(node, inputs)
    (size,) = node.numbers.get("blocksize") or [0]
    if len(shape) != 4 or size < 1:
        raise ValueError(f"has an operator {node.operator} by {size} of a tensor of shape {shape}")
    batch, channels, height, width = shape
    if node.operator == "DepthToSpace" and not channels % size**2:
        return batch, channels // size**2, height * size, width * size
    if node.operator == "SpaceToDepth" and not height % size and not width % size:
        return batch, channels * size**2, height // size, width // size
    raise ValueError(f"has an operator {node.operator} by {size} of a tensor of shape {shape}")


def _reduce(node: Node, inputs: list[ShapeOf], numbers: Numbers) -> ShapeOf:
    _count(node, inputs, 1, 2)
    shape, rank = inputs[0], len(inputs[0])
    if any(node.numbers.get("noop_with_empty_axes", [])):
        raise ValueError(f"has an operator {node.operator} that may do nothing")
    axes = {_front(node, axis, rank) for axis in held_numbers(node, numbers, 1, [])} or {*range(rank)}
    keeps = any(node.numbers.get("keepdims", [1]))
    return tuple(1 if axis in axes else size for axis, size in enumerate(shape) if keeps or axis not in axes)


def _unsqueeze(node: Node, inputs: list[ShapeOf], numbers: Numbers) -> ShapeOf:
    _count(node, inputs, 2, 2)
    given = held_numbers(node, numbers, 1)
    rank = len(inputs[0]) + len(given)
    axes, left = {_front(node, axis, rank) for axis in given}, list(inputs[0])
    if len(axes) != len(given):
        raise ValueError(f"has an operator {node.operator} with one axis twice")
    return tuple(1 if axis in axes else left.pop(0) for axis in range(rank))


def _squeeze(node: Node, inputs: list[ShapeOf], numbers: Numbers) -> ShapeOf:
    _count(node, inputs, 2, 2)
    axes = {_front(node, axis, len(inputs[0])) for axis in held_numbers(node, numbers, 1)}
    if any(inputs[0][axis] != 1 for axis in axes):
        raise ValueError(f"has an operator {node.operator} of a tensor of shape {inputs[0]} along {sorted(axes)}")
    return tuple(size for axis, size in enumerate(inputs[0]) if axis not in axes)


def _expand(node: Node, inputs: list[ShapeOf], numbers: Numbers) -> ShapeOf:
    _count(node, inputs, 2, 2)
    sizes = held_numbers(node, numbers, 1)
    if min(sizes, default=1) < 1:
        raise ValueError(f"has an operator {node.operator} to {sizes}"[:200])
    return _broadcast(node, [inputs[0], tuple(sizes)])


def _tile(node: Node, inputs: list[ShapeOf], numbers: Numbers) -> ShapeOf:
    _count(node, inputs, 2, 2)
    times = held_numbers(node, numbers, 1)
    if len(times) != len(inputs[0]) or min(times, default=1) < 1:
        raise ValueError(f"has an operator {node.operator} by {times} of a tensor of shape {inputs[0]}"[:200])
    return tuple(size * each for size, each in zip(inputs[0], times, strict=True))


def _gather(node: Node, inputs: list[ShapeOf], numbers: Numbers) -> ShapeOf:
    """Places that the graph holds, along one axis."""
    _count(node, inputs, 2, 2)
    axis, shape = _axis(node, len(inputs[0]), 0), inputs[0]
    places = held_numbers(node, numbers, 1)
    if any(not -shape[axis] <= place < shape[axis] for place in places):
        raise ValueError(f"has an operator {node.operator} of places {places} of {shape[axis]}"[:200])
    return (*shape[:axis], *inputs[1], *shape[axis + 1 :])


def _gather_each(node: Node, inputs: list[ShapeOf]) -> ShapeOf:
    """Values at places of several axes; onnxruntime refuses places that are none."""
    _count(node, inputs, 2, 2)
    data, places = inputs
    if any(node.numbers.get("batch_dims", [])) or not places or not 0 < places[-1] <= len(data):
        raise ValueError(f"has an operator {node.operator} of a tensor of shape {data} by {places}"[:200])
    return (*places[:-1], *data[places[-1] :])


def _cumulated(node: Node, inputs: list[ShapeOf], numbers: Numbers) -> ShapeOf:
    _count(node, inputs, 2, 2)
    for axis in held_numbers(node, numbers, 1):
        _front(node, axis, len(inputs[0]))
    return inputs[0]


def _resize(node: Node, inputs: list[ShapeOf], numbers: Numbers) -> ShapeOf:
    """To sizes that the graph holds, along the axes of its attribute."""
    _count(node, inputs[:1], 1, 1)
    axes = node.numbers.get("axes", [*range(len(inputs[0]))])
    sizes = held_numbers(node, numbers, 3)
    twice = len({_front(node, axis, len(inputs[0])) for axis in axes}) < len(axes)
    if twice or len(sizes) != len(axes) or min(sizes, default=1) < 1 or any(name for name in node.inputs[1:3]):
        raise ValueError(f"has an operator {node.operator} of a tensor of shape {inputs[0]} to {sizes}"[:200])
    made = list(inputs[0])
    for axis, size in zip(axes, sizes, strict=True):
        made[_front(node, axis, len(made))] = size
    return tuple(made)


_VALUES = (
    "Abs", "Atan", "Ceil", "Celu", "Cos", "Elu", "Erf", "Exp", "Floor", "Identity", "IsNaN", "LeakyRelu", "Log", "Mish",
    "Neg", "Not", "Reciprocal", "Round", "Selu", "Sign", "Sin", "Softplus", "Sqrt", "Tanh", "ThresholdedRelu",
)  # fmt: skip
_PAIRS = (
    "Sub", "Div", "Pow", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "And", "Or", "Mod", "PRelu",
)  # fmt: skip
_REDUCED = ("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL2", "ReduceLogSumExp", "ReduceSumSquare")
SHAPES: dict[str, Callable[[Node, list[ShapeOf]], ShapeOf]] = {
    **dict.fromkeys(_VALUES, _one),
    **dict.fromkeys(_PAIRS, _together(2, 2)),
    **dict.fromkeys(("Max", "Min"), _together(1, 8)),
    **dict.fromkeys(("Softmax", "LogSoftmax"), _along_axis),
    **dict.fromkeys(("DepthToSpace", "SpaceToDepth"), _blocks),
    "Where": _together(3, 3),
    "GatherND": _gather_each,
    "Cast": _cast,
    "MatMul": _matmul,
    "Transpose": _transpose,
    "LayerNormalization": _layer_norm,
    "InstanceNormalization": _instance_norm,
    "GroupNormalization": _group_norm,
}
"""Operators whose shapes follow from those of their inputs."""
BY_NUMBERS: dict[str, Callable[[Node, list[ShapeOf], Numbers], ShapeOf]] = {
    **NUMBERED,
    **dict.fromkeys(_REDUCED, _reduce),
    "Unsqueeze": _unsqueeze,
    "Squeeze": _squeeze,
    "Expand": _expand,
    "Tile": _tile,
    "Gather": _gather,
    "CumSum": _cumulated,
    "Resize": _resize,
}
"""Operators whose shapes depend on whole numbers that the graph holds."""
SPLIT = "Split"
"""The only operator of several outputs."""


def split_shapes(node: Node, inputs: list[ShapeOf], numbers: Numbers) -> list[ShapeOf]:
    """Parts of sizes that the graph holds, or equal ones, along one axis."""
    count, shape = len(node.outputs), inputs[0]
    axis = _axis(node, len(shape), 0)
    sizes = held_numbers(node, numbers, 1, [-(-shape[axis] // count)] * (count - 1) + [0])
    if len(node.inputs) < 2:
        sizes[-1] = shape[axis] - sum(sizes[:-1])
    if len(sizes) != count or min(sizes) < 1 or sum(sizes) != shape[axis]:
        raise ValueError(f"has an operator {node.operator} of a tensor of shape {shape} into {sizes}"[:200])
    return [(*shape[:axis], size, *shape[axis + 1 :]) for size in sizes]
