"""The clusters that are emulated: presets of boards and links, and two links made slower by hand."""

from __future__ import annotations

from sepnas.spec.cluster import Cluster, Link
from sepnas.spec.device_profile import ConversionCosts, ExchangeCosts
from sepnas.spec.presets import preset_cluster

HERE = ExchangeCosts(
    message_s=8e-5,
    byte_s=1.5e-9,
    convert_s=1e-5,
    convert_s_per_value=ConversionCosts(fp16=3e-10, int8=2.5e-9, int4=6e-9),
    merge_s=1.5e-5,
    merge_s_per_value=6e-10,
)
"""What exchanging costs one core of a Xeon: a message as ``sepnas profile device`` finds it there, rounded; converting
and merging rather more."""
KERNEL_HERE_S = 1e-5
"""What a kernel costs there: a board's processor is taken to be slower at exchanging by as much as at this."""

ZERO_2W, PI_3B = "raspberry-pi-zero-2w", "raspberry-pi-3b-plus"
KINDS: dict[str, tuple[tuple[str, ...], str]] = {
    "gigabit": ((ZERO_2W,) * 8, "ethernet-1gbit"),
    "100mbit": ((ZERO_2W,) * 8, "ethernet-100mbit"),
    "10mbit-5ms": ((PI_3B,) * 8, "ethernet-100mbit"),
    "wifi": ((ZERO_2W,) * 8, "wifi-5ghz"),
    "mixed": (("raspberry-pi-4b", ZERO_2W, PI_3B, "jetson-nano") * 2, "ethernet-100mbit"),
}
"""The boards are slow ones: eight faster ones compute more than two cores can in the same time."""
SLOW_LINK = Link(bandwidth_bytes_per_s=10e6 / 8, latency_s=5e-3)


def make_cluster(name: str) -> Cluster:
    """Eight devices, and the client on the same network."""
    kinds, link_name = KINDS[name]
    cluster = preset_cluster(kinds, link_name, name, rated=False)
    link = SLOW_LINK if name == "10mbit-5ms" else cluster.links[0]
    devices = tuple(
        device.model_copy(update={"exchange": _slower(device.layer_overhead_s / KERNEL_HERE_S)})
        for device in cluster.devices
    )
    return cluster.model_copy(update={"devices": devices, "links": (link,), "client_link": link})


def _slower(ratio: float) -> ExchangeCosts:
    """The costs of a processor that takes so many times as long."""
    facts = HERE.model_dump()
    wires = {name: seconds * ratio for name, seconds in facts.pop("convert_s_per_value").items()}
    own_core = facts.pop("own_core")
    return ExchangeCosts(
        **{name: seconds * ratio for name, seconds in facts.items()},
        convert_s_per_value=ConversionCosts(**wires),
        own_core=own_core,
    )
