"""Candidates: a scheme over some devices, with the shares that give each of them about the same time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sepnas.assign.estimate import Estimator
from sepnas.assign.label import Label
from sepnas.errors import PlanError
from sepnas.partition.lowering import needed
from sepnas.partition.parts import Layouts
from sepnas.partition.regions import Layout
from sepnas.partition.schemes.scheme import Scheme, whole_on
from sepnas.partition.tied import tied

NO_SPLIT, MIXED, STAGES = "no split", "mixed", "stages"
"""Names in tables, beside those of the schemes."""
ROUNDS, EQUAL_ROUNDS = 2, 1
"""Maximum number of corrections of the shares; of those of devices that are equally fast."""
_EVEN = 0.03
"""Busy times that differ by less than this share of the longest are not corrected."""


@dataclass(frozen=True)
class Proposal:
    """Layouts and their estimated costs; ``devices`` are ranks, with their ``shares`` of the work."""

    scheme: str
    devices: tuple[int, ...]
    shares: tuple[float, ...]
    layouts: Layouts
    estimate: Label


def placed(layouts: Layouts, devices: Sequence[int] | Mapping[int, int]) -> Layouts:
    """Layouts on other devices: ``devices`` has the rank for each device."""
    moved = dict[int, Layout]()
    for layout in layouts.values():
        if id(layout) not in moved:
            pieces = tuple((devices[device], region) for device, region in layout.pieces)
            moved[id(layout)] = Layout(pieces, {devices[device]: span for device, span in layout.spans.items()})
    return {name: moved[id(layout)] for name, layout in layouts.items()}


def alone(estimator: Estimator, device: int) -> Proposal:
    """The whole network on one device, whatever its memory."""
    layouts = whole_on(estimator.graph, device)
    estimate = estimator.whole(layouts, bounded=False)
    assert estimate is not None  # nothing is sent
    return Proposal(NO_SPLIT, (device,), (1.0,), layouts, estimate)


def split(estimator: Estimator, scheme: Scheme, devices: Sequence[int], speeds: Sequence[float]) -> list[Proposal]:
    """A scheme over some devices: with shares as the ``speeds``, and as corrected by the estimated times.

    There are none where the scheme does not give each device a part, or a message is impossible.
    """
    shares, found = list(speeds), list[Proposal]()
    rounds = EQUAL_ROUNDS if max(speeds) == min(speeds) else ROUNDS
    for _ in range(1 + rounds):
        made = _made(estimator, scheme, devices, shares)
        if made is None:
            break
        if found and made.estimate.period_s >= found[-1].estimate.period_s:
            break  # shares are rounded to whole rows or channels: no better ones are near
        found.append(made)
        corrected = _corrected(made)
        if corrected is None:
            break
        shares = corrected
    return found


def _made(estimator: Estimator, scheme: Scheme, devices: Sequence[int], shares: Sequence[float]) -> Proposal | None:
    try:
        layouts = tied(estimator.graph, scheme.layouts(estimator.graph, shares))
        layouts = placed(needed(estimator.graph, layouts), devices)
        estimate = estimator.whole(layouts)
    except PlanError:
        return None
    if estimate is None or len(estimate.used) < len(devices):
        return None
    return Proposal(scheme.name, tuple(devices), tuple(shares), layouts, estimate)


def _corrected(made: Proposal) -> list[float] | None:
    """Shares that would make all devices busy for the same time; None if they are about that."""
    busy = [made.estimate.busy[rank] for rank in made.devices]
    if min(busy) <= 0 or max(busy) - min(busy) <= _EVEN * max(busy):
        return None
    mean = sum(busy) / len(busy)
    return [share * (mean / spent) ** 0.7 for share, spent in zip(made.shares, busy, strict=True)]
