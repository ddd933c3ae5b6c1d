"""Schemes: what devices compute together is what the network computes; bytes and MACs are those of the formulas."""

from __future__ import annotations

import math
from itertools import combinations, pairwise

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from sepnas.errors import PlanError, SpecError
from sepnas.nets.partitioned import PartitionedNetwork
from sepnas.nets.planned import lookup_of, run_plan
from sepnas.partition import estimates
from sepnas.partition.estimates import multiplying_places
from sepnas.partition.graph import Graph
from sepnas.partition.lowering import lower
from sepnas.partition.max_flow import Arcs, first_side
from sepnas.partition.propagation import fused
from sepnas.partition.regions import Layout, difference, intersection, joined, shares_of
from sepnas.partition.runs import MAX_RUN, best_borders
from sepnas.partition.schemes.grid import tiles
from sepnas.partition.schemes.minimum_cut import arcs_of
from sepnas.partition.schemes.registry import SCHEMES, partition
from sepnas.partition.schemes.scheme import split_where_possible
from sepnas.plan.document import PlanDocument
from sepnas.plan.plan import Plan
from sepnas.plan.schedule import schedule
from sepnas.plan.shapes import Region
from sepnas.testing.graphs import Builder, fully_connected, residual
from tests.partition.chains import chains, equal_chain
from tests.partition.test_trace import made as made_network
from tests.partition.test_trace import traced

DEVICES = (2, 3, 4, 5, 7)
TOLERANCE = 1e-4
DUPLICATING = ("fused-tiles", "fused-grid", "pipeline", "balanced-pipeline", "groups")
"""Schemes that compute halos twice, or share out whole layers."""


