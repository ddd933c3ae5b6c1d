"""Two real processes, a core of this machine each, nothing emulated: profile, links, predictions, requests.

For each engine: both its profile and its workers.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Collection
from functools import partial
from pathlib import Path

from cells import Cells, Row
from emulated import export, facts_of, num_requests

from sepnas.local.processes import Launch, LocalWorkers
from sepnas.runtime.client.bench import bench, random_inputs
from sepnas.runtime.client.session import Session
from sepnas.separable.architecture import Architecture, named_architecture
from sepnas.spec.cluster import Cluster

REPEATS = 3
LAUNCHES = [Launch(prefix=("taskset", "--cpu-list", str(core))) for core in range(2)]


def measure_real_cluster(folder: Path, profile_seconds: float, engine: str) -> tuple[list[Row], Cluster]:
    """Each plan's latency as predicted from the profile and as measured, and the cluster that was profiled."""
    path = folder / f"this-machine-{engine}.yaml"
    if not path.exists():
        profile_machine(path, profile_seconds, engine)
    cluster, cells = Cluster.load(path), Cells(folder / f"real-{engine}.jsonl")
    profile, rows = cluster.devices[0].profile, []
    assert profile is not None
    when = profile.machine.date  # what was measured beside another profile was measured on another day's machine
    for name, architecture in plans().items():
        row = facts_of(architecture, cluster) | cells.get(
            f"{name}, profiled {when}", partial(measure_real, architecture, cluster, engine)
        )
        rows.append({"engine": engine, "plan": name, **row, "ratio": row["measured_s"] / row["predicted_s"]})
        print(
            f"{engine:11} {name:30} predicted {row['predicted_s']:.5f} s, measured {row['measured_s']:.5f} s",
            flush=True,
        )
    return rows, cluster


def profile_machine(path: Path, profile_seconds: float, engine: str) -> None:
    """As a user would: the device, then the links between the workers of a probe, and the client's.

    Each device has one core, on which it computes and exchanges.
    """
    device = path.with_name("device.yaml")
    device.unlink(missing_ok=True)
    words = ("--name", "device0", "--engine", engine, "--seconds", profile_seconds)
    _sepnas("profile", "device", "--out", device, *words, cores={0})
    one = Cluster.load(device)
    two = (one.devices[0], one.devices[0].model_copy(update={"name": "device1"}))
    one.model_copy(update={"name": "this-machine", "devices": two}).save(device)
    with tempfile.TemporaryDirectory(prefix="sepnas-cost-model-") as name:
        probe, hosts = Path(name) / "probe", Path(name) / "hosts.yaml"
        _sepnas("profile", "links", "--write-probe", probe, "--devices-count", 2)
        with LocalWorkers(probe, 2, LAUNCHES) as workers:
            workers.hosts.save(hosts)
            of_links = ("--cluster", device, "--out", path, "--requests", 100)
            _sepnas("profile", "links", probe, "--devices", hosts, *of_links)


def _sepnas(*words: object, cores: Collection[int] = ()) -> None:
    pinned = ("taskset", "--cpu-list", ",".join(map(str, cores))) if cores else ()
    subprocess.run([*pinned, sys.executable, "-m", "sepnas", *map(str, words)], check=True)


def plans() -> dict[str, Architecture]:
    """Two devices, from hardly any computing to much of it, from no message to all."""
    names = ("resnext20_2x8d", "resnext20_4x16d", "resnext56_4x16d", "resnext29_2x32d")
    return {
        f"{name} {policy}": named_architecture(name, 2, policy)
        for name in names
        for policy in ("none", "hand-made", "all-to-all")
    }


def measure_real(architecture: Architecture, cluster: Cluster, engine: str) -> Row:
    """The median latency of requests through two workers; each of some sessions has its own, the middle one counts."""
    requests = 3 * num_requests(facts_of(architecture, cluster)["predicted_s"])
    medians_s = []
    with tempfile.TemporaryDirectory(prefix="sepnas-cost-model-") as name:
        deployment = Path(name) / "deployment"
        export(architecture, deployment, engine)
        for _ in range(REPEATS):
            with LocalWorkers(deployment, 2, LAUNCHES) as workers, Session(deployment, workers.hosts) as session:
                images = random_inputs(session.manifest, 1)
                medians_s.append(bench(session, images, requests, warmup=30).latency_median_s)
    medians_s.sort()
    return {
        "measured_s": medians_s[len(medians_s) // 2],
        "measured_low_s": medians_s[0],
        "measured_high_s": medians_s[-1],
    }
