"""The clusters: presets of boards and links, the processor time of messages, and a client on the same network."""

from __future__ import annotations

from typing import Any

from clusters import HERE

from sepnas.spec.cluster import Cluster, Device
from sepnas.spec.device_profile import ConversionCosts, ExchangeCosts
from sepnas.spec.presets import device_preset, link_preset

PI_3, PI_4 = "raspberry-pi-3b-plus", "raspberry-pi-4b"
LINKS = {"100mbit": "ethernet-100mbit", "wifi": "wifi-5ghz", "gigabit": "ethernet-1gbit"}
SPEEDS: dict[str, dict[str, Any]] = {"eager": {"rated": False}, "1-thread": {"threads": 1}, "4-threads": {"threads": 4}}
"""A board's kernels: those of eager PyTorch on one thread, as slow as most of the published ones, and those of ncnn."""
SLOWER = {PI_3: 4448 / 1046, PI_4: 4448 / 1752}
"""A board's core against the Xeon's: 7-zip ratings, as in the notes of the presets."""


def board(kind: str, rank: int, speed: str) -> Device:
    """A board that has a core for its messages."""
    device = device_preset(kind, f"{kind}-{rank}", **SPEEDS[speed])
    return device.model_copy(update={"exchange": _slower(SLOWER[kind])})


def cluster(kind: str, count: int, link: str, speed: str) -> Cluster:
    """Equal boards and a client, all on one network: whatever is sent to or from the client takes its time."""
    found = link_preset(LINKS[link])
    boards = tuple(board(kind, rank, speed) for rank in range(count))
    return Cluster(name=f"{count} {kind} on {link}", devices=boards, links=(found,), client_link=found)


def alone(kind: str, speed: str) -> Cluster:
    """One board that has its input already: no message takes any time."""
    return Cluster(name=kind, devices=(board(kind, 0, speed),))


def _slower(ratio: float) -> ExchangeCosts:
    facts = HERE.model_dump()  # what exchanging costs one core of a Xeon, as in the experiment cost-model
    wires = {name: seconds * ratio for name, seconds in facts.pop("convert_s_per_value").items()}
    own_core = facts.pop("own_core")
    scaled = {name: seconds * ratio for name, seconds in facts.items()}
    return ExchangeCosts(**scaled, convert_s_per_value=ConversionCosts(**wires), own_core=own_core)
