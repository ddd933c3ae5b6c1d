"""The contract of a split scheme: its plans compute what the network computes, on all devices, or it refuses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import pytest

from sepnas.errors import PlanError
from sepnas.partition.counts import count_partition
from sepnas.partition.graph import Graph
from sepnas.partition.schemes.registry import SCHEMES, partition
from sepnas.partition.schemes.scheme import Scheme
from sepnas.plan.document import PlanDocument
from sepnas.plan.plan import Plan
from sepnas.plan.schedule import schedule
from sepnas.plan.validation import check_plan
from sepnas.testing.graphs import SMALL_GRAPHS, Builder

TOLERANCE = 1e-4
"""Largest error relative to the largest value of an answer."""
SHARES: tuple[Sequence[float], ...] = ((1, 1), (3, 1), (1, 1, 1), (2, 1, 3), (1, 2, 1, 1, 2))


@dataclass(frozen=True)
class Formula:
    """What a scheme's closed formulas say of a graph over devices with these shares.

    ``payload_bytes`` are those between devices, with the answer's; ``macs`` are those of all devices.
    """

    graph: Graph
    shares: Sequence[float]
    payload_bytes: int
    macs: int


class SchemeContract:
    """Fixture: ``scheme`` is a :class:`sepnas.partition.schemes.scheme.Scheme`. Override ``formulas`` with cases of the
    scheme's own formulas."""

    @pytest.fixture
    def scheme(self) -> Scheme:
        raise NotImplementedError("override the fixture `scheme`")

    @pytest.fixture
    def formulas(self) -> Sequence[Formula]:
        return ()

    @pytest.fixture
    def networks(self) -> Mapping[str, tuple[Builder, Graph]]:
        pytest.importorskip("torch")
        return small_networks()

    @pytest.fixture
    def plans(self, scheme: Scheme, networks: Mapping[str, tuple[Builder, Graph]]) -> list[tuple[Builder, Graph, Plan]]:
        """The plan of each network for each of :data:`SHARES`, but for those that the scheme refuses."""
        return [(*networks[name], plan) for name, plan in small_plans(scheme.name)]

    def test_it_is_registered(self, scheme: Scheme) -> None:
        """Options and tables find the scheme by its name, and its summary is one line."""
        assert SCHEMES[scheme.name] is scheme
        assert scheme.summary
        assert "\n" not in scheme.summary

    def test_it_splits_something(self, plans: list[tuple[Builder, Graph, Plan]]) -> None:
        """At least one of the small networks is split over two devices."""
        assert any(plan.num_devices == 2 for _, _, plan in plans)

    def test_devices_compute_what_the_network_computes(self, plans: list[tuple[Builder, Graph, Plan]]) -> None:
        """Answers are those of the whole network, to 1e-4 of the largest value, for a batch of two."""
        for made, graph, plan in plans:
            assert relative_error(plan, graph, made) <= TOLERANCE, (graph.nodes[0].name, plan.num_devices)

    def test_plans_are_valid_documents(self, plans: list[tuple[Builder, Graph, Plan]]) -> None:
        """A plan passes the checks of any plan, and is the same after a round trip through its file."""
        for _, _, plan in plans:
            check_plan(plan, "the plan")
            assert PlanDocument.from_data(PlanDocument.of(plan).to_data()).plan() == plan

    def test_each_device_works(self, plans: list[tuple[Builder, Graph, Plan]]) -> None:
        """Each device computes something, and together they compute no less than the network."""
        for _, graph, plan in plans:
            assert all(plan.segments)
            assert sum(count_partition(graph, plan).macs) >= graph.macs

    def test_a_refusal_says_why(self, scheme: Scheme, networks: Mapping[str, tuple[Builder, Graph]]) -> None:
        """What cannot be split is refused with the scheme or the network named, and the number of devices."""
        for _, graph in networks.values():
            for shares in (*SHARES, [1] * 40):
                message = refusal_of(graph, scheme.name, tuple(shares))
                if message is not None:
                    assert scheme.name in message or f"'{graph.name}'" in message
                    assert str(len(shares)) in message

    def test_equal_arguments_give_equal_plans(
        self, scheme: Scheme, networks: Mapping[str, tuple[Builder, Graph]]
    ) -> None:
        """A plan depends on the graph and the proportions of the shares alone."""
        for _, graph in networks.values():
            if refusal_of(graph, scheme.name, (1, 1)) is None:
                assert partition(graph, scheme.name, (1, 1)) == partition(graph, scheme.name, (2.0, 2.0))
                return

    def test_bytes_and_macs_are_those_of_its_formulas(self, scheme: Scheme, formulas: Sequence[Formula]) -> None:
        """The closed formulas of its docstring hold to the unit."""
        for each in formulas:
            plan = partition(each.graph, scheme.name, each.shares)
            assert plan.payload_bytes() == each.payload_bytes
            assert sum(count_partition(each.graph, plan).macs) == each.macs


@cache
def small_networks() -> Mapping[str, tuple[Builder, Graph]]:
    """The small graphs with their weights, by name."""
    import torch

    torch.manual_seed(0)
    made = {name: make() for name, make in SMALL_GRAPHS.items()}
    return {name: (each, each.graph()) for name, each in made.items()}


@cache
def small_plans(scheme: str) -> list[tuple[str, Plan]]:
    """The plans of a scheme for the small graphs, by the graph's name."""
    found = []
    for name, (_, graph) in small_networks().items():
        for shares in SHARES:
            if refusal_of(graph, scheme, tuple(shares)) is None:
                found.append((name, partition(graph, scheme, shares)))
    return found


def refusal_of(graph: Graph, scheme: str, shares: Sequence[float]) -> str | None:
    """Why a scheme does not split a graph so; None if it does."""
    try:
        partition(graph, scheme, shares)
    except PlanError as error:
        return str(error)
    return None


def relative_error(plan: Plan, graph: Graph, made: Builder, batch: int = 2) -> float:
    """The largest error of a plan against the whole network, relative to the largest value."""
    import torch

    from sepnas.nets.partitioned import PartitionedNetwork
    from sepnas.nets.planned import lookup_of, run_plan

    network = PartitionedNetwork(graph, made.weights).eval()
    x = torch.randn(batch, *graph.tensors["image"].dims[1:], generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        wanted = torch.cat([network(x[place : place + 1]) for place in range(batch)])
        [found] = run_plan(schedule(plan), lookup_of(network), {"image": x}).values()
    return float((found - wanted).abs().max() / wanted.abs().max().clamp(min=1e-6))
