"""What is remembered of operators changes no choice."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from sepnas.errors import PlanError
from sepnas.partition.graph import Graph
from sepnas.partition.schemes.registry import SCHEMES
from sepnas.plan.kinds.derived import DerivedUse, SmallerUse
from sepnas.plan.kinds.kind import OperatorUse
from sepnas.plan.shapes import Region
from tests.partition.chains import equal_chain
from tests.partition.test_schemes import residual_network

SHARES = ((1, 1), (1, 2, 3))


def chosen(graph: Graph) -> list[object]:
    """The layouts of all schemes for all ``SHARES``, or why there are none."""
    found: list[object] = []
    for scheme in SCHEMES.values():
        for shares in SHARES:
            try:
                found.append(dict(scheme.layouts(graph, shares)))
            except PlanError as error:
                found.append(str(error))
    return found


def anew(method: Callable[[DerivedUse, Region], SmallerUse]) -> Callable[[DerivedUse, Region], SmallerUse]:
    """The same for a use of which nothing is known yet."""

    def derived(self: DerivedUse, region: Region) -> SmallerUse:
        return method(DerivedUse(self.kind, OperatorUse(self.use.attributes, self.use.inputs)), region)

    return derived


@pytest.mark.parametrize("name", ["chain", "residual"])
def test_what_is_remembered_changes_no_layout(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """All schemes choose the same layouts for a graph that was split before, and where nothing is remembered."""
    graph = equal_chain(6, 6, 12).graph() if name == "chain" else residual_network().graph()
    found = chosen(graph)
    assert chosen(graph) == found
    for method in ("part", "partial"):
        monkeypatch.setattr(DerivedUse, method, anew(getattr(DerivedUse, method)))
    assert chosen(graph.model_copy()) == found


def test_a_copy_of_a_graph_remembers_nothing() -> None:
    """A copy with other nodes has their costs, not those of the original."""
    graph = equal_chain(2, 4, 5).graph()
    assert graph.macs > 0
    bare = graph.model_copy(update={"nodes": tuple(node for node in graph.nodes if not graph.macs_of(node))})
    assert bare.macs == 0
    assert all(bare.cuts_of(node) == graph.cuts_of(node) for node in bare.nodes)
