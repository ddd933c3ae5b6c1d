"""Operators of graphs: any region of an operator's output is computed from the regions that its halo rule names."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sepnas.nets.aten import overload, run_calls
from sepnas.plan.kinds.kind import Dims, GraphOperator, OperatorUse, along
from sepnas.plan.kinds.registry import BY_OVERLOAD, GRAPH_OPERATORS, IDENTITIES
from sepnas.plan.shapes import Region

Case = tuple[str, dict[str, Dims], dict[str, Any]]
small = st.integers(1, 3)


def sizes(count: int, low: int = 5, high: int = 9) -> st.SearchStrategy[list[int]]:
    return st.lists(st.integers(low, high), min_size=count, max_size=count)


@st.composite
def convolutions(draw: st.DrawFn) -> Case:
    spatial, groups = draw(st.integers(1, 3)), draw(st.sampled_from((1, 2, 4)))
    inputs, outputs = groups * draw(small), groups * draw(small)
    kernel = draw(sizes(spatial, 1, 3))
    pads = [
        draw(st.one_of(st.integers(0, k - 1), st.tuples(st.integers(0, k - 1), st.integers(0, k - 1)))) for k in kernel
    ]
    pairs = any(isinstance(pad, tuple) for pad in pads)
    padding = [list(pad) if isinstance(pad, tuple) else [pad, pad] for pad in pads] if pairs else pads
    operands = {"input": (draw(small), inputs, *draw(sizes(spatial))), "weight": (outputs, inputs // groups, *kernel)}
    if draw(st.booleans()):
        operands["bias"] = (outputs,)
    attributes = {"stride": draw(sizes(spatial, 1, 3)), "dilation": draw(sizes(spatial, 1, 2)), "groups": groups}
    return "conv", operands, {**attributes, "padding": padding}


@st.composite
def transposed(draw: st.DrawFn) -> Case:
    spatial, groups = draw(st.integers(1, 3)), draw(st.sampled_from((1, 2, 3)))
    inputs, outputs = groups * draw(small), draw(small)
    kernel, stride, dilation = draw(sizes(spatial, 1, 4)), draw(sizes(spatial, 1, 4)), draw(sizes(spatial, 1, 2))
    padding = [draw(st.integers(0, d * (k - 1))) for k, d in zip(kernel, dilation, strict=True)]
    extra = [draw(st.integers(0, max(s, d) - 1)) for s, d in zip(stride, dilation, strict=True)]
    operands = {"input": (1, inputs, *draw(sizes(spatial, 4, 6))), "weight": (inputs, outputs, *kernel)}
    if draw(st.booleans()):
        operands["bias"] = (outputs * groups,)
    attributes = {"stride": stride, "padding": padding, "output_padding": extra, "dilation": dilation}
    return "conv_transpose", operands, {**attributes, "groups": groups}


@st.composite
def pools(draw: st.DrawFn) -> Case:
    spatial, name = draw(st.integers(1, 3)), draw(st.sampled_from(("max_pool", "avg_pool")))
    kernel = draw(sizes(spatial, 1, 3))
    attributes = {
        "kernel_size": kernel,
        "stride": draw(sizes(spatial, 1, 3)),
        "padding": [draw(st.integers(0, k // 2)) for k in kernel],
        "ceil_mode": draw(st.booleans()),
    }
    if name == "max_pool":
        attributes["dilation"] = draw(sizes(spatial, 1, 2))
    else:
        attributes["count_include_pad"] = draw(st.booleans())
    return f"{name}{spatial}d", {"self": (1, draw(small), *draw(sizes(spatial)))}, attributes


@st.composite
def adaptive_pools(draw: st.DrawFn) -> Case:
    spatial, kind = draw(st.integers(1, 3)), draw(st.sampled_from(("avg", "max")))
    name = f"adaptive_{kind}_pool{spatial}d"
    dims = (1, 2, *draw(st.lists(st.sampled_from((4, 6, 7)), min_size=spatial, max_size=spatial)))
    return name, {"self": dims}, {"output_size": draw(sizes(spatial, 1, 4))}


@st.composite
def upsampled(draw: st.DrawFn) -> Case:
    name = draw(
        st.sampled_from(("nearest1d", "nearest2d", "nearest3d", "linear1d", "bilinear2d", "trilinear3d", "bicubic2d"))
    )
    spatial = int(name[-2])
    dims = draw(sizes(spatial, 3, 5))
    whole_factor = draw(st.booleans())
    out = [n * draw(small) if whole_factor else draw(st.integers(2, 9)) for n in dims]
    return f"upsample_{name}", {"input": (1, 2, *dims)}, {"output_size": out, "align_corners": draw(st.booleans())}


@st.composite
def products(draw: st.DrawFn) -> Case:
    rows, inner, columns, batch = draw(small), draw(small), draw(small), draw(sizes(2, 1, 3))
    name = draw(st.sampled_from(("linear", "matmul", "bmm", "mm", "addmm", "baddbmm", "embedding")))
    operands: dict[str, dict[str, Dims]] = {
        "linear": {"input": (*batch, inner), "weight": (columns, inner), "bias": (columns,)},
        "matmul": {"self": (*batch, rows, inner), "other": (1, batch[1], inner, columns)},
        "bmm": {"self": (2, rows, inner), "mat2": (2, inner, columns)},
        "mm": {"self": (rows, inner), "mat2": (inner, columns)},
        "addmm": {"self": (columns,), "mat1": (rows, inner), "mat2": (inner, columns)},
        "baddbmm": {"self": (2, 1, columns), "batch1": (2, rows, inner), "batch2": (2, inner, columns)},
        "embedding": {"weight": (7, columns), "indices": tuple(batch)},
    }
    return name, operands[name], {}


@st.composite
def attentions(draw: st.DrawFn) -> Case:
    heads, queries, keys, width, values = (draw(st.integers(1, 4)) for _ in range(5))
    causal = draw(st.booleans())
    operands = {"query": (1, heads, queries, width), "key": (1, heads, keys, width), "value": (1, heads, keys, values)}
    if not causal and draw(st.booleans()):
        operands["attn_mask"] = draw(
            st.sampled_from(((1, 1, queries, keys), (1, heads, queries, keys), (queries, keys)))
        )
    return "attention", operands, {"is_causal": causal}


@st.composite
def norms(draw: st.DrawFn) -> Case:
    channels, side = 2 * draw(small), draw(st.integers(2, 5))
    data, per_channel = (2, channels, side, side), (channels,)
    name = draw(st.sampled_from(("batch_norm", "layer_norm", "group_norm", "instance_norm", "prelu", "rms_norm")))
    weights = {"weight": per_channel, "bias": per_channel}
    cases: dict[str, Case] = {
        "batch_norm": (name, {"input": data, **weights, "running_mean": per_channel, "running_var": per_channel}, {}),
        "layer_norm": (name, {"input": (2, side, channels), **weights}, {"normalized_shape": [channels], "eps": 1e-5}),
        "rms_norm": (name, {"input": (2, side, channels), "weight": per_channel}, {"normalized_shape": [channels]}),
        "group_norm": (name, {"input": data, **weights}, {"num_groups": draw(st.sampled_from((1, 2, channels)))}),
        "instance_norm": (
            name, {"input": data, **weights},
            {"use_input_stats": True, "momentum": 0.0, "eps": 1e-5, "cudnn_enabled": False},
        ),
        "prelu": (name, {"self": data, "weight": draw(st.sampled_from((per_channel, (1,))))}, {}),
    }  # fmt: skip
    return cases[name]


@st.composite
def pointwise(draw: st.DrawFn) -> Case:
    name = draw(
        st.sampled_from(("relu", "gelu", "hardtanh", "elu", "silu", "mish", "add", "mul", "maximum", "softmax", "glu"))
    )
    dims = (draw(small), 2 * draw(small), draw(small), draw(small))
    if name in ("add", "mul", "maximum"):
        other = draw(st.sampled_from((dims, (1, dims[1], 1, 1), dims[2:], (1,))))
        return name, {"self": dims, "other": other}, {}
    attributes = {"dim": draw(st.sampled_from((1, -3)))} if name in ("softmax", "glu") else {}
    return name, {"self": dims}, attributes


@st.composite
def reductions(draw: st.DrawFn) -> Case:
    name = draw(st.sampled_from(("mean", "sum", "amax", "vector_norm")))
    axes = draw(st.lists(st.integers(-4, 3), max_size=3, unique_by=lambda axis: axis % 4))
    return name, {"self": (2, 3, 4, 5)}, {"dim": axes, "keepdim": draw(st.booleans())}


RESHAPED = ((8, 18), (144,), (2, 4, 2, 9), (2, 1, 2, 2, 18), (1, 8, 3, 6, 1), (2, 2, 2, 18))
"""Sizes of as many values as 2 x 4 x 6 x 3."""


@st.composite
def layouts(draw: st.DrawFn) -> Case:
    name = draw(
        st.sampled_from(("reshape", "permute", "expand", "slice", "select", "stack", "cat", "pad", "roll", "flip"))
    )
    data = (2, 4, 6, 3)
    if name in ("cat", "stack"):
        axis, count = draw(st.integers(-4, 3)), draw(st.integers(1, 3))
        extra = 0 if name == "stack" else 1
        shapes = [tuple(n + extra * i * (a == axis % 4) for a, n in enumerate(data)) for i in range(count)]
        return name, {f"tensors.{i}": dims for i, dims in enumerate(shapes)}, {"dim": axis}
    attributes: dict[str, dict[str, Any]] = {
        "reshape": {"size": draw(st.sampled_from(RESHAPED))},
        "permute": {"dims": draw(st.permutations(range(4)))},
        "expand": {"size": (5, 2, 4, 6, 3)},
        "slice": {"dim": 2, "start": draw(small), "end": 6, "step": draw(small)},
        "select": {"dim": draw(st.integers(-4, 3)), "index": 1},
        "pad": {
            "pad": draw(st.lists(st.integers(0, 2), min_size=4, max_size=4)),
            "mode": draw(st.sampled_from(("constant", "reflect", "replicate"))),
        },
        "roll": {"shifts": [1, 2], "dims": [1, -1]},
        "flip": {"dims": [2]},
    }  # fmt: skip
    return name, {"self": data}, attributes[name]


@st.composite
def copies(draw: st.DrawFn) -> Case:
    attributes: dict[str, dict[str, Any]] = {
        "repeat": {"repeats": draw(st.lists(st.integers(1, 2), min_size=3, max_size=4))},
        "repeat_each": {"repeats": draw(small), "dim": draw(st.integers(-3, 2))},
        "unfold": {"dimension": 1, "size": draw(st.integers(1, 4)), "step": draw(small)},
    }
    name = draw(st.sampled_from(sorted(attributes)))
    return name, {"self": (2, 6, 3)}, attributes[name]


@st.composite
def shuffles(draw: st.DrawFn) -> Case:
    factor = draw(small)
    if draw(st.booleans()):
        return "pixel_shuffle", {"self": (1, 2 * factor**2, 3, 4)}, {"upscale_factor": factor}
    return "pixel_unshuffle", {"self": (1, 3, 2 * factor, 3 * factor)}, {"downscale_factor": factor}


STRATEGIES = (
    *(convolutions, transposed, pools, adaptive_pools, upsampled, products, attentions, norms, pointwise, reductions),
    *(layouts, copies, shuffles),
)


def tensors_of(kind: GraphOperator, operands: dict[str, Dims]) -> dict[str, torch.Tensor]:
    made = {role: torch.randn(dims, dtype=torch.float64) for role, dims in operands.items()}
    if "running_var" in made:
        made["running_var"] = made["running_var"].abs() + 0.1
    if kind.name == "embedding":
        made["indices"] = torch.randint(0, operands["weight"][0], operands["indices"])
    return made


@pytest.mark.parametrize("strategy", STRATEGIES, ids=lambda each: each.__name__)
def test_a_region_of_the_output_is_computed_from_its_input_regions(strategy: Any) -> None:
    """A random region of the output, computed from the regions of the operands alone, equals that of the whole."""

    @settings(max_examples=40, deadline=None, derandomize=True)
    @given(strategy(), st.data())
    def check(case: Case, data: st.DataObject) -> None:
        name, operands, attributes = case
        kind, use = GRAPH_OPERATORS[name], OperatorUse(attributes, operands)
        try:
            dims = kind.output(use)
        except ValueError:  # windows that do not fit
            return
        torch.manual_seed(0)
        tensors = tensors_of(kind, operands)
        complete = run_calls(kind.calls(use), tensors)[0]
        assert tuple(complete.shape) == dims
        ranges = []
        for size in dims:
            start = data.draw(st.integers(0, size - 1))
            ranges.append((start, data.draw(st.integers(start + 1, size))))
        region = Region(tuple(ranges))
        found = kind.restrict(use, region)
        parts = {role: tensors[role][index(own)] for role, own in found.inputs.items()}
        smaller = OperatorUse(found.attributes, {role: tuple(part.shape) for role, part in parts.items()})
        computed = run_calls(kind.calls(smaller), parts)[0]
        assert kind.output(smaller) == tuple(computed.shape)
        torch.testing.assert_close(computed[index(found.crop)], complete[index(region)], rtol=1e-5, atol=1e-5)

    check()


@st.composite
def places(draw: st.DrawFn) -> Case:
    """A mean, a sum or a maximum of all places: as a reduction, an adaptive pooling, or one window over the map."""
    spatial, kind = draw(st.integers(1, 3)), draw(st.sampled_from(("reduction", "adaptive", "window")))
    dims = (1, draw(small), *draw(sizes(spatial, 1, 6)))
    if kind == "reduction":
        axes = draw(st.lists(st.integers(1, spatial + 1), min_size=1, unique=True))
        attributes = {"dim": axes, "keepdim": draw(st.booleans())}
        return draw(st.sampled_from(("mean", "sum", "amax"))), {"self": dims}, attributes
    name = draw(st.sampled_from(("avg", "max")))
    if kind == "adaptive":
        return f"adaptive_{name}_pool{spatial}d", {"self": dims}, {"output_size": [1] * spatial}
    return f"{name}_pool{spatial}d", {"self": dims}, {"kernel_size": list(dims[2:]), "stride": []}


MERGED: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "sum": lambda shares: shares.sum(0),
    "maximum": lambda shares: shares.amax(0),
}


@pytest.mark.parametrize("strategy", [convolutions, transposed, products, places], ids=lambda each: each.__name__)
def test_shares_of_the_terms_are_merged_to_the_output(strategy: Any) -> None:
    """Shares of input channels or places, each computed from its own operands, are merged to the whole output."""

    @settings(max_examples=60, deadline=None, derandomize=True)
    @given(strategy(), st.data())
    def check(case: Case, data: st.DataObject) -> None:
        name, operands, attributes = case
        kind, use = GRAPH_OPERATORS[name], OperatorUse(attributes, operands)
        try:
            dims = kind.output(use)
        except ValueError:  # windows that do not fit
            return
        terms = kind.terms(use)
        assert terms is not None or strategy is not places
        if terms is None:
            return
        torch.manual_seed(0)
        tensors = tensors_of(kind, operands)
        axis = data.draw(st.integers(0, len(terms.dims) - 1))
        cut = data.draw(st.integers(0, terms.dims[axis]))
        shares = []
        for span in ((0, cut), (cut, terms.dims[axis])):
            if span[0] < span[1]:
                found = kind.partial(use, along(terms.dims, axis, span))
                parts = {role: tensors[role][index(own)] for role, own in found.inputs.items()}
                smaller = OperatorUse(found.attributes, {role: tuple(part.shape) for role, part in parts.items()})
                assert kind.output(smaller) == dims
                shares.append(run_calls(kind.calls(smaller), parts)[0][index(found.crop)])
        complete = run_calls(kind.calls(use), tensors)[0]
        torch.testing.assert_close(MERGED[terms.merge](torch.stack(shares)), complete, rtol=1e-5, atol=1e-5)

    check()


@pytest.mark.parametrize("strategy", [convolutions, transposed], ids=lambda each: each.__name__)
def test_the_share_of_padding_is_what_ones_lose(strategy: Any) -> None:
    """Of an input of ones by weights of ones, the mean output is the number of weights, less the share of padding."""

    @settings(max_examples=60, deadline=None, derandomize=True)
    @given(strategy())
    def check(case: Case) -> None:
        name, operands, attributes = case
        kind, use = GRAPH_OPERATORS[name], OperatorUse(attributes, operands)
        try:
            kind.output(use)
        except ValueError:  # windows that do not fit
            return
        ones = {role: torch.full(dims, float(role != "bias")) for role, dims in operands.items()}
        weight, groups = operands["weight"], attributes["groups"]
        each = math.prod(weight[2:]) * operands["input"][1] // groups
        found = float(run_calls(kind.calls(use), ones)[0].double().mean())
        assert found == pytest.approx(each * (1 - kind.padding_share(use)), rel=1e-5, abs=1e-6)

    check()


def test_a_fully_connected_layer_reads_no_padding() -> None:
    """And a product of matrices has no bias for a constant."""
    linear, product = GRAPH_OPERATORS["linear"], GRAPH_OPERATORS["matmul"]
    assert linear.padding_share(OperatorUse({}, {"input": (1, 3), "weight": (2, 3)})) == 0
    assert product.padding_share(OperatorUse({}, {"self": (1, 3), "other": (3, 2)})) == 1


@pytest.mark.parametrize(
    ("operator", "attributes", "dims"),
    [
        ("mean", {"dim": (0, 2, 3)}, (2, 3, 4, 4)),
        ("std", {"dim": (2, 3)}, (1, 3, 4, 4)),
        ("adaptive_avg_pool2d", {"output_size": (2, 1)}, (1, 3, 4, 4)),
        ("avg_pool2d", {"kernel_size": (4, 4), "padding": (1, 1)}, (1, 3, 4, 4)),
        ("avg_pool2d", {"kernel_size": (4, 4), "divisor_override": 3}, (1, 3, 4, 4)),
        ("max_pool2d", {"kernel_size": (2, 2)}, (1, 3, 4, 4)),
    ],
)
def test_places_that_are_not_joined_alike_are_not_shared_out(
    operator: str, attributes: dict[str, Any], dims: Dims
) -> None:
    """Means over samples, deviations, several outputs, padding and divisors of one's own have no terms."""
    assert GRAPH_OPERATORS[operator].terms(OperatorUse(attributes, {"self": dims})) is None


