"""Accepts a correction of a cluster only if it predicts held-out requests better than the cluster does uncorrected."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, median

from sepnas.cost.calibrate import Calibration, calibrate
from sepnas.cost.simulator import simulate
from sepnas.cost.timeline import Timeline
from sepnas.plan.plan import Plan
from sepnas.spec.cluster import Cluster

_ROUNDING = 1e-6


@dataclass(frozen=True, slots=True)
class Checked:
    """A correction, and whether it is ``better`` on the ``held_out`` requests (0: all were used for the correction).

    ``error_before`` and ``error_after`` are mean relative errors of the predicted latency.
    """

    calibration: Calibration
    held_out: int
    error_before: float
    error_after: float

    @property
    def better(self) -> bool:
        return self.error_after <= self.error_before + _ROUNDING


def calibrate_checked(plan: Plan, cluster: Cluster, timelines: Sequence[Timeline]) -> Checked:
    """Correct devices, links or both, whichever predicts held-out requests best.

    Every second request of each batch size is held out; the accepted correction is then fitted to all requests.
    """
    kept, held_out = _halves(timelines)
    measured = _latencies(held_out or timelines)
    trials = {parts: made.cluster for parts, made in _variants(cluster, calibrate(plan, cluster, kept))}
    changing = {parts: each for parts, each in trials.items() if each != cluster} or trials
    errors = {parts: _error(plan, each, measured) for parts, each in changing.items()}
    best = min(errors, key=lambda parts: errors[parts])
    final = dict(_variants(cluster, calibrate(plan, cluster, timelines)))[best]
    return Checked(final, len(held_out), _error(plan, cluster, measured), errors[best])


def _halves(timelines: Sequence[Timeline]) -> tuple[list[Timeline], list[Timeline]]:
    """The requests to fit, and the held-out ones; a batch size with a single request is not held out."""
    kept: list[Timeline] = []
    held_out: list[Timeline] = []
    seen: dict[int, int] = defaultdict(int)
    for timeline in timelines:
        (held_out if seen[timeline.batch] % 2 else kept).append(timeline)
        seen[timeline.batch] += 1
    return kept, held_out


def _variants(before: Cluster, made: Calibration) -> Iterator[tuple[str, Calibration]]:
    """The whole correction, and each of its two parts alone."""
    yield "both", made
    after, why = made.cluster, "kept: with it held-out requests are predicted worse"
    links = tuple(replace(each, after=each.before, how=why) for each in made.links)
    only = after.model_copy(update={"links": before.links, "client_link": before.client_link})
    yield "devices", replace(made, cluster=only, links=links)
    devices = tuple(replace(each, after=each.before, how=why) for each in made.devices)
    yield "links", replace(made, cluster=after.model_copy(update={"devices": before.devices}), devices=devices)


def _latencies(timelines: Sequence[Timeline]) -> Mapping[int, float]:
    """Median latency for each batch size, in seconds."""
    found: dict[int, list[float]] = defaultdict(list)
    for timeline in timelines:
        found[timeline.batch].append(timeline.latency_s)
    return {batch: median(each) for batch, each in found.items()}


def _error(plan: Plan, cluster: Cluster, measured_s: Mapping[int, float]) -> float:
    """Mean relative error, symmetric: predicting half the latency is as wrong as twice the latency."""
    logs = (math.log(simulate(plan, cluster, batch).latency_s / took_s) for batch, took_s in measured_s.items())
    return math.expm1(fmean(abs(each) for each in logs))
