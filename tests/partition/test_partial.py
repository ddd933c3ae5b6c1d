"""Global means, sums and maxima of split maps: channels travel instead of maps, and answers stay the network's."""

from __future__ import annotations

import pytest
import torch

from sepnas.errors import PlanError
from sepnas.partition.counts import count_partition
from sepnas.partition.graph import Graph
from sepnas.partition.lowering import lower, needed
from sepnas.partition.propagation import fused
from sepnas.partition.regions import Layout
from sepnas.partition.schemes.grid import tiles
from sepnas.partition.schemes.registry import partition
from sepnas.partition.schemes.scheme import split_where_possible
from sepnas.plan.document import PlanDocument
from sepnas.plan.plan import Plan
from sepnas.plan.shapes import Region
from sepnas.plan.steps import Merge
from sepnas.testing.graphs import SMALL_GRAPHS, Builder
from sepnas.testing.schemes import relative_error

TOLERANCE = 1e-4
CHANNELS, HIDDEN, SIDE, CLASSES = 12, 3, 24, 5
SPATIAL = ("rows", "grid", "fused-tiles", "fused-grid")


def squeezed(blocks: int = 2, pooled: str = "mean", kernel: int = 1) -> Builder:
    """Convolutions with squeeze and excite, and a classifier on the mean of the last map."""
    torch.manual_seed(0)
    made = Builder(3, SIDE, SIDE)
    for _ in range(blocks):
        made.conv(CHANNELS, kernel, padding=(kernel // 2, kernel // 2))
        made.gate(HIDDEN, pooled)
    made.head(CLASSES)
    return made


def merges_of(plan: Plan) -> set[str]:
    return {step.kind for program in plan.programs for step in program if isinstance(step, Merge)}


@pytest.mark.parametrize("devices", [2, 3, 4])
@pytest.mark.parametrize("scheme", SPATIAL)
def test_bytes_of_squeeze_and_excite(scheme: str, devices: int) -> None:
    """A gate costs 4 N (N - 1) C bytes, a classifier 4 (N - 1) C; no map is sent, only small layers are repeated."""
    made = squeezed()
    graph = made.graph()
    plan = partition(graph, scheme, [1] * devices)
    assert plan.payload_bytes() == 4 * (devices - 1) * (2 * devices * CHANNELS + CHANNELS)
    assert sum(count_partition(graph, plan).macs) == graph.macs + 2 * (devices - 1) * 2 * HIDDEN * CHANNELS
    assert merges_of(plan) == {"sum"}
    assert relative_error(plan, graph, made) <= TOLERANCE


@pytest.mark.parametrize("devices", [2, 4])
def test_halos_of_a_fused_run_leave_the_shares_of_its_means_apart(devices: int) -> None:
    """Rows that two devices compute count once in a mean, with a gate between two layers that need neighbours."""
    made = squeezed(kernel=3)
    graph = made.graph()
    for base in (split_where_possible(graph, "H", [1] * devices), tiles(graph, [1] * devices)):
        plan = lower(graph, fused(graph, base, dict.fromkeys(base, 0)), devices)
        assert plan.payload_bytes() == 4 * (devices - 1) * (2 * devices * CHANNELS + CHANNELS)
        assert sum(count_partition(graph, plan).macs) > graph.macs
        assert relative_error(plan, graph, made) <= TOLERANCE


@pytest.mark.parametrize(
    ("pooled", "merge"),
    [("adaptive_avg_pool2d", "sum"), ("amax", "maximum"), ("adaptive_max_pool2d", "maximum")],
)
def test_each_way_to_join_places_is_shared_out(pooled: str, merge: str) -> None:
    """Adaptive pooling and maxima cost what a mean costs; shares of maxima are merged to their maximum."""
    made = squeezed(pooled=pooled)
    graph = made.graph()
    plan = partition(graph, "grid", [2, 1, 1, 1])
    assert plan.payload_bytes() == 4 * 3 * (2 * 4 * CHANNELS + CHANNELS)
    assert merges_of(plan) == {merge, "sum"}
    assert relative_error(plan, graph, made) <= TOLERANCE
    assert PlanDocument.from_data(PlanDocument.of(plan).to_data()).plan() == plan


@pytest.mark.parametrize("scheme", SPATIAL)
@pytest.mark.parametrize("name", ["residual", "gated", "video"])
def test_no_map_is_gathered_for_a_classifier(scheme: str, name: str) -> None:
    """One device gets the others' shares of the pooled values, and nothing of the last map."""
    graph = SMALL_GRAPHS[name]().graph()
    plan = partition(graph, scheme, [1, 1])
    pooling = [
        node for node in graph.nodes if node.kind and node.kind.terms(graph.use(node)) and not graph.macs_of(node)
    ]
    data = pooling[-1].inputs["self"]
    assert data not in {message.tensor.split("#")[0] for message in plan.transfers()}
    parts = [node for s in plan.segments for segment in s.values() for node in segment.nodes]
    assert len({node.terms for node in parts if node.layer == pooling[-1].name}) == 2
    [last] = [message for message in plan.transfers() if message.tensor.split("#")[0] == pooling[-1].outputs[0]]
    assert last.shape.num_values == graph.tensors[data].dims[1]


def test_a_mean_of_tokens_is_shared_out() -> None:
    """Attention in pairs splits tokens between its layers: their mean costs the values of one token a device."""
    torch.manual_seed(0)
    made = Builder(40, 6)
    made.linear(8)
    made.then("mean", dim=(1,), keepdim=False)
    graph = made.graph()
    plan = partition(graph, "pairs", [1, 1, 1])
    assert plan.payload_bytes() == 4 * 2 * 8
    assert relative_error(plan, graph, made) <= TOLERANCE


def test_channels_of_a_mean_stay_with_their_device() -> None:
    """Split by output channels, a mean is computed by the device that has the channel: nothing is merged."""
    made = squeezed(1)
    plan = partition(made.graph(), "output-channels", [1, 1, 1])
    assert merges_of(plan) == {"assemble"}
    gathered = CHANNELS + HIDDEN + CHANNELS  # by the two layers of the gate, and by the classifier
    assert plan.payload_bytes() == 4 * 2 * gathered + 4 * (CLASSES - 2)


def test_what_others_have_too_is_left_out() -> None:
    """A layer on every device is computed only by those that need it, and by one if they need it from another."""
    made = Builder(4, 6, 6)
    made.conv(4, 1)
    made.then("relu")
    graph, everywhere = made.graph(), range(3)
    first, last = graph.nodes
    dims = graph.tensors[last.outputs[0]].dims
    replicated = Layout.replicated(dims, everywhere)
    found = needed(graph, {first.name: replicated, last.name: Layout.on(2, dims)})
    assert found[first.name].pieces == ((2, Region(tuple((0, size) for size in dims))),)
    elsewhere = needed(graph, {first.name: Layout.replicated(dims, (0, 1)), last.name: Layout.on(2, dims)})
    assert elsewhere[first.name].devices == (0,)


def test_a_device_with_copies_alone_has_no_part() -> None:
    """A device that would only repeat what another one computes for itself is refused as one without a part."""
    graph: Graph = squeezed(1).graph()
    with pytest.raises(PlanError, match="scheme rows finds work for 24 of 30 devices"):
        partition(graph, "rows", [1] * 30)
