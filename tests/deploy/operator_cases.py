"""One use of each registered operator, as a segment that a device could get: data with samples first, and weights."""

from __future__ import annotations

from typing import Any

from sepnas.plan.kinds.kind import Dims, OperatorUse
from sepnas.plan.kinds.pointwise import Pointwise
from sepnas.plan.kinds.registry import GRAPH_OPERATORS
from sepnas.plan.plan import Segment, WeightSlice
from sepnas.plan.segment_node import SegmentNode, frozen
from sepnas.plan.shapes import Region, Shape

Case = tuple[dict[str, Dims], dict[str, Any]]
_MAP, _TOKENS = (1, 4, 6, 6), (1, 5, 8)
_BINARY = (
    "add", "sub", "mul", "div", "maximum", "minimum", "atan2", "remainder", "eq", "ne", "lt", "le",
    "gt", "ge", "div_rounded", "logical_and", "logical_or",
)  # fmt: skip
_ATTRIBUTES: dict[str, dict[str, Any]] = {
    "celu": {"alpha": 0.7},
    "clamp": {"min": -0.5, "max": 0.5},
    "clamp_min": {"min": -0.5},
    "clamp_max": {"max": 0.5},
    "elu": {"alpha": 0.7},
    "hardtanh": {"min_val": -0.5, "max_val": 0.5},
    "leaky_relu": {"negative_slope": 0.1},
    "threshold": {"threshold": 0.1, "value": 0.3},
    "gelu": {"approximate": "tanh"},
    "power": {"exponent": 2.0},
    "add_scalar": {"other": 0.5},
    "rsub": {"other": 0.5},
    "cast": {"dtype": "torch.float32"},
    "div_rounded": {"rounding_mode": "floor"},
    **{f"{name}_scalar": {"other": 0.5} for name in _BINARY},
}
_PER_SAMPLE = {"use_input_stats": True, "momentum": 0.0, "eps": 1e-5, "cudnn_enabled": False}
_NORM = {"weight": (8,), "bias": (8,)}
_CASES: dict[str, list[Case]] = {
    "conv": [
        ({"input": (1, 4, 9), "weight": (6, 4, 3), "bias": (6,)}, {"padding": [1]}),
        ({"input": _MAP, "weight": (8, 2, 3, 3)}, {"groups": 2, "padding": [[0, 1], [1, 1]], "stride": [2, 1]}),
        ({"input": (1, 3, 4, 6, 6), "weight": (5, 3, 3, 3, 3), "bias": (5,)}, {"padding": [1, 1, 1]}),
    ],
    "conv_transpose": [
        ({"input": (1, 4, 9), "weight": (4, 3, 2)}, {"stride": [2]}),
        ({"input": _MAP, "weight": (4, 3, 3, 3), "bias": (6,)}, {"stride": [2, 2], "groups": 2, "padding": [1, 1]}),
        ({"input": (1, 3, 4, 5, 5), "weight": (3, 2, 2, 2, 2)}, {"stride": [2, 2, 2]}),
    ],
    "linear": [
        ({"input": (1, 8), "weight": (5, 8), "bias": (5,)}, {}),
        ({"input": _TOKENS, "weight": (5, 8), "bias": (5,)}, {}),
        ({"input": _TOKENS, "weight": (5, 8)}, {}),
    ],
    "matmul": [({"self": (1, 2, 5, 8), "other": (1, 2, 8, 3)}, {}), ({"self": _TOKENS, "other": (1, 8, 3)}, {})],
    "bmm": [({"self": _TOKENS, "mat2": (1, 8, 3)}, {})],
    "mm": [({"self": (1, 8), "mat2": (8, 3)}, {})],
    "addmm": [({"self": (3,), "mat1": (1, 8), "mat2": (8, 3)}, {})],
    "baddbmm": [({"self": (1, 1, 3), "batch1": _TOKENS, "batch2": (1, 8, 3)}, {})],
    "attention": [
        (dict.fromkeys(("query", "key", "value"), (1, 2, 5, 4)), {}),
        ({**dict.fromkeys(("query", "key", "value"), (1, 3, 2, 5, 4)), "attn_mask": (1, 2, 5, 5)}, {"scale": 0.3}),
    ],
    "batch_norm": [({"input": _MAP, **dict.fromkeys(("weight", "bias", "running_mean", "running_var"), (4,))}, {})],
    "prelu": [({"self": _MAP, "weight": (4,)}, {})],
    "layer_norm": [({"input": _TOKENS, **own}, {"normalized_shape": [8]}) for own in (_NORM, {})],
    "rms_norm": [({"input": _TOKENS, "weight": (8,)}, {"normalized_shape": [8], "eps": 1e-6})],
    "group_norm": [({"input": (1, 8, 5, 5), **_NORM}, {"num_groups": 2})],
    "instance_norm": [({"input": (1, 8, 5, 5), **_NORM}, _PER_SAMPLE)],
    "embedding": [],  # takes indices, which devices do not exchange
    "softmax": [({"self": _TOKENS}, {"dim": -1}), ({"self": _MAP}, {"dim": 1})],
    "softmax_core": [({"self": _TOKENS}, {"dim": -1, "half_to_float": False})],
    "log_softmax": [({"self": _TOKENS}, {"dim": 2})],
    "cumsum": [({"self": _TOKENS}, {"dim": 1})],
    "glu": [({"self": _MAP}, {"dim": 1})],
    "power_tensor": [({"self": _TOKENS, "exponent": (1, 1, 8)}, {})],
    "where": [({"condition": _TOKENS, "self": _TOKENS, "other": (1, 1, 8)}, {})],
    "masked_fill": [({"self": _TOKENS, "mask": _TOKENS}, {"value": -1.5})],
    "addcmul": [({"self": _TOKENS, "tensor1": _TOKENS, "tensor2": (1, 1, 8)}, {"value": 0.5})],
    "lerp": [({"self": _TOKENS, "end": _TOKENS}, {"weight": 0.3})],
    "clamp_tensor": [({"self": _TOKENS, "min": (1, 1, 8), "max": (1, 5, 8)}, {})],
    "reshape": [({"self": _MAP}, {"size": [1, 144]}), ({"self": (1, 6, 8)}, {"size": [1, 2, 3, 2, 4]})],
    "permute": [({"self": _MAP}, {"dims": [0, 2, 3, 1]})],
    "expand": [({"self": (1, 1, 8)}, {"size": [1, 5, 8]})],
    "repeat": [({"self": _TOKENS}, {"repeats": [1, 2, 1]})],
    "repeat_each": [({"self": _TOKENS}, {"repeats": 2, "dim": 1})],
    "unfold": [({"self": _TOKENS}, {"dimension": 1, "size": 3, "step": 2})],
    "cat": [
        ({"tensors.0": _TOKENS, "tensors.1": (1, 2, 8)}, {"dim": 1}),
        ({"tensors.0": _TOKENS, "tensors.1": (1, 2, 8), "tensors.2": (1, 1, 8)}, {"dim": 1}),
    ],
    "stack": [
        ({"tensors.0": _TOKENS, "tensors.1": _TOKENS}, {"dim": 2}),
        ({"tensors.0": _TOKENS, "tensors.1": _TOKENS, "tensors.2": _TOKENS}, {"dim": 2}),
    ],
    "slice": [({"self": _MAP}, {"dim": 2, "start": 1, "end": 6, "step": 2})],
    "select": [({"self": _MAP}, {"dim": 1, "index": 2})],
    "pad": [
        ({"self": _MAP}, {"pad": [1, 0, 2, 1], "mode": "constant", "value": 0.5}),
        ({"self": _MAP}, {"pad": [1, 0, 2, 1], "mode": "reflect"}),
        ({"self": _MAP}, {"pad": [1, 0, 2, 1], "mode": "replicate"}),
    ],
    "roll": [({"self": _MAP}, {"shifts": [1, -2], "dims": [2, 3]})],
    "flip": [({"self": _MAP}, {"dims": [2]})],
    "pixel_shuffle": [({"self": (1, 8, 3, 4)}, {"upscale_factor": 2})],
    "pixel_unshuffle": [({"self": (1, 2, 6, 4)}, {"downscale_factor": 2})],
    "upsample_bicubic2d": [({"input": _MAP}, {"output_size": [12, 12], "align_corners": False})],
}  # fmt: skip
_SIDES = {1: (9,), 2: (6, 6), 3: (4, 6, 6)}
for _spatial, _sides in _SIDES.items():
    _data = {"self": (1, 4, *_sides)}
    _window = {"kernel_size": [3] * _spatial, "stride": [2] * _spatial, "padding": [1] * _spatial}
    _CASES[f"max_pool{_spatial}d"] = [(_data, _window)]
    _CASES[f"avg_pool{_spatial}d"] = [(_data, _window)]
    for _kind in ("avg", "max"):
        _CASES[f"adaptive_{_kind}_pool{_spatial}d"] = [
            (_data, {"output_size": [3] if _spatial == 1 and _kind == "max" else [2] * _spatial}),
            (_data, {"output_size": [1] * _spatial}),
        ]
    _linear = {1: "linear1d", 2: "bilinear2d", 3: "trilinear3d"}[_spatial]
    for _name in (f"nearest{_spatial}d", _linear):
        _size = {"output_size": [2 * side for side in _sides], "align_corners": False}
        _CASES[f"upsample_{_name}"] = [({"input": (1, 4, *_sides)}, _size)]