def test_an_operator_without_terms_says_so() -> None:
    """Grouped convolutions and activations have no shares; a divisor of a share is a number of values."""
    use = OperatorUse({"groups": 2}, {"input": (1, 4, 5, 5), "weight": (4, 2, 1, 1)})
    assert GRAPH_OPERATORS["conv"].terms(use) is None
    with pytest.raises(ValueError, match="relu has no terms"):
        GRAPH_OPERATORS["relu"].partial(OperatorUse({}, {"self": (1, 4)}), Region(((0, 2),)))
    with pytest.raises(ValueError, match="`divisor` must be a number of values, at least 1, got 0"):
        GRAPH_OPERATORS["mean"].output(OperatorUse({"dim": (2, 3), "divisor": 0}, {"self": (1, 4, 5, 5)}))


def index(region: Region) -> tuple[slice, ...]:
    return tuple(slice(start, stop) for start, stop in region.ranges)


def test_every_kind_has_a_torch_implementation() -> None:
    """Each overload that is read, and each that a kind is run by, is one of torch's, and is read by one kind only."""
    for kind in GRAPH_OPERATORS.values():
        for name in kind.aten:
            overload(name)
    for name in IDENTITIES:
        overload(name)
    assert sum(len(kind.aten) for kind in GRAPH_OPERATORS.values()) == len(BY_OVERLOAD)
    assert not IDENTITIES & BY_OVERLOAD.keys()


