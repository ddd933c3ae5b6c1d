"""Do the emulated links behave as they are set? Told by the runtime's own messages, in namespaces by iperf3 and ping.

In namespaces the kernel has the rate and the processes have the latency. So iperf3 must see the rate, and ping must
see next to nothing: what it sees comes on top of the latency that is set.
"""

from __future__ import annotations

import json
import re
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

from sepnas.emulation.cluster import emulated_cluster, read_setting
from sepnas.emulation.namespaces import Namespaces
from sepnas.separable.architecture import named_architecture
from sepnas.spec.cluster import Link

SECONDS = 4
PINGS = 100
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
                beneath = see_beneath(emulations, cluster.links[0]) if setting.shaping == "netns" else {}
                for check in checks:
                    row = {"cluster": cluster_name, "shaping": setting.shaping, **asdict(check)}
                    rows.append(row | (beneath if check.source == 0 else {}))
    return rows


def see_beneath(emulations: Any, link: Link) -> Row:
    """What programs that know nothing of sepnas see from device 0 to device 1, in namespaces of their own.

    One that is not installed says nothing.
    """
    row: Row = {}
    with Namespaces(emulations) as spaces:
        if shutil.which("ping") is not None:
            row["ping_s"] = ping_s(spaces)
            row["ping_by_set_latency"] = row["ping_s"] / link.latency_s
        if shutil.which("iperf3") is not None:
            row["iperf3_bytes_per_s"] = iperf_bytes_per_s(spaces)
            row["iperf3_by_set"] = row["iperf3_bytes_per_s"] / link.bandwidth_bytes_per_s
    return row


def ping_s(spaces: Namespaces) -> float:
    """Half of the mean round trip of an echo request."""
    command = [*spaces.prefix(0), "ping", "-q", "-n", "-c", str(PINGS), "-i", "0.01", spaces.address(1)]
    found = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    mean_ms = re.search(r"= [\d.]+/([\d.]+)/", found.stdout)
    assert mean_ms is not None, found.stdout
    return float(mean_ms.group(1)) / 2e3


def iperf_bytes_per_s(spaces: Namespaces) -> float:
    """What iperf3 carries, without the headers of TCP, IP and Ethernet."""
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