def macs_of(plan: Plan) -> list[int]:
    return [sum(segment.flops // 2 for segment in segments.values()) for segments in plan.segments]


def error_of(plan: Plan, made: Builder, batch: int = 2) -> float:
    """The largest error of a plan against the whole network, relative to the largest value."""
    graph = made.graph()
    network = PartitionedNetwork(graph, made.weights).eval()
    x = torch.randn(batch, *graph.tensors["image"].dims[1:])
    with torch.no_grad():
        wanted = torch.cat([network(each) for each in x.split(1)])  # type: ignore[misc]
        found = run_plan(schedule(plan), lookup_of(network), {"image": x})["scores"]
    return ((found - wanted).abs().max() / wanted.abs().max().clamp(min=1e-6)).item()


@pytest.mark.parametrize("name", SCHEMES)
def test_devices_compute_what_the_network_computes(name: str) -> None:
    """Chains of odd sizes, strides, paddings, dilations and groups, over 2 to 7 devices, even and uneven, are exact."""

    @settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(chains(), st.sampled_from(DEVICES), st.data())
    def check(made: Builder, devices: int, data: st.DataObject) -> None:
        torch.manual_seed(0)
        uneven = st.lists(st.sampled_from((1.0, 2.0, 3.5)), min_size=devices, max_size=devices)
        shares = data.draw(st.one_of(st.just([1.0] * devices), uneven))
        graph = made.graph()
        try:
            plan = lower(graph, SCHEMES[name].layouts(graph, shares), devices)
        except PlanError as error:
            assume("device" not in str(error) and "stages" not in str(error))
            raise
        assert PlanDocument.from_data(PlanDocument.of(plan).to_data()).plan() == plan
        assert error_of(plan, made) <= TOLERANCE

    check()


def residual_network() -> Builder:
    torch.manual_seed(0)
    return residual()


@pytest.mark.parametrize("devices", DEVICES)
@pytest.mark.parametrize("name", [name for name in SCHEMES if not SCHEMES[name].max_devices])
def test_each_device_gets_a_part(name: str, devices: int) -> None:
    """Residual blocks over 2 to 7 unequal devices: exact, and the work is as uneven as the shares say."""
    made, shares = residual_network(), [1.0 + 0.5 * (rank % 3) for rank in range(devices)]
    plan = partition(made.graph(), name, shares)
    assert min(map(len, plan.programs)) > 0
    assert error_of(plan, made) <= TOLERANCE
    if name not in DUPLICATING:
        assert sum(macs_of(plan)) == made.graph().macs
        assert macs_of(plan)[1] > macs_of(plan)[0]


@pytest.mark.parametrize("devices", [2, 3, 4])
@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_bytes_and_macs_of_rows(devices: int, kernel: int) -> None:
    """A layer costs 8 W C p bytes for each border; only the first takes its rows from the client; MACs stay."""
    layers, channels, side = 3, 6, 24
    graph = equal_chain(layers, channels, side, kernel).graph()
    plan = partition(graph, "rows", [1] * devices)
    halos = 8 * side * channels * (kernel // 2) * (devices - 1) * (layers - 1)
    gathered = 4 * channels * side * side * (devices - 1) // devices  # for the answer
    assert plan.payload_bytes() == halos + gathered
    assert sum(macs_of(plan)) == graph.macs == layers * channels**2 * kernel**2 * side**2


def test_runs_of_layers_are_bounded() -> None:
    """The time in which runs are chosen grows with the number of layers, not with its square."""
    graph = equal_chain(MAX_RUN + 6, 1, 4).graph()
    borders = best_borders(graph, split_where_possible(graph, "H", [1, 1]), [1, 1])
    assert [borders[0], len(borders)] == [0, 2]
    assert max(after - before for before, after in pairwise([*borders, len(graph.nodes)])) <= 2 * MAX_RUN  # with ReLUs


@pytest.mark.parametrize(("devices", "rows", "columns"), [(4, 2, 2), (6, 2, 3), (9, 3, 3)])
def test_bytes_and_macs_of_a_grid(devices: int, rows: int, columns: int) -> None:
    """A layer costs all tiles with their rims, less the tiles; MACs stay."""
    layers, channels, side, pad = 3, 6, 24, 2
    graph = equal_chain(layers, channels, side, 2 * pad + 1).graph()
    plan = partition(graph, "grid", [1] * devices)
    rims = (side + 2 * pad * (rows - 1)) * (side + 2 * pad * (columns - 1)) - side**2
    gathered = side * side * (devices - 1) // devices  # for the answer
    assert plan.payload_bytes() == 4 * channels * (rims * (layers - 1) + gathered)
    assert macs_of(plan) == [graph.macs // devices] * devices


@pytest.mark.parametrize("devices", [2, 3, 4])
def test_bytes_and_macs_of_output_channels(devices: int) -> None:
    """Each layer but the first gathers its V values: 4 (N - 1) V bytes; the answer is gathered by one device."""
    layers, channels, side = 3, 12, 9
    graph = equal_chain(layers, channels, side).graph()
    plan = partition(graph, "output-channels", [1] * devices)
    values = channels * side * side
    assert plan.payload_bytes() == 4 * (devices - 1) * values * (layers - 1) + 4 * values * (devices - 1) // devices
    assert macs_of(plan) == [graph.macs // devices] * devices


@pytest.mark.parametrize("devices", [2, 3, 4])
def test_bytes_and_macs_of_input_channels(devices: int) -> None:
    """Each layer reduces and scatters its V values: 4 (N - 1) V bytes; the answer is gathered by one device."""
    layers, channels, side = 3, 12, 9
    graph = equal_chain(layers, channels, side).graph()
    plan = partition(graph, "input-channels", [1] * devices)
    values = channels * side * side
    assert plan.payload_bytes() == 4 * (devices - 1) * values * layers + 4 * values * (devices - 1) // devices
    assert macs_of(plan) == [graph.macs // devices] * devices


@pytest.mark.parametrize("devices", [2, 3, 4])
def test_bytes_and_macs_of_pairs(devices: int) -> None:
    """A pair gathers its input and reduces its output; the wide layer between costs nothing."""
    channels, wide, side = 12, 48, 9
    made = Builder(channels, side, side)
    for _ in range(2):
        made.conv(wide, 3, padding=(1, 1))
        made.add("relu", {"self": made.last})
        made.conv(channels, 3, padding=(1, 1))
    graph, values = made.graph(), channels * side * side
    plan = partition(graph, "pairs", [1] * devices)
    assert plan.payload_bytes() == 4 * (devices - 1) * values * 3 + 4 * values * (devices - 1) // devices
    assert macs_of(plan) == [graph.macs // devices] * devices


@pytest.mark.parametrize("devices", [2, 3, 4])
@pytest.mark.parametrize("layers", [2, 4])
def test_bytes_and_macs_of_fused_tiles(devices: int, layers: int) -> None:
    """A run exchanges nothing; layer l of L is computed on 2 p (L - l) more rows for each border."""
    channels, side = 6, 36
    graph = equal_chain(layers, channels, side).graph()
    base = split_where_possible(graph, "H", [1] * devices)
    plan = lower(graph, fused(graph, base, dict.fromkeys(base, 0)), devices)
    a_row = channels**2 * 9 * side
    rows = sum(side + 2 * (devices - 1) * (layers - place) for place in range(1, layers + 1))
    assert sum(macs_of(plan)) == a_row * rows
    assert plan.payload_bytes() == 4 * channels * side * side * (devices - 1) // devices  # the answer alone
    taken = sum(piece.region.num_values for piece in plan.inputs[0].pieces)
    assert taken == channels * side * (side + 2 * layers * (devices - 1))


@pytest.mark.parametrize("devices", [2, 3, 4])
def test_bytes_and_macs_of_a_pipeline(devices: int) -> None:
    """Each cut of a chain costs the 4 V bytes that cross it, and stages of equal layers are equal."""
    channels, side = 6, 9
    graph = equal_chain(12, channels, side).graph()
    plan = partition(graph, "pipeline", [1] * devices)
    assert plan.payload_bytes() == 4 * channels * side * side * (devices - 1)
    assert macs_of(plan) == [graph.macs // devices] * devices
    assert [piece.device for piece in plan.outputs[0].pieces] == [devices - 1]


@pytest.mark.parametrize("devices", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_attention_is_split_by_heads(devices: int) -> None:
    """A vision transformer in pairs is exact on a batch, and each device computes some heads of each attention."""
    graph, weights, [x] = traced(made_network("timm:test_vit"), (3, 160, 160))
    plan = partition(graph, "pairs", [1] * devices)
    network, batch = PartitionedNetwork(graph, weights).eval(), torch.cat([x, x + 1])
    with torch.no_grad():
        wanted = torch.cat([network(each) for each in batch.split(1)])  # type: ignore[misc]
        [found] = run_plan(schedule(plan), lookup_of(network), {graph.inputs[0]: batch}).values()
    assert ((found - wanted).abs().max() / wanted.abs().max()).item() <= TOLERANCE
    attention = [node for node in graph.nodes if node.operator == "attention"]
    heads = graph.tensors[attention[0].outputs[0]].dims[1]
    for segments in plan.segments:
        parts = [node for segment in segments.values() for node in segment.nodes if node.operator == "attention"]
        assert all(node.shapes[0][1] < heads for node in parts)
    assert sum(macs_of(plan)) == graph.macs


def test_a_single_cut_is_where_least_crosses() -> None:
    """With equal devices, the latency is lowest where the fewest values are sent."""
    made = Builder(3, 16, 16)
    made.conv(8, 3, padding=(1, 1))
    made.conv(2, 3, padding=(1, 1))
    made.conv(8, 3, padding=(1, 1))
    assert partition(made.graph(), "single-cut", [1, 1]).payload_bytes() == 4 * 2 * 16 * 16
    with pytest.raises(PlanError, match="scheme single-cut takes at most 2 devices, got 3"):
        partition(made.graph(), "single-cut", [1, 1, 1])


def test_halves_of_the_bytes_in_fp16() -> None:
    """Messages between devices may have any wire format; in fp16 they have half the bytes, and the answer is near."""
    made = residual_network()
    exact, short = (partition(made.graph(), "rows", [1, 1, 1], wire) for wire in ("fp32", "fp16"))
    assert 2 * short.payload_bytes() == exact.payload_bytes()
    assert 0 < error_of(short, made) < 1e-2


def test_a_device_without_a_part_is_named() -> None:
    """More devices than rows are refused, with the scheme and the device; so are shares that are no numbers above 0."""
    graph: Graph = equal_chain(2, 4, 5).graph()
    with pytest.raises(PlanError, match="scheme rows finds work for 5 of 7 devices in network 'chain': device"):
        partition(graph, "rows", [1] * 7)
    with pytest.raises(SpecError, match="scheme 'diagonal' is none of output-channels, rows"):
        partition(graph, "diagonal", [1, 1])
    for shares in ([1, 0], [], [1, math.nan], [1e308, 1e308]):
        with pytest.raises(SpecError, match="one positive number for each device"):
            partition(graph, "rows", shares)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_network_without_operators_is_not_split(scheme: str) -> None:
    """A network that gives its input back has nothing to split, whatever the scheme."""
    graph = equal_chain(2, 4, 5).graph().model_copy(update={"nodes": ()})
    with pytest.raises(PlanError, match="has no operators"):
        partition(graph, scheme, [1, 1])


def test_an_operator_that_cannot_be_cut_is_named() -> None:
    """A layout that cuts an operator where it has no partial sums is an error that names the node."""
    made = residual_network()
    graph = made.graph()
    layouts = split_where_possible(graph, "C", [1, 1])
    relu = next(node for node in graph.nodes if node.operator == "relu")
    layouts[relu.name] = Layout(layouts[relu.name].pieces, {0: (0, 3), 1: (3, 24)})
    with pytest.raises(PlanError, match=rf"node '{relu.name}' \(relu\) has no partial sums"):
        lower(graph, layouts, 2)


@given(st.integers(1, 60), st.lists(st.floats(0.1, 9), min_size=1, max_size=8), st.integers(1, 5))
def test_shares_cover_everything_once(size: int, shares: list[float], multiple: int) -> None:
    """Ranges follow each other from 0 to the size, and their borders are multiples."""
    ranges = shares_of(size, shares, multiple)
    assert ranges[0][0] == 0
    assert ranges[-1][1] == size
    assert all(before[1] == after[0] for before, after in pairwise(ranges))
    assert all(start % multiple == 0 or start == size for start, _ in ranges)


def boxes(axes: int = 3) -> st.SearchStrategy[Region]:
    ends = st.tuples(st.integers(0, 6), st.integers(1, 6)).map(lambda pair: (pair[0], pair[0] + pair[1]))
    return st.lists(ends, min_size=axes, max_size=axes).map(lambda ranges: Region(tuple(ranges)))


@given(boxes(), boxes())
def test_a_difference_and_an_intersection_make_the_whole(one: Region, other: Region) -> None:
    """What is left of a region and what is common with another are disjoint and have all of its values."""
    left, common = [*difference(one, other)], intersection(one, other)
    pieces = [*left, common] if common else left
    assert sum(piece.num_values for piece in pieces) == one.num_values
    assert all(intersection(a, b) is None for i, a in enumerate(pieces) for b in pieces[:i])


@given(st.lists(boxes(2), max_size=6))
def test_joined_regions_are_disjoint_and_cover_all(regions: list[Region]) -> None:
    """Each region lies in one of the joined ones, none of which overlap."""
    found = joined(regions)
    assert all(any(intersection(each, region) == region for each in found) for region in regions)
    assert all(intersection(a, b) is None for i, a in enumerate(found) for b in found[:i])


class _Windows(nn.Module):
    """Attention within windows of 4x4 places, which lie along the axis of samples, between two convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.after = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.qkv, self.out, self.scores = nn.Linear(8, 24), nn.Linear(8, 8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        windows = self.before(x).reshape(1, 8, 3, 4, 3, 4).permute(0, 2, 4, 3, 5, 1).reshape(9, 16, 8)
        query, key, value = self.qkv(windows).reshape(9, 16, 3, 2, 4).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = nn.functional.scaled_dot_product_attention(query, key, value).transpose(1, 2).reshape(9, 16, 8)
        back = self.out(mixed).reshape(1, 3, 3, 4, 4, 8).permute(0, 5, 1, 3, 2, 4).reshape(1, 8, 12, 12)
        scores: Tensor = self.scores(self.after(torch.where(back > 0, back, x.mean())).mean((2, 3)))
        return scores


def test_what_cannot_be_sent_is_computed_where_it_is_needed() -> None:
    """Windows along the axis of samples, and truth values, keep no scheme from splitting the layers around them."""
    torch.manual_seed(0)
    graph, weights, inputs = traced(_Windows().eval(), (3, 12, 12))
    network = PartitionedNetwork(graph, weights).eval()
    for name in ("output-channels", "rows", "grid", "fused-tiles", "input-channels", "pairs"):
        plan = partition(graph, name, (1.0, 1.0, 1.0))
        with torch.no_grad():
            found = run_plan(schedule(plan), lookup_of(network), dict(zip(graph.inputs, inputs, strict=True)))
            assert torch.allclose(found[graph.outputs[0].name], network(*inputs), atol=1e-5), name
        assert max(macs_of(plan)) < graph.macs, name


@pytest.mark.parametrize("devices", [2, 3, 4])
def test_fully_connected_layers_are_split_by_outputs_and_by_inputs(devices: int) -> None:
    """AlexNet-like layers on flattened maps: each device has a share of each layer's weight, by rows or columns."""
    made = fully_connected()
    graph = made.graph()
    for scheme, axis in (("output-channels", 0), ("input-channels", 1)):
        plan = partition(graph, scheme, [1] * devices)
        assert error_of(plan, made) <= TOLERANCE
        for segments in plan.segments:
            weights = [weight for segment in segments.values() for weight in segment.weights]
            sizes = {weight.name: weight.region.dims for weight in weights if len(weight.region.dims) == 2}
            assert len(sizes) == 3
            assert all(dims[axis] < graph.tensors[name].dims[axis] for name, dims in sizes.items())


@pytest.mark.parametrize(("devices", "rows", "columns"), [(4, 2, 2), (9, 3, 3)])
def test_bytes_and_macs_of_a_fused_grid(devices: int, rows: int, columns: int) -> None:
    """A run exchanges nothing; layer l of L is computed on 2 p (L - l) more rows and columns for each border."""
    layers, channels, side = 3, 4, 36
    graph = equal_chain(layers, channels, side).graph()
    base = tiles(graph, [1] * devices)
    plan = lower(graph, fused(graph, base, dict.fromkeys(base, 0)), devices)
    places = sum(
        (side + 2 * (rows - 1) * (layers - at)) * (side + 2 * (columns - 1) * (layers - at))
        for at in range(1, layers + 1)
    )
    assert sum(macs_of(plan)) == channels**2 * 9 * places
    assert plan.payload_bytes() == 4 * channels * side * side * (devices - 1) // devices  # the answer alone


def _two_branches(wide: int, narrow: int) -> Builder:
    """A wide and a narrow branch that meet; each has two convolutions."""
    made = Builder(3, 8, 8)
    before, ends = made.conv(8, 3, padding=(1, 1)), []
    for inner in (wide, narrow):
        made.last = before
        made.conv(inner, 1)
        ends.append(made.conv(4, 3, padding=(1, 1)))
    made.add("add", {"self": ends[0], "other": ends[1]})
    made.conv(6, 1)
    return made


@pytest.mark.parametrize("shares", [[1, 1], [1, 3], [4, 1]])
@pytest.mark.parametrize(("wide", "narrow"), [(24, 2), (2, 24), (6, 6)])
def test_a_minimum_cut_is_the_best_of_all(shares: list[float], wide: int, narrow: int) -> None:
    """No choice of operators for device 0 that depend on each other alone takes less time, branches included."""
    graph = _two_branches(wide, narrow).graph()
    layers = multiplying_places(graph)
    arcs = arcs_of(graph, shares, layers[0], layers[-1])
    stays = first_side(arcs, "\n0", "\n1")
    assert stays is not None
    names = [node.name for node in graph.nodes]
    sent = [f"{name}\n" for name in names]

    def weight(kept: set[str]) -> float:
        inside = kept | {"\n0"} | {each for each in sent if each[:-1] in kept and _all_inside(arcs, each, kept)}
        return sum(cost for (start, end), cost in arcs.items() if start in inside and end not in inside)

    best = min(weight(set(kept)) for size in range(len(names) + 1) for kept in combinations(names, size))
    assert weight(stays & set(names)) == pytest.approx(best, rel=1e-6)


def _all_inside(arcs: Arcs, sent: str, kept: set[str]) -> bool:
    """Whether all who use a tensor stay with it, so that it is not sent."""
    return all(end in kept for start, end in arcs if start == sent)


def test_a_minimum_cut_of_a_chain_is_its_single_cut() -> None:
    """Without branches, the cut is where the fewest values cross; three devices are refused."""
    made = Builder(3, 16, 16)
    for outputs in (8, 2, 8):
        made.conv(outputs, 3, padding=(1, 1))
    assert partition(made.graph(), "minimum-cut", [1, 1]).payload_bytes() == 4 * 2 * 16 * 16
    with pytest.raises(PlanError, match="scheme minimum-cut takes at most 2 devices, got 3"):
        partition(made.graph(), "minimum-cut", [1, 1, 1])


def test_a_balanced_pipeline_splits_its_slow_stage() -> None:
    """Two layers over four devices, the second of three times the work: one device for the first, three for it."""
    made = Builder(16, 96, 96)
    made.conv(16, 3, padding=(1, 1))
    made.conv(48, 3, padding=(1, 1))
    graph = made.graph()
    with pytest.raises(PlanError, match="cannot be cut between layers into 4 stages"):
        partition(graph, "pipeline", [1] * 4)
    plan = partition(graph, "balanced-pipeline", [1] * 4)
    assert macs_of(plan) == [graph.macs // 4] * 4
    assert error_of(plan, made) <= TOLERANCE


def test_rows_change_to_channels_where_it_is_cheapest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where exchanges cost little, convolutions are split by rows, and fully connected layers by outputs."""
    monkeypatch.setattr(estimates, "MACS_PER_EXCHANGE", 1e3)
    monkeypatch.setattr(estimates, "MACS_PER_BYTE", 10.0)
    made = Builder(3, 64, 64)
    for outputs in (16, 16, 32):
        made.conv(outputs, 3, padding=(1, 1), stride=(2, 2))
        made.then("relu")
    made.then("reshape", size=(1, 32 * 64))
    made.linear(1024)
    made.then("relu")
    made.linear(1024)
    graph = made.graph()
    plan = partition(graph, "rows-then-channels", [1, 1])
    assert error_of(plan, made) <= TOLERANCE
    for segments in plan.segments:
        nodes = [node for segment in segments.values() for node in segment.nodes]
        assert all(node.shapes[0][1] == 16 for node in nodes if node.operator == "conv" and node.layer != "conv4")
        assert [node.shapes[0] for node in nodes if node.operator == "linear"] == [(1, 512)] * 2
    halos = 4 * (2 - 1) * (32 * 16 + 16 * 16)  # kernel 3 and stride 2 take a row more from above
    flat, hidden, answer = 32 * 64, 1024, 1024
    assert plan.payload_bytes() == halos + 4 * (flat // 2 + flat) + 4 * hidden + 4 * answer // 2
