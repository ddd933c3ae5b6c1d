"""Processes of this machine as a cluster: measured running, and what disturbs them is told."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from sepnas.cost.simulator import simulate
from sepnas.local.measured_cluster import (
    _Measured,
    _networks,
    _small_network,
    _solved,
    cluster_like,
    measure_local_cluster,
)
from sepnas.local.pipeline import Outcome
from sepnas.measure.busy import Others
from sepnas.separable.build import build_plan
from sepnas.spec.cluster import Cluster, Device, Link

DEVICE = Device(name="x", flops_per_s=1e9, layer_overhead_s=1e-5, memory_bytes=1 << 30)


def test_a_latency_is_solved_for() -> None:
    """The links that measured latencies are explained by are found again, and none where there is nothing left."""
    plan = build_plan(_networks(3, _small_network(3))[1])

    def linked(latency_s: float) -> Cluster:
        link = Link(bandwidth_bytes_per_s=1e9, latency_s=latency_s, medium="own")
        return cluster_like(DEVICE, 3, link, "x")

    for wanted_s in (0.0, 3e-4, 0.2):
        measured = _Measured(plan, (), simulate(plan, linked(wanted_s)).latency_s)
        assert _solved(measured, linked) == pytest.approx(wanted_s, abs=1e-9)
    assert _solved(_Measured(plan, (), 0.0), linked) == 0.0


@pytest.mark.skipif(not Path("/proc/stat").exists(), reason="only Linux says what processes take")
def test_the_load_of_other_programs_is_measured() -> None:
    """A busy process counts as another's unless it is named as one's own; seen until it has counted."""
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as busy:
        all_others, without = Others(), Others([busy.pid])
        try:
            while all_others.share() - without.share() < 0.01:
                assert busy.poll() is None
                time.sleep(0.05)
        finally:
            busy.kill()


@pytest.mark.parametrize(
    ("predicted_s", "others", "says"),
    [(0.9, 0.9, ""), (1.19, 0.0, ""), (0.5, 0.7, "took 70% of"), (2.0, 0.0, "9 processes share")],
)
def test_a_wrong_prediction_is_explained(predicted_s: float, others: float, says: str) -> None:
    """Within a fifth nothing is said; beyond, what took the processors, or how many processes share them."""
    simulation = SimpleNamespace(latency_s=predicted_s)
    answers = SimpleNamespace(bench=SimpleNamespace(latency_median_s=1.0), others=others)
    plan = SimpleNamespace(num_devices=8 + len(os.sched_getaffinity(0)) - 2)
    outcome = Outcome(None, None, 0, None, plan, simulation, answers)  # type: ignore[arg-type]
    said = outcome.why_latency_differs
    assert (says.replace("9", str(plan.num_devices + 1)) in said) if says else not said


@pytest.mark.slow
def test_this_machine_is_measured() -> None:
    """Real workers give a cluster whose links take time, and of as many devices as were asked for."""
    cluster = measure_local_cluster(2)
    assert cluster.num_devices == 2
    assert cluster.client_link is not None
    assert 0 < cluster.devices[0].flops_per_s < 1e15
    assert cluster.links[0].latency_s > 0
