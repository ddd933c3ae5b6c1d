"""One device, measured: what ``sepnas profile device`` writes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sepnas.cost.calibrate import fit_rate
from sepnas.errors import SpecError
from sepnas.measure.exchange import measure_exchange
from sepnas.measure.grid import family_layers, family_operators
from sepnas.measure.machine import available_memory_bytes, measured_machine
from sepnas.measure.operators import OperatorTimes, computing, measure_operators
from sepnas.measure.rounds import Stop
from sepnas.plan.steps import Operator
from sepnas.spec.cluster import Device
from sepnas.spec.device_profile import DeviceProfile
from sepnas.spec.manifest import EngineName
from sepnas.spec.timing import SegmentTime

NOISY = 0.1
"""From here on a machine is called noisy: two measurements of the same differ by a tenth."""
_EXCHANGE_SHARE = 0.15
"""Of the time: few figures, soon stable."""

Progress = Callable[[float, str], None]
"""Called with the seconds since the start and with what is being measured."""


@dataclass(frozen=True)
class MeasuredDevice:
    """A device, and how well it was measured: ``stable`` before the time was up, ``with_tls`` for its messages."""

    device: Device
    rounds: int
    stable: bool
    with_tls: bool


def measure_device(
    name: str,
    *,
    engine: EngineName = "torch",
    threads: int = 1,
    seconds: float = 180.0,
    operators: Sequence[Operator] | None = None,
    progress: Progress = lambda seconds, what: None,
) -> MeasuredDevice:
    """Measure this machine for ``seconds`` at most (every operator is measured twice, though, however long it takes).

    ``operators`` are those of the family unless others are given. Raises :class:`SpecError` for a time or a number of
    threads that is none.
    """
    if threads < 1 or not 0 < seconds < float("inf"):
        raise SpecError(f"`threads` must be at least 1 and `seconds` a time above 0, got {threads} and {seconds}")
    start = time.monotonic()
    now = "conversions, merges, messages"

    def tick() -> None:
        progress(time.monotonic() - start, now)

    with computing(engine, threads) as compute:
        exchange, with_tls = measure_exchange(_EXCHANGE_SHARE * seconds, compute, threads, tick)
    now = "operators"
    found = measure_operators(
        family_operators() if operators is None else operators, Stop(start + seconds), engine, threads, tick
    )
    flops_per_s, layer_overhead_s = fit_rate(_segment_times(found))
    device = Device(
        name=name,
        flops_per_s=flops_per_s,
        layer_overhead_s=layer_overhead_s,
        memory_bytes=available_memory_bytes(),
        jitter=found.rounds.jitter,
        exchange=exchange,
        profile=DeviceProfile(
            machine=measured_machine(engine, threads, found.rounds.noise),
            operators=found.rows,
            segment_overhead_s=found.segment_overhead_s,
        ),
    )
    return MeasuredDevice(device, found.rounds.num_rounds, found.stable, with_tls)


def _segment_times(found: OperatorTimes) -> list[SegmentTime]:
    """Layers of the family by their operators' times, so that additions and means are in the constant of a kernel;
    where other operators were measured, these."""
    took_s = {Operator(*row.key): row.seconds for row in found.rows}
    times = {
        layer.operators: SegmentTime(
            2 * layer.macs,
            layer.num_kernels,
            found.segment_overhead_s + sum(took_s[each] for each in layer.operators),
        )
        for layer in family_layers()
        if all(each in took_s for each in layer.operators)
    }
    if len(times) >= 2:
        return list(times.values())
    return [SegmentTime(2 * each.macs, 1, seconds) for each, seconds in took_s.items()]
