"""Cables that are pulled, slow links, and lost packets: devices in network namespaces, which needs root."""

from __future__ import annotations

import random
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from asking import Asking, Case, inject, is_complete
from devices import Devices
from network import Deployed

from sepnas.emulation.namespaces import Namespaces
from sepnas.emulation.settings import emulations
from sepnas.local.processes import Launch
from sepnas.plan.steps import CLIENT
from sepnas.runtime.client.session import Session
from sepnas.separable.build import build_plan
from sepnas.spec.cluster import Cluster
from sepnas.spec.presets import preset_cluster

RATE_BYTES_PER_S = 100e6 / 8
SLOW_SHARE = 0.01
LOSS = 0.05
_ENGINE = ("--engine", "onnxruntime")


class Cables:
    """Each device's two ports at the switch, one for its peers and one for the client."""

    def __init__(self, spaces: Namespaces) -> None:
        self._spaces = spaces

    def pull(self, rank: int) -> None:
        self._set(rank, "down")

    def plug(self, rank: int) -> None:
        self._set(rank, "up")

    def _set(self, rank: int, state: str) -> None:
        for interface in ("eth0", "eth1"):
            _run("ip", "-n", self._spaces.switch, "link", "set", f"{interface}-{rank}", state)

    def limit(self, rank: int, share: float) -> None:
        """To a share of the rate, in both directions."""
        for interface in ("eth0", "eth1"):
            for space, port in ((self._spaces.name(rank), interface), (self._spaces.switch, f"{interface}-{rank}")):
                _run(
                    "tc", "-n", space, "qdisc", "replace", "dev", port, "root", "tbf", "rate",
                    f"{round(8 * share * RATE_BYTES_PER_S)}bit", "burst", "5000", "limit", "1000000",
                )  # fmt: skip

    def lose(self, rank: int, on: bool) -> None:
        """A share of all packets that come to the device or leave it."""
        for chain in ("INPUT", "OUTPUT"):
            rule = (chain, "-m", "statistic", "--mode", "random", "--probability", str(LOSS), "-j", "DROP")
            _run("ip", "netns", "exec", self._spaces.name(rank), "iptables", "-A" if on else "-D", *rule)


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


def _cluster(num_devices: int) -> Cluster:
    cluster = preset_cluster(("raspberry-pi-4b",) * num_devices, "ethernet-100mbit", "cables")
    link = cluster.links[0].model_copy(update={"bandwidth_bytes_per_s": RATE_BYTES_PER_S})
    return cluster.model_copy(update={"links": (link,), "client_link": link})


def cable_faults(deployed: Deployed, times: int, draw: random.Random) -> Iterator[Case]:
    """Nothing of the devices is emulated but their cables."""
    plan = build_plan(deployed.network.architecture)
    with tempfile.TemporaryDirectory(prefix="sepnas-faults-") as folder:
        found = emulations(
            plan, _cluster(deployed.num_devices), deployed.deployment_id, Path(folder) / "clock", shaping="netns"
        )
        with Namespaces(found) as spaces:
            launches = [
                Launch(spaces.address(rank), spaces.prefix(rank), _ENGINE) for rank in range(deployed.num_devices)
            ]
            with Devices(deployed.folder, deployed.num_devices, launches) as devices:
                cables = Cables(spaces)
                with spaces.inside(CLIENT):
                    for on_missing in ("strict", "degrade"):
                        yield from _noticed(devices, deployed, times, draw, cables, on_missing)
                    yield _lossy(devices, deployed, times, cables)


def _noticed(
    devices: Devices, deployed: Deployed, times: int, draw: random.Random, cables: Cables, on_missing: str
) -> Iterator[Case]:
    """The same session goes on when the cable is as before."""
    faults: dict[str, tuple[Callable[[int], None], Callable[[int], None]]] = {
        "cable pulled": (cables.pull, cables.plug),
        "link at 1 %": (lambda rank: cables.limit(rank, SLOW_SHARE), lambda rank: cables.limit(rank, 1.0)),
    }
    for name, (begin, end) in faults.items():
        case = Case(f"{name}, {on_missing}")
        with Session(deployed.folder, devices.hosts, on_missing=on_missing) as session:
            asking = Asking(session, deployed, case)
            asking.until(is_complete)
            for rank in case.turns(times, deployed.num_devices):
                case.detected_s.append(inject(asking, draw, lambda rank=rank, begin=begin: begin(rank)))
                end(rank)
                mended = time.monotonic()
                ended, _ = asking.until(is_complete)
                case.full_service_s.append(ended - mended)
        yield case


def _lossy(devices: Devices, deployed: Deployed, times: int, cables: Cables) -> Case:
    """Of each device in turn packets are lost, during one request."""
    case = Case("5 % loss, degrade")
    with Session(deployed.folder, devices.hosts, on_missing="degrade") as session:
        asking = Asking(session, deployed, case)
        asking.until(is_complete)
        for rank in case.turns(times, deployed.num_devices):
            cables.lose(rank, on=True)
            asking.ask()
            cables.lose(rank, on=False)
            mended = time.monotonic()
            ended, _ = asking.until(is_complete)
            case.full_service_s.append(ended - mended)
    return case