def test_a_cut_along_rows_needs_a_halo() -> None:
    """Rows 4 to 8 of a 3x3 convolution need one row more on each side, and padding only at the border."""
    kind = GRAPH_OPERATORS["conv"]
    use = OperatorUse({"padding": [1, 1]}, {"input": (1, 3, 8, 8), "weight": (16, 3, 3, 3)})
    found = kind.restrict(use, Region(((0, 1), (0, 16), (4, 8), (0, 8))))
    assert found.inputs["input"].ranges == ((0, 1), (0, 3), (3, 8), (0, 8))
    assert found.attributes["padding"] == [[0, 1], [1, 1]]


def test_groups_are_cut_whole() -> None:
    """Half of the output channels of a grouped convolution need half of the inputs and of the weights."""
    kind = GRAPH_OPERATORS["conv"]
    use = OperatorUse({"groups": 4}, {"input": (1, 8, 5, 5), "weight": (16, 2, 1, 1)})
    found = kind.restrict(use, Region(((0, 1), (8, 16), (0, 5), (0, 5))))
    assert kind.cuts(use)[1] == 4
    assert found.inputs["input"].ranges[1] == (4, 8)
    assert found.inputs["weight"].ranges[0] == (8, 16)
    assert found.attributes["groups"] == 2


def test_heads_stay_together_through_the_reshape_of_a_transformer() -> None:
    """The values of heads 1 to 3 of the queries are one run of the joined projection of a vision transformer."""
    kind = GRAPH_OPERATORS["reshape"]
    use = OperatorUse({"size": [1, 197, 3, 3, 64]}, {"self": (1, 197, 576)})
    found = kind.restrict(use, Region(((0, 1), (0, 197), (0, 1), (1, 3), (0, 64))))
    assert found.inputs["self"].ranges == ((0, 1), (0, 197), (64, 192))


