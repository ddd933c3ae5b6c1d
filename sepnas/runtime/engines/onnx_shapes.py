"""The shape of what each operator of an ``.onnx`` graph makes, and that its inputs fit each other.

Each function takes a node and the shapes of its inputs (``()`` for one that is left out), and raises
:class:`ValueError` that names the operator and what does not fit: what passes makes a tensor of exactly that shape.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod

from sepnas.deployment.engines.graph import Node, ShapeOf

_NUM_AXES = 4
"""Batch, channels, height and width."""


def _given(node: Node, inputs: list[ShapeOf], least: int, most: int) -> None:
    """Refuse another number of inputs than ``least..most``, one of the first ``least`` left out, or a second output."""
    if not least <= len(inputs) <= most or not all(node.inputs[:least]):
        raise ValueError(f"has an operator {node.operator} of {len(inputs)} inputs; it takes {least}..{most}")
    if len(node.outputs) != 1:
        raise ValueError(f"has an operator {node.operator} of {len(node.outputs)} outputs; it has one")


def _axes(node: Node, shape: ShapeOf, count: int) -> ShapeOf:
    if len(shape) != count:
        raise ValueError(f"has an operator {node.operator} on a tensor of shape {shape}; it takes {count} axes")
    return shape


def _is_given(node: Node, place: int) -> bool:
    return place < len(node.inputs) and bool(node.inputs[place])


def _vector(node: Node, inputs: list[ShapeOf], place: int, length: int, what: str) -> None:
    if inputs[place] != (length,):
        raise ValueError(f"has an operator {node.operator} whose {what} has shape {inputs[place]}, not {(length,)}")


def _numbers(node: Node, name: str, default: int, count: int, lowest: int) -> list[int]:
    found = node.numbers.get(name, [default] * count)
    if len(found) != count or min(found, default=lowest) < lowest:
        raise ValueError(f"has an operator {node.operator} whose {name} are {found}, not {count} from {lowest}"[:200])
    return found


def _flag(node: Node, name: str, default: int) -> bool:
    (found,) = _numbers(node, name, default, 1, 0)
    return bool(found)


def _relu(node: Node, inputs: list[ShapeOf]) -> ShapeOf:
    _given(node, inputs, 1, 1)
    return inputs[0]


def _add(node: Node, inputs: list[ShapeOf]) -> ShapeOf:
    _given(node, inputs, 2, 2)
    length = max(map(len, inputs))
    padded = [(1,) * (length - len(shape)) + shape for shape in inputs]
    if any(one != other and 1 not in (one, other) for one, other in zip(*padded, strict=True)):
        raise ValueError(f"has an operator {node.operator} of tensors of shapes {inputs[0]} and {inputs[1]}")
    return tuple(other if one == 1 else one for one, other in zip(*padded, strict=True))


def _batch_norm(node: Node, inputs: list[ShapeOf]) -> ShapeOf:
    _given(node, inputs, 5, 5)
    if len(inputs[0]) < 2 or _flag(node, "training_mode", 0):
        raise ValueError(f"has an operator {node.operator} that trains, or on a tensor without channels")
    for place, what in enumerate(("scale", "bias", "mean", "variance"), start=1):
        _vector(node, inputs, place, inputs[0][1], what)
    return inputs[0]


def _scaled(node: Node, inputs: list[ShapeOf]) -> ShapeOf:
    """Quantised or not: one scale, or one for each index of an axis."""
    _given(node, inputs, 2, 3)
    (axis, *more), (shape, scale) = node.numbers.get("axis") or [1], inputs[:2]
    blocks = [*more, *filter(None, node.numbers.get("block_size", []))]
    if blocks or (scale not in ((), (1,)) and (not -len(shape) <= axis < len(shape) or scale != (shape[axis],))):
        raise ValueError(f"has an operator {node.operator} on a tensor of shape {shape} whose scale has shape {scale}")
    if _is_given(node, 2) and inputs[2] != scale:
        raise ValueError(f"has an operator {node.operator} whose zero point has shape {inputs[2]}, not {scale}")
    return shape


def _conv(node: Node, inputs: list[ShapeOf]) -> ShapeOf:
    _given(node, inputs, 2, 3)
    (batch, channels, *sides), (outputs, taken, *kernel) = (_axes(node, shape, _NUM_AXES) for shape in inputs[:2])
    count = len(sides)
    pads, strides = _numbers(node, "pads", 0, 2 * count, 0), _numbers(node, "strides", 1, count, 1)
    dilations, (groups,) = _numbers(node, "dilations", 1, count, 1), _numbers(node, "group", 1, 1, 1)
    if taken * groups != channels or outputs % groups or node.numbers.get("kernel_shape", kernel) != kernel:
        raise ValueError(
            f"has an operator {node.operator} of {groups} groups whose weight of shape {inputs[1]} does not fit "
            f"{channels} channels"
        )
    if min(outputs, taken, *kernel) < 1:
        raise ValueError(f"has an operator {node.operator} whose weight is empty")
    if _is_given(node, 2):
        _vector(node, inputs, 2, outputs, "bias")
    made = [
        (side + pads[place] + pads[place + count] - dilations[place] * (kernel[place] - 1) - 1) // strides[place] + 1
        for place, side in enumerate(sides)
    ]
    if min(made) < 1:
        raise ValueError(f"has an operator {node.operator} that is larger than its input")
    return (batch, outputs, *made)


def _max_pool(node: Node, inputs: list[ShapeOf]) -> ShapeOf:
    """Of windows that each hold a value of the input."""
    _given(node, inputs, 1, 1)
    batch, channels, *sides = _axes(node, inputs[0], _NUM_AXES)
    count = len(sides)
    kernel, strides = (_numbers(node, name, 1, count, 1) for name in ("kernel_shape", "strides"))
    pads = _numbers(node, "pads", 0, 2 * count, 0)
    if any(pad >= size for pad, size in zip(pads, kernel * 2, strict=True)) or _flag(node, "ceil_mode", 0):
        raise ValueError(f"has an operator {node.operator} beyond the border of its input")
    if _flag(node, "storage_order", 0):
        raise ValueError(f"has an operator {node.operator} of values in another order")
    if max(_numbers(node, "dilations", 1, count, 1)) > 1:
        raise ValueError(f"has an operator {node.operator} with gaps")
    padded = [side + pads[place] + pads[place + count] for place, side in enumerate(sides)]
    made = [(side - size) // stride + 1 for side, size, stride in zip(padded, kernel, strides, strict=True)]
    if min(made) < 1:
        raise ValueError(f"has an operator {node.operator} that is larger than its input")
    return (batch, channels, *made)


def _clip(node: Node, inputs: list[ShapeOf]) -> ShapeOf:
    _given(node, inputs, 1, 3)
    if any(_is_given(node, place) and inputs[place] != () for place in (1, 2)):
        raise ValueError(f"has an operator {node.operator} whose bounds have shapes {inputs[1:]}, not ()")
    return inputs[0]


def _gemm(node: Node, inputs: list[ShapeOf]) -> ShapeOf:
    _given(node, inputs, 2, 3)
    one, other = (_axes(node, shape, 2) for shape in inputs[:2])
    rows, inner = reversed(one) if _flag(node, "transA", 0) else one
    found, columns = reversed(other) if _flag(node, "transB", 0) else other
    if inner != found:
        raise ValueError(f"has an operator {node.operator} of tensors of shapes {one} and {other}: {inner} and {found}")
    if _is_given(node, 2):
        _vector(node, inputs, 2, columns, "bias")
    return rows, columns


def _mean(node: Node, inputs: list[ShapeOf]) -> ShapeOf:
    """Over height and width, as the networks do it."""
    _given(node, inputs, 2, 2)
    batch, channels, *_ = _axes(node, inputs[0], _NUM_AXES)
    return (batch, channels, 1, 1) if _flag(node, "keepdims", 1) else (batch, channels)


OPERATORS: dict[str, Callable[[Node, list[ShapeOf]], ShapeOf]] = {
    "Add": _add,
    "BatchNormalization": _batch_norm,
    "Clip": _clip,
    "Conv": _conv,
    "DequantizeLinear": _scaled,
    "Gelu": _relu,
    "Gemm": _gemm,
    "HardSigmoid": _relu,
    "HardSwish": _relu,
    "MaxPool": _max_pool,
    "Mul": _add,
    "QuantizeLinear": _scaled,
    "ReduceMean": _mean,
    "Relu": _relu,
    "Sigmoid": _relu,
}
"""What layers of the networks are exported to, and the shape of what each makes."""


def scratch_values(node: Node, shapes: Mapping[str, ShapeOf]) -> int:
    """Number of values that an engine may hold while it runs an operator, besides its inputs and output.

    A convolution may gather the patches of its input, one group at a time.
    """
    if node.operator != "Conv":
        return 0
    return prod(shapes[node.inputs[1]][1:]) * prod(shapes[node.outputs[0]][2:])
