"""All kinds of operators that graphs may have; what is not here is kept as an opaque operator."""

from __future__ import annotations

import math
from collections.abc import Iterator

from sepnas.plan.kinds.convolution import Convolution, TransposedConvolution
from sepnas.plan.kinds.copies import Repeat, RepeatEach, Unfold
from sepnas.plan.kinds.kind import GraphOperator
from sepnas.plan.kinds.layout import Expand, Permute, Reshape
from sepnas.plan.kinds.matrix import Attention, Embedding, Linear, MatrixProduct
from sepnas.plan.kinds.pieces import Concatenation, Pad, Roll, Select, Stack, StridedSlice
from sepnas.plan.kinds.pointwise import (
    Addition,
    AlongAxis,
    BatchNorm,
    GatedHalf,
    GroupNorm,
    InstanceNorm,
    LayerNorm,
    PerChannel,
    Pointwise,
)
from sepnas.plan.kinds.pooling import AdaptivePooling, MeanPooling, WindowPooling
from sepnas.plan.kinds.reduction import Reduction
from sepnas.plan.kinds.resize import PixelShuffle, PixelUnshuffle, Upsampling

IDENTITIES = frozenset(
    f"{name}.default"
    for name in ("alias", "clone", "contiguous", "detach", "dropout", "feature_dropout", "lift_fresh_copy", "lift")
)
"""Overloads that leave a tensor as it is in evaluation; a graph has none of them."""

_UNARY = (
    "abs", "celu", "clamp", "clamp_min", "clamp_max", "cos", "elu", "erf", "exp", "floor", "gelu", "hardsigmoid",
    "hardswish", "hardtanh", "leaky_relu", "log", "logical_not", "mish", "neg", "reciprocal", "relu", "relu6", "rsqrt",
    "selu", "sigmoid", "sign", "silu", "sin", "softplus", "sqrt", "square", "tanh", "log_sigmoid", "threshold", "round",
    "hardshrink", "softshrink", "log1p", "expm1", "ceil", "log2",
)  # fmt: skip
_BINARY = ("logical_and", "logical_or", "maximum", "minimum", "atan2")
_WITH_SCALARS = ("sub", "mul", "div", "eq", "ne", "lt", "le", "gt", "ge", "remainder")


def _pointwise() -> Iterator[GraphOperator]:
    for name in _UNARY:
        yield Pointwise(name, (f"{name}.default",))
    for name in _BINARY:
        yield Pointwise(name, (f"{name}.default",))
    for name in _WITH_SCALARS:
        yield Pointwise(name, (f"{name}.Tensor",))
        yield Pointwise(f"{name}_scalar", (f"{name}.Scalar",))
    yield Pointwise("div_rounded", ("div.Tensor_mode",))
    yield Pointwise("rsub", ("rsub.Scalar",))
    yield Pointwise("clamp_tensor", ("clamp.Tensor",))
    yield Pointwise("power", ("pow.Tensor_Scalar",))
    yield Pointwise("power_tensor", ("pow.Tensor_Tensor",))
    yield Pointwise("where", ("where.self",))
    yield Pointwise("masked_fill", ("masked_fill.Scalar",))
    yield Pointwise("addcmul", ("addcmul.default",))
    yield Pointwise("lerp", ("lerp.Scalar",))
    yield Pointwise("cast", ("to.dtype", "_to_copy.default"))
    yield Addition("add", ("add.Tensor",))
    yield Pointwise("add_scalar", ("add.Scalar",))


def _along_axis() -> Iterator[GraphOperator]:
    yield AlongAxis("softmax", ("softmax.int",))
    yield AlongAxis("softmax_core", ("_softmax.default",))
    yield AlongAxis("log_softmax", ("log_softmax.int",))
    yield AlongAxis("cumsum", ("cumsum.default",))
    yield GatedHalf("glu", ("glu.default",))