@pytest.mark.parametrize(
    ("name", "operands", "attributes", "macs"),
    [
        ("conv", {"input": (1, 3, 224, 224), "weight": (64, 3, 7, 7)}, {"stride": 2, "padding": 3}, 118_013_952),
        ("conv", {"input": (1, 32, 14, 14), "weight": (32, 1, 3, 3)}, {"padding": 1, "groups": 32}, 32 * 9 * 196),
        ("conv_transpose", {"input": (1, 8, 4, 4), "weight": (8, 4, 2, 2)}, {"stride": 2}, 8 * 16 * 4 * 4),
        ("linear", {"input": (1, 197, 192), "weight": (576, 192)}, {}, 197 * 192 * 576),
        ("attention", dict.fromkeys(("query", "key", "value"), (1, 3, 197, 64)), {}, 2 * 3 * 197**2 * 64),
        ("relu", {"self": (1, 64, 8, 8)}, {}, 0),
    ],
)
def test_multiply_accumulates(name: str, operands: Any, attributes: Any, macs: int) -> None:
    """MACs are the textbook's, and the priced operators of a kind have as many."""
    kind, use = GRAPH_OPERATORS[name], OperatorUse(attributes, operands)
    assert kind.macs(use) == macs
    assert sum(operator.macs for operator in kind.priced(use)) == macs


