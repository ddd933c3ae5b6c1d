"""Times of operators on this machine, each measured alone, for an engine that runs them one after another.

The time of a segment is one call of the engine plus its operators. Segments of several equal operators separate the
two: the slope is the operator's time, the intercept the call's. An engine that fuses operators or changes the layout of
tensors between them is measured by whole layers (``in_layers.py``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sepnas.measure.probes import SideBySide
from sepnas.measure.rounds import Rounds, Stop, Tick, measure_rounds, timed_once, until_half
from sepnas.measure.running import running
from sepnas.plan.operators import Operator
from sepnas.spec.device_profile import OperatorTime

LARGE_MACS = 4_000_000
"""MACs from which an operator is alone in its segment: its time makes a call's negligible."""
SMALL_COPIES = 4
OVERHEAD_COPIES = (1, 2, 4, 8)
OVERHEAD_OPERATORS = (Operator("conv", 8, 8, height=8, width=8), Operator("add", 16, 16, height=8, width=8))
_MIN_SHARE = 0.1
"""Minimum share of a segment's time that counts as its operators', whatever the noise."""


@dataclass(frozen=True)
class OperatorTimes:
    """Measured operators. ``stable``: the medians settled before the time was up.

    A segment takes ``segment_overhead_s``, plus ``segment_s_per_value`` for each value that enters or leaves it, plus
    its operators.
    """

    rows: tuple[OperatorTime, ...]
    segment_overhead_s: float
    rounds: Rounds
    stable: bool
    segment_s_per_value: float = 0.0


def measure_operators(
    operators: Sequence[Operator], stop: Stop, threads: int = 1, tick: Tick = lambda: None, least: int | None = None
) -> OperatorTimes:
    """Time operators on one sample in torch with ``threads`` threads; runs in the calling thread.

    A round runs each segment once, so the caches hold data of other segments, as in a worker between two steps: in a
    tight loop the same segments take up to a third less, very short ones a fraction.

    The first ``least`` operators [all] are measured in any case, the others as far as there is time to export them.
    """
    probes = [SideBySide(each, 1 if each.macs >= LARGE_MACS else SMALL_COPIES) for each in operators]
    for_overhead = [SideBySide(each, copies) for each in OVERHEAD_OPERATORS for copies in OVERHEAD_COPIES]
    every = list(dict.fromkeys((*for_overhead, *probes)))
    least = len(every) if least is None else len(for_overhead) + least
    with running(every, "torch", threads, until_half(stop, least, tick)) as calls:
        tick()
        rounds = measure_rounds([timed_once(call) for call in calls], stop, tick)
    took_s = dict(zip(every, rounds.medians_s(), strict=False))
    overhead_s = _overhead_s(took_s)
    measured = [probe for probe in probes if probe in took_s]
    rows = (operator_time(each.operator, _operator_s(took_s[each], each.copies, overhead_s)) for each in measured)
    return OperatorTimes(tuple(rows), overhead_s, rounds, rounds.is_stable(stop))


def operator_time(each: Operator, seconds: float) -> OperatorTime:
    """The row of an operator in a profile."""
    return OperatorTime(**{name: getattr(each, name) for name in Operator.__slots__}, seconds=seconds)


def _overhead_s(took_s: dict[SideBySide, float]) -> float:
    """The intercept over the number of operators: the median over the measured kinds, never negative."""
    found = []
    for each in OVERHEAD_OPERATORS:
        times = [took_s[SideBySide(each, copies)] for copies in OVERHEAD_COPIES]
        found.append(np.polyfit(OVERHEAD_COPIES, times, 1)[1])
    return max(0.0, float(np.median(found)))


def _operator_s(segment_s: float, copies: int, overhead_s: float) -> float:
    return max(segment_s - overhead_s, _MIN_SHARE * segment_s) / copies