for _name in ("mean", "sum", "amax", "amin", "logsumexp", "vector_norm"):
    _CASES[_name] = [({"self": _MAP}, {"dim": [2, 3], "keepdim": True}), ({"self": _TOKENS}, {"dim": [1]})]
for _name in ("var", "std"):
    _CASES[_name] = [({"self": _TOKENS}, {"dim": [2], "correction": 1, "keepdim": True})]

_WEIGHTS = frozenset(("weight", "bias", "running_mean", "running_var"))
_WEIGHTS_OF = {
    "mm": {"mat2"}, "addmm": {"self", "mat2"}, "attention": {"attn_mask"}, "cat": {"tensors.2"}, "stack": {"tensors.2"},
}  # fmt: skip
"""The operands that are weights, where they are others."""
_POSITIVE = frozenset(
    ("log", "log2", "log1p", "sqrt", "rsqrt", "reciprocal", "power_tensor", "div", "remainder", "atan2", "div_rounded")
)
"""Operators whose operands are replaced by their size and 1 more, so that the results are moderate numbers."""
_COMPARING = ("eq", "ne", "lt", "le", "gt", "ge")
_LOGICAL = frozenset(
    (*_COMPARING, *(f"{name}_scalar" for name in _COMPARING), "logical_and", "logical_or", "logical_not")
)
"""Operators that make truth values, which are cast to numbers."""


