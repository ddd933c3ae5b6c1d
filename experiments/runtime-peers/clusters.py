"""Four boards on 100 Mbit Ethernet, and one of them; the client is on the same network."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from networks import architecture

from sepnas.cost.simulator import simulate
from sepnas.separable.build import build_plan
from sepnas.spec.cluster import Cluster, Device
from sepnas.spec.device_profile import ConversionCosts, ExchangeCosts
from sepnas.spec.presets import preset_cluster

BOARD, LINK = "raspberry-pi-4b", "ethernet-100mbit"
KERNEL_HERE_S = 1.9e-5
"""What a kernel costs one core of a Xeon, by the note of the presets: its processor against the board's, but for
convolutions."""


def preset_boards(count: int) -> Cluster:
    """One thread in eager PyTorch: the same rate for every convolution, exchanging costs no more than here."""
    link = preset_cluster((BOARD, BOARD), LINK, BOARD).links[0]
    return _cluster(BOARD, preset_cluster((BOARD,), LINK, BOARD, rated=False).devices[0], link, count)


def profiled_boards(count: int, network: str, engine: str, profile: Path) -> Cluster:
    """Boards on which each operator takes as long as ``engine`` takes for it here, in proportion.

    The original network takes as long as on the preset board. What is no convolution (a call of the engine, values that
    go in and out, messages, merges) takes longer than here by what a kernel does.
    """
    (link,), here = preset_boards(2).links, Cluster.load(profile).devices[0]
    assert here.profile is not None
    assert here.exchange is not None
    plan, board = build_plan(architecture(network, 1)), preset_boards(1)
    alone = Cluster(devices=(here.model_copy(update={"exchange": None}),))
    slower = simulate(plan, board).compute_s[0] / simulate(plan, alone).compute_s[0]
    other = board.devices[0].layer_overhead_s / KERNEL_HERE_S
    measured = here.profile.scaled(slower).model_copy(
        update={
            "segment_overhead_s": other * here.profile.segment_overhead_s,
            "segment_s_per_value": other * here.profile.segment_s_per_value,
        }
    )
    update = {"profile": measured, "exchange": _slower(here.exchange, other), "jitter": 0.0}
    return _cluster(f"{BOARD}, {engine}", here.model_copy(update=update), link, count)


def profile_device(engine: str, folder: Path, seconds: float) -> Path:
    """What `sepnas profile device` finds on one core of this machine; measured once, then kept."""
    path = folder / f"device-{engine}.yaml"
    if not path.exists():
        words = ("--name", "device0", "--engine", engine, "--seconds", str(seconds), "--out", str(path))
        subprocess.run(
            ["taskset", "--cpu-list", "0", sys.executable, "-m", "sepnas", "profile", "device", *words], check=True
        )
    return path


def _cluster(name: str, device: Device, link: object, count: int) -> Cluster:
    devices = tuple(device.model_copy(update={"name": f"device{rank}"}) for rank in range(count))
    return Cluster(name=name, devices=devices, links=(link,) if count > 1 else (), client_link=link)


def _slower(exchange: ExchangeCosts, ratio: float) -> ExchangeCosts:
    """The costs of a processor that takes so many times as long, and has four cores."""
    facts = exchange.model_dump()
    wires = {name: seconds * ratio for name, seconds in facts.pop("convert_s_per_value").items()}
    facts.pop("own_core")
    return ExchangeCosts(
        **{name: seconds * ratio for name, seconds in facts.items()}, convert_s_per_value=ConversionCosts(**wires)
    )