def _pooling() -> Iterator[GraphOperator]:
    for spatial in (1, 2, 3):
        maximum = f"max_pool{spatial}d"
        yield WindowPooling(maximum, (f"{maximum}.default", f"{maximum}_with_indices.default"), spatial, -math.inf)
        yield MeanPooling(f"avg_pool{spatial}d", (f"avg_pool{spatial}d.default",), spatial)
        for kind in ("avg", "max"):
            name = f"adaptive_{kind}_pool{spatial}d"
            yield AdaptivePooling(name, (f"{name}.default",), spatial)
    yield Reduction("mean", ("mean.dim", "mean.default"))
    yield Reduction("sum", ("sum.dim_IntList", "sum.default"))
    for name, with_places in (("amax", "max.dim"), ("amin", "min.dim")):
        yield Reduction(name, (f"{name}.default", with_places))
    yield Reduction("logsumexp", ("logsumexp.default",))
    for name in ("var", "std"):
        yield Reduction(name, (f"{name}.correction",))
    yield Reduction("vector_norm", ("linalg_vector_norm.default",))


def _upsampling() -> Iterator[GraphOperator]:
    for spatial, linear in ((1, "linear1d"), (2, "bilinear2d"), (3, "trilinear3d")):
        for name, halo in ((f"nearest{spatial}d", 0), (linear, 1)):
            yield Upsampling(f"upsample_{name}", (f"upsample_{name}.vec",), spatial, halo)
    yield Upsampling("upsample_bicubic2d", ("upsample_bicubic2d.vec",), 2, 2)


def _products() -> Iterator[GraphOperator]:
    yield Convolution("conv", (*Convolution.overloads, "conv1d.padding", "conv2d.padding", "conv3d.padding"))
    yield TransposedConvolution("conv_transpose", TransposedConvolution.overloads)
    yield Linear("linear", ("linear.default",))
    for name in ("matmul", "bmm", "mm"):
        yield MatrixProduct(name, (f"{name}.default",))
    yield MatrixProduct("addmm", ("addmm.default",))
    yield MatrixProduct("baddbmm", ("baddbmm.default",))
    yield Attention("attention", ("scaled_dot_product_attention.default",))
    yield Embedding("embedding", ("embedding.default",))


def _norms() -> Iterator[GraphOperator]:
    yield BatchNorm("batch_norm", ("batch_norm.default", "_native_batch_norm_legit_no_training.default"))
    yield PerChannel("prelu", ("prelu.default", "_prelu_kernel.default"))
    yield LayerNorm("layer_norm", ("layer_norm.default",))
    yield LayerNorm("rms_norm", ("rms_norm.default",))
    yield GroupNorm("group_norm", ("group_norm.default",))
    yield InstanceNorm("instance_norm", ("instance_norm.default",))


def _rearranging() -> Iterator[GraphOperator]:
    yield Reshape(
        "reshape",
        (
            *("reshape.default", "view.default", "_unsafe_view.default", "view_copy.default", "unsqueeze.default"),
            *("squeeze.default", "squeeze.dim", "squeeze.dims", "flatten.using_ints", "unflatten.int"),
        ),
    )
    yield Permute("permute", ("permute.default", "transpose.int", "t.default", "numpy_T.default"))
    yield Expand("expand", ("expand.default",))
    yield Repeat("repeat", ("repeat.default",))
    yield RepeatEach("repeat_each", ("repeat_interleave.self_int",))
    yield Unfold("unfold", ("unfold.default",))
    yield Concatenation("cat", ("cat.default",))
    yield Stack("stack", ("stack.default",))
    yield StridedSlice("slice", ("slice.Tensor",))
    yield Select("select", ("select.int",))
    yield Pad("pad", ("constant_pad_nd.default", "pad.default"))
    yield Roll("roll", ("roll.default",))
    yield Roll("flip", ("flip.default",))
    yield PixelShuffle("pixel_shuffle", ("pixel_shuffle.default",))
    yield PixelUnshuffle("pixel_unshuffle", ("pixel_unshuffle.default",))


_GROUPS = (_products, _norms, _pointwise, _along_axis, _pooling, _upsampling, _rearranging)
GRAPH_OPERATORS: dict[str, GraphOperator] = {kind.name: kind for group in _GROUPS for kind in group()}
"""Kinds by name."""
BY_OVERLOAD: dict[str, GraphOperator] = {each: kind for kind in GRAPH_OPERATORS.values() for each in kind.aten}
"""Kinds by the ATen overloads that are traced to them, such as ``conv2d.default``."""
