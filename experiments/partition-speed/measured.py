"""Some of the plans on emulated boards: real workers, messages and answers; only paces and links are the boards'."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from boards import cluster
from predicted import plan_of

from sepnas.api import export
from sepnas.emulation.bench import run_bench
from sepnas.emulation.cluster import ShapingChoice, emulated_cluster, open_session, read_setting
from sepnas.partition.graph import load_graph

Row = dict[str, Any]
MEASURED_S, MAX_REQUESTS, MIN_REQUESTS = 8.0, 40, 5
TIMEOUT_S = 120.0


@contextmanager
def before_others(in_real_time: bool) -> Iterator[None]:
    """If asked for, this process and those that it starts come before all others: boards compute little here."""
    before, level = os.sched_getscheduler(0), os.sched_getparam(0)
    if in_real_time:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    try:
        yield
    finally:
        os.sched_setscheduler(0, before, level)


def measure(folder: Path, case: Row, shaping: ShapingChoice, in_real_time: bool) -> Row:
    """The median latency of real requests, beside the prediction for the same deployment and cluster."""
    plan = plan_of(load_graph(folder), case["scheme"], case["devices"])
    with tempfile.TemporaryDirectory(prefix="sepnas-partition-speed-") as name:
        where = Path(name)
        export(folder, where / "deployment", plan=plan, engines=[case["engine"]])
        path = cluster(case["board"], case["devices"], case["link"], case["speed"]).save(where / "cluster.yaml")
        setting = read_setting(where / "deployment", path, shaping, 1, 0.0, insecure=False)
        with (
            before_others(in_real_time), emulated_cluster(setting) as running,
            open_session(setting, running, TIMEOUT_S) as session,
        ):  # fmt: skip
            first = run_bench(setting, session, 1, warmup=1)
            requests = min(MAX_REQUESTS, max(MIN_REQUESTS, round(MEASURED_S / first.predicted.median)))
            found = run_bench(setting, session, requests, warmup=1)
    measured, result = found.measured(), found.result
    return {
        "predicted_s": found.predicted.median, "measured_s": measured.median, "measured_p95_s": measured.p95,
        "requests": requests, "shaping": setting.shaping, "late_steps": found.late_share("steps"),
        "late_messages": found.late_share("messages"), "bytes_counted": result.total_bytes_per_request,
        "bytes_predicted": result.total_bytes_predicted,
    }  # fmt: skip
