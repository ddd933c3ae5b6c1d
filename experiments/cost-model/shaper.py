"""Do the emulated links behave as they are set? Checked by the runtime's own messages, and in namespaces by iperf3."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cells import Row
from clusters import KINDS, make_cluster
from emulated import export

from sepnas.cli.emulate import emulated_cluster, read_setting
from sepnas.cli.netns import Namespaces
from sepnas.spec.architecture import named_architecture

SECONDS = 4
ARCHITECTURE = named_architecture("resnext11_2x4d", 2, "all-to-all", image_size=8)


def check_shapers() -> list[Row]:
    """A row for each kind of link of each cluster, for each way of shaping that is possible here."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="sepnas-cost-model-") as name:
        folder = Path(name)
        export(ARCHITECTURE, folder / "deployment")
        for cluster_name in KINDS:
            cluster = make_cluster(cluster_name)
            path = cluster.save(folder / f"{cluster_name}.yaml")
            for wanted in ("process", "auto"):
                setting = read_setting(folder / "deployment", path, wanted, 1, 0.0, insecure=False)
                if wanted == "auto" and setting.shaping == "process":
                    continue
                with emulated_cluster(setting) as running:
                    checks, emulations = running.check_links(), running.emulations
                iperf = iperf_bytes_per_s(emulations) if setting.shaping == "netns" else None
                for check in checks:
                    row = {"cluster": cluster_name, "shaping": setting.shaping, **asdict(check)}
                    if iperf is not None and check.source == 0:
                        link_bytes_per_s = cluster.links[0].bandwidth_bytes_per_s
                        row |= {"iperf3_bytes_per_s": iperf, "iperf3_by_set": iperf / link_bytes_per_s}
                    rows.append(row)
    return rows


def iperf_bytes_per_s(emulations: Any) -> float | None:
    """What iperf3 gets through from device 0 to device 1 in namespaces of its own; None where it is not installed.

    It counts what it carries, without the headers of TCP, IP and Ethernet.
    """
    if shutil.which("iperf3") is None:
        return None
    with Namespaces(emulations) as spaces:
        address = spaces.address(1)
        server = subprocess.Popen([*spaces.prefix(1), "iperf3", "-s", "-1", "-B", address], stdout=subprocess.DEVNULL)
        try:
            time.sleep(1)
            command = [*spaces.prefix(0), "iperf3", "-c", address, "-t", str(SECONDS), "-O", "1", "-J"]
            found = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10 * SECONDS)
        finally:
            server.terminate()
            server.wait()
    return float(json.loads(found.stdout)["end"]["sum_received"]["bits_per_second"]) / 8
