"""What is remembered of operators changes no choice: layouts are those of the searches that remembered nothing."""

from __future__ import annotations

import hashlib

import pytest

from sepnas.errors import PlanError
from sepnas.partition.graph import Graph
from sepnas.partition.schemes.registry import SCHEMES
from tests.partition.chains import equal_chain
from tests.partition.test_schemes import residual_network

SHARES = ((1, 1), (1, 1, 1, 1), (1, 2, 3))
NETWORKS = {
    "chain": lambda: equal_chain(5, 12, 16).graph(),
    "long chain": lambda: equal_chain(24, 4, 10).graph(),
    "residual": lambda: residual_network().graph(),
}
DIGESTS = {"chain": "3e7778064454c569", "long chain": "3f60453a9a05e05c", "residual": "ce3f60adec069fa1"}
"""Of the layouts of all schemes for all ``SHARES``. A scheme that chooses otherwise on purpose has others."""


def digest_of(graph: Graph) -> str:
    found = hashlib.sha256()
    for scheme in SCHEMES.values():
        for shares in SHARES:
            try:
                layouts = scheme.layouts(graph, shares)
                text = repr([(name, each.pieces, dict(each.spans)) for name, each in layouts.items()])
            except PlanError as error:
                text = str(error)
            found.update(text.encode())
    return found.hexdigest()[:16]


@pytest.mark.parametrize("name", NETWORKS)
def test_layouts_are_those_of_before(name: str) -> None:
    """All schemes choose the same layouts as ever, also for a graph that has been split before."""
    graph = NETWORKS[name]()
    assert [digest_of(graph), digest_of(graph), digest_of(graph.model_copy())] == [DIGESTS[name]] * 3


def test_a_copy_of_a_graph_remembers_nothing() -> None:
    """A copy with other nodes has their costs, not those of the original."""
    graph = equal_chain(2, 4, 5).graph()
    assert graph.macs > 0
    bare = graph.model_copy(update={"nodes": tuple(node for node in graph.nodes if not graph.macs_of(node))})
    assert bare.macs == 0
    assert all(bare.cuts_of(node) == graph.cuts_of(node) for node in bare.nodes)
