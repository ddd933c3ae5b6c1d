"""Plans of networks that are split as they are have a price: by rates, and by profiles of measured operators."""

from __future__ import annotations

import pytest

from sepnas.cost.prediction import predict
from sepnas.partition.schemes.registry import SCHEMES, on_one_device, partition
from sepnas.spec.cluster import uniform_cluster
from tests.cost.test_cost_times import profile_of, true_s
from tests.partition.test_schemes import residual_network


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_split_is_priced(scheme: str) -> None:
    """Each device computes its MACs at its rate, or as long as its operators were measured to take."""
    plan = partition(residual_network().graph(), scheme, [1, 1])
    cluster = uniform_cluster(2)
    found = predict(plan, cluster).simulation
    flops = [sum(segment.flops for segment in segments.values()) for segments in plan.segments]
    assert found.compute_s == pytest.approx([each / 5e9 for each in flops])
    assert found.payload_bytes == plan.payload_bytes()
    assert found.latency_s > max(found.compute_s)
    operators = [[each for segment in s.values() for each in segment.operators] for s in plan.segments]
    profile = profile_of([*dict.fromkeys(each for own in operators for each in own)], noise=0.0)
    measured = [device.model_copy(update={"profile": profile}) for device in cluster.devices]
    found = predict(plan, cluster.model_copy(update={"devices": tuple(measured)})).simulation
    assert found.compute_s == pytest.approx([sum(map(true_s, own)) for own in operators])


def test_one_device_alone_sends_nothing() -> None:
    """No split at all is a plan, too: one device computes the whole network, whichever it is."""
    graph = residual_network().graph()
    plan = on_one_device(graph, 1, 3)
    assert plan.payload_bytes() == 0
    assert [sum(segment.flops for segment in segments.values()) for segments in plan.segments] == [0, 2 * graph.macs, 0]
    assert plan.answering == (1,)