def test_operands_that_do_not_fit_are_named_with_their_sizes() -> None:
    """A shape that contradicts its weight is an error that says both sizes."""
    use = OperatorUse({}, {"input": (1, 4, 8, 8), "weight": (16, 3, 3, 3)})
    with pytest.raises(ValueError, match="16x3x3x3 is no weight in 1 groups for input 1x4x8x8"):
        GRAPH_OPERATORS["conv"].output(use)


def test_a_larger_window_than_input_is_an_error() -> None:
    """No windows, no output."""
    use = OperatorUse({"kernel_size": [9, 9]}, {"self": (1, 3, 8, 8)})
    with pytest.raises(ValueError, match="windows of 9 do not fit"):
        GRAPH_OPERATORS["max_pool2d"].output(use)


def test_the_padding_of_a_maximum_never_wins() -> None:
    """Uneven padding of a maximum is minus infinity."""
    kind = GRAPH_OPERATORS["max_pool2d"]
    use = OperatorUse({"kernel_size": [2, 2], "stride": [2, 2], "padding": [[0, 1], [1, 0]]}, {"self": (1, 1, 3, 3)})
    found = run_calls(kind.calls(use), {"self": torch.full((1, 1, 3, 3), -5.0)})[0]
    assert found.max().item() == -5.0
    assert math.prod(found.shape) == 4