def cases_of(name: str) -> list[Case]:
    """Uses of an operator: operands with their sizes for one sample, and attributes."""
    if name in _CASES:
        return _CASES[name]
    assert isinstance(GRAPH_OPERATORS[name], Pointwise), name
    attributes = _ATTRIBUTES.get(name, {})
    operands = {"self": _TOKENS, **({"other": (1, 1, 8)} if name in _BINARY else {})}
    return [(operands, attributes)]


def segment_of(name: str, case: Case) -> tuple[Segment, dict[str, Shape]]:
    """A segment of this operator, and the shapes of its inputs by name."""
    operands, attributes = case
    inputs: dict[str, str | int] = {}
    shapes, weights, nodes = dict[str, Shape](), list[WeightSlice](), list[SegmentNode]()
    own = _WEIGHTS_OF.get(name, _WEIGHTS)
    for role, dims in operands.items():
        if role in own:
            inputs[role] = len(weights)
            weights.append(WeightSlice(role, Region(tuple((0, size) for size in dims))))
        else:
            port = f"x{len(shapes)}"
            shapes[port] = Shape(dims[1:], "ABCDEFG"[: len(dims) - 1])
            inputs[role] = _prepared(nodes, port, dims, name, role)
    made = GRAPH_OPERATORS[name].output(OperatorUse(attributes, operands))
    plain = {key: frozen(value) for key, value in attributes.items()}
    nodes.append(SegmentNode("layer", name, inputs, ("y",), (made,), plain))
    if name in _LOGICAL:
        nodes[-1] = SegmentNode("layer", name, inputs, ("t",), (made,), plain)
        nodes.append(SegmentNode("layer", "cast", {"self": "t"}, ("y",), (made,), {"dtype": "torch.float32"}))
    segment = Segment("s", 0, ("layer",), 0, 0, 0, 0, (), tuple(weights), tuple(shapes), ("y",), tuple(nodes))
    return segment, shapes


def _prepared(nodes: list[SegmentNode], port: str, dims: Dims, name: str, role: str) -> str:
    """The operand that an operator gets for an input: moderate numbers, truth values, or the input itself."""
    if role in ("condition", "mask"):
        nodes.append(SegmentNode("layer", "gt_scalar", {"self": port}, (f"{port}a",), (dims,), {"other": 0.0}))
        return f"{port}a"
    if name not in _POSITIVE:
        return port
    nodes.append(SegmentNode("layer", "abs", {"self": port}, (f"{port}a",), (dims,), {}))
    nodes.append(SegmentNode("layer", "add_scalar", {"self": f"{port}a"}, (f"{port}b",), (dims,), {"other": 1.0}))
    return f"{port}b"
