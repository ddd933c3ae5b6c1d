"""A deployment that hardly computes: it sends messages of several sizes from every device to every other.

In each stage of the network, two circuits run over all pairs in both directions, one message after another: each
receiver sends the next message, so each message is alone on the wire. Then all devices send to all at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from sepnas.errors import SpecError
from sepnas.separable.architecture import Architecture, DevicePart
from sepnas.separable.patterns import Pairs, all_to_all, star
from sepnas.separable.policy import ExchangePoint, Readout, Transfer, TransmissionPolicy

MAX_DEVICES = 8
PROBE_DAYS = 30
"""Validity of its certificates, in days."""
_CIRCUITS: tuple[tuple[float, float], ...] = ((1.0, 0.5), (0.5, 0.25), (0.25, 0.0625))
"""Shares of the channels in the circuits of each stage: from 64 KiB down to 1 KiB."""
_CALL = 1 / 16
"""Share of the channels in the message by which the circuits' last device releases the others."""


Progress = Callable[[int, int, str], None]
"""Called with the finished steps of an export, the number of all steps, and the name of the next one."""


def write_probe(folder: Path, num_devices: int, force: bool = False, progress: Progress | None = None) -> None:
    """Export the probe; raises :class:`SpecError` for too few or too many devices, and the errors of an export."""
    from sepnas.deploy.export import export_deployment
    from sepnas.train.checkpoint import new_network

    network = new_network(probe_architecture(num_devices))
    export_deployment(
        network, folder, name="link-probe", classes=("0", "1"), mean=(0.0,), std=(1.0,),
        validity_days=PROBE_DAYS, force=force, progress=progress,
    )  # fmt: skip


def probe_architecture(num_devices: int) -> Architecture:
    """The narrowest network with a block for each message of the circuits."""
    if not 2 <= num_devices <= MAX_DEVICES:
        raise SpecError(f"a probe is for 2..{MAX_DEVICES} devices, got {num_devices}")
    points: list[ExchangePoint] = []
    for fractions in _CIRCUITS:
        for fraction in fractions:
            points += [_point(len(points) + i, [pair], fraction) for i, pair in enumerate(circuit(num_devices))]
        # a device that has sent its last message must not start the next phase before the circuits end
        called = tuple((to, source) for source, to in star(num_devices))
        points.append(_point(len(points), called, _CALL))
        points.append(_point(len(points), all_to_all(num_devices), fractions[0]))
    return Architecture(
        name="link-probe",
        depth=3 * len(points) + 2,
        num_classes=2,
        in_channels=1,
        parts=(DevicePart(bottleneck_width=1, output_channels=16),) * num_devices,
        policy=TransmissionPolicy(points=tuple(points), readout=Readout(kind="mean")),
    )


def circuit(num_devices: int) -> Pairs:
    """All ordered pairs, each starting where the previous one ends; from rank 0 to rank 0 (Hierholzer)."""
    left = {rank: [to for to in range(num_devices) if to != rank] for rank in range(num_devices)}
    path, found = [0], []
    while path:
        if left[path[-1]]:
            path.append(left[path[-1]].pop())
        else:
            found.append(path.pop())
    return tuple(zip(found[::-1], found[-2::-1], strict=False))


def _point(after: int, pairs: Sequence[tuple[int, int]], fraction: float) -> ExchangePoint:
    transfers = (Transfer(source=source, destination=to, fraction=fraction) for source, to in pairs)
    return ExchangePoint(after=after, transfers=tuple(transfers))
