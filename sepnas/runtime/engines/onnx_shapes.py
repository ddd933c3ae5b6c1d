"""The shape of what each operator of an ``.onnx`` graph makes, and that its inputs fit each other.

Each function takes a node and the shapes of its inputs (``()`` for one that is left out), and raises
:class:`ValueError` that names the operator and what does not fit: what passes makes a tensor of exactly that shape.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod

from sepnas.deployment.engines.graph import Node, ShapeOf

_SPATIAL = (3, 5)
"""The fewest and the most axes of what is convolved: one to three besides samples and channels."""


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


def _map(node: Node, shape: ShapeOf) -> ShapeOf:
    if not _SPATIAL[0] <= len(shape) <= _SPATIAL[1]:
        raise ValueError(f"has an operator {node.operator} on a tensor of shape {shape}; it takes 3 to 5 axes")
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
    (batch, channels, *sides), (outputs, taken, *kernel) = _map(node, inputs[0]), _axes(node, inputs[1], len(inputs[0]))
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


def _pool(node: Node, inputs: list[ShapeOf]) -> ShapeOf:
    """Of windows that each hold a value of the input."""
    _given(node, inputs, 1, 1)
    batch, channels, *sides = _map(node, inputs[0])
    count, ceil = len(sides), _flag(node, "ceil_mode", 0)
    kernel, strides = (_numbers(node, name, 1, count, 1) for name in ("kernel_shape", "strides"))
    pads, dilations = _numbers(node, "pads", 0, 2 * count, 0), _numbers(node, "dilations", 1, count, 1)
    if any(pad >= size for pad, size in zip(pads, kernel * 2, strict=True)):
        raise ValueError(f"has an operator {node.operator} beyond the border of its input")
    if _flag(node, "storage_order", 0):
        raise ValueError(f"has an operator {node.operator} of values in another order")
    reach = [dilation * (size - 1) + 1 for dilation, size in zip(dilations, kernel, strict=True)]
    room = [side + pads[at] + pads[at + count] - reach[at] for at, side in enumerate(sides)]
    made = [(each + (stride - 1 if ceil else 0)) // stride + 1 for each, stride in zip(room, strides, strict=True)]
    if ceil:  # a last window begins within the input or the padding before it
        starts = ((number - 1) * stride for number, stride in zip(made, strides, strict=True))
        borders = (side + pads[at] for at, side in enumerate(sides))
        made = [n - (first >= end) for n, first, end in zip(made, starts, borders, strict=True)]
    if min(room) < 0 or min(made) < 1:
        raise ValueError(f"has an operator {node.operator} that is larger than its input")
    return (batch, channels, *made)


def _conv_transpose(node: Node, inputs: list[ShapeOf]) -> ShapeOf:
    _given(node, inputs, 2, 3)
    (batch, channels, *sides), (taken, outputs, *kernel) = _map(node, inputs[0]), _axes(node, inputs[1], len(inputs[0]))
    count = len(sides)
    (groups,) = _numbers(node, "group", 1, 1, 1)
    pads, strides = _numbers(node, "pads", 0, 2 * count, 0), _numbers(node, "strides", 1, count, 1)
    dilations, extra = _numbers(node, "dilations", 1, count, 1), _numbers(node, "output_padding", 0, count, 0)
    fits = taken == channels and not channels % groups and node.numbers.get("kernel_shape", kernel) == kernel
    if not fits or "output_shape" in node.numbers or min(outputs, *kernel) < 1:
        raise ValueError(f"has an operator {node.operator} of {groups} groups whose weight has shape {inputs[1]}")
    if _is_given(node, 2):
        _vector(node, inputs, 2, outputs * groups, "bias")
    made = [
        (side - 1) * strides[at] + dilations[at] * (kernel[at] - 1) + 1 + extra[at] - pads[at] - pads[at + count]
        for at, side in enumerate(sides)
    ]
    if min(made) < 1:
        raise ValueError(f"has an operator {node.operator} that leaves nothing")
    return (batch, outputs * groups, *made)


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


OPERATORS: dict[str, Callable[[Node, list[ShapeOf]], ShapeOf]] = {
    "Add": _add,
    "AveragePool": _pool,
    "BatchNormalization": _batch_norm,
    "Clip": _clip,
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "DequantizeLinear": _scaled,
    "Gelu": _relu,
    "Gemm": _gemm,
    "HardSigmoid": _relu,
    "HardSwish": _relu,
    "MaxPool": _pool,
    "Mul": _add,
    "QuantizeLinear": _scaled,
    "Relu": _relu,
    "Sigmoid": _relu,
}
"""What layers of the networks are exported to, and the shape of what each makes."""


def scratch_values(node: Node, shapes: Mapping[str, ShapeOf]) -> int:
    """Number of values that an engine may hold while it runs an operator, besides its inputs and output.

    A convolution may gather the patches of its input, one group at a time.
    """
    if node.operator not in ("Conv", "ConvTranspose"):
        return 0
    places = node.outputs[0] if node.operator == "Conv" else node.inputs[0]
    return prod(shapes[node.inputs[1]][1:]) * prod(shapes[places][2:])
