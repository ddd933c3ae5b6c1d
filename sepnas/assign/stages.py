"""Pipelines whose stages are single devices or groups: dynamic programming over cuts and devices.

A stage computes consecutive units on the next devices in order, alone or by a scheme within the group, so that slow
stages are split (Hadidi's balanced pipeline). The slowest stage or cut is as fast as can be, by the estimated times.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sepnas.assign.estimate import Estimator
from sepnas.assign.label import Label
from sepnas.assign.proposal import STAGES, Proposal, placed
from sepnas.cost.routes import routes_of
from sepnas.errors import PlanError
from sepnas.partition.parts import Layouts
from sepnas.partition.regions import Layout
from sepnas.partition.stages import crossing_bytes

Times = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Way:
    """One way to compute a stage: layouts of the whole network on a group, and when each unit has ended."""

    layouts: Layouts
    ended_s: Times


def ways_of(estimator: Estimator, candidates: Iterable[Proposal], order: Sequence[int]) -> Mapping[int, list[Way]]:
    """For each size of a group the ways to compute on the first devices of ``order``."""
    found: dict[int, list[Way]] = {}
    for candidate in candidates:
        count = len(candidate.devices)
        if tuple(candidate.devices) == tuple(order[:count]):
            ended_s = _ended_s(estimator, candidate)
            if ended_s is not None:
                found.setdefault(count, []).append(Way(candidate.layouts, ended_s))
    return found


def _ended_s(estimator: Estimator, candidate: Proposal) -> Times | None:
    cells, label = estimator.cells_of(candidate.layouts), Label.start(estimator.cluster, bounded=False)
    ended = [0.0]
    for unit in estimator.facts.units:
        after = estimator.after(label, [cells[place] for place in unit])
        if after is None:
            return None
        label = after
        ended.append(label.makespan_s)
    return np.array(ended)


def pipelines(
    estimator: Estimator, ways: Mapping[int, list[Way]], order: Sequence[int], speeds: Sequence[float]
) -> Iterator[Proposal]:
    """The best pipeline over each number of the devices in ``order``, whose ``speeds`` are by rank."""
    table = _Table(estimator, ways, order, speeds)
    for count in range(2, len(order) + 1):
        layouts = table.layouts(count)
        if layouts is None:
            continue
        try:
            estimate = estimator.whole(layouts)
        except PlanError:
            continue
        if estimate is not None:
            devices = tuple(order[:count])
            yield Proposal(STAGES, devices, tuple(speeds[rank] for rank in devices), layouts, estimate)


class _Table:
    """``best[count][unit]``: the longest time of a stage or cut with this number of devices before this unit."""

    def __init__(
        self, estimator: Estimator, ways: Mapping[int, list[Way]], order: Sequence[int], speeds: Sequence[float]
    ) -> None:
        self._estimator, self._ways, self._order = estimator, ways, order
        self._speeds = [speeds[rank] for rank in order]
        self._cut_s = self._cuts(estimator)
        size = len(self._cut_s)
        self._best = [np.full(size, np.inf)]
        self._best[0][0] = 0.0
        self._from: list[list[tuple[int, int, int]]] = [[(0, 0, 0)] * size]
        for count in range(1, len(order) + 1):
            self._add(count)

    def _cuts(self, estimator: Estimator) -> Times:
        """The seconds of sending what crosses the border before each unit; infinite where it cannot be cut."""
        crossing, routes = crossing_bytes(estimator.graph), routes_of(estimator.cluster)
        first, second = self._order[0], self._order[min(1, len(self._order) - 1)]
        route = routes[first, second] if first != second else None
        byte_s = 1 / route.bandwidth_bytes_per_s if route else 0.0
        starts = [unit[0] for unit in estimator.facts.units]
        found = [np.inf if crossing[place] is None else byte_s * (crossing[place] or 0) for place in starts]
        return np.array([0.0, *found[1:], 0.0])

    def _add(self, count: int) -> None:
        size = len(self._cut_s)
        best, origin = np.full(size, np.inf), [(0, 0, 0)] * size
        for group, ways in self._ways.items():
            before = count - group
            if before < 0:
                continue
            start_s = np.maximum(self._best[before], self._cut_s)
            # ways are timed on the first devices of the order: these may be slower
            slower = sum(self._speeds[:group]) / sum(self._speeds[before:count])
            for number, way in enumerate(ways):
                for unit in range(1, size):
                    spent_s = slower * (way.ended_s[unit] - way.ended_s[:unit])
                    total_s = np.maximum(start_s[:unit], spent_s)
                    at = int(total_s.argmin())
                    if total_s[at] < best[unit]:
                        best[unit], origin[unit] = total_s[at], (group, number, at)
        self._best.append(best)
        self._from.append(origin)

    def layouts(self, count: int) -> Layouts | None:
        """The layouts of the best pipeline over so many devices; None if there is none."""
        unit = len(self._cut_s) - 1
        if not np.isfinite(self._best[count][unit]):
            return None
        units, nodes = self._estimator.facts.units, self._estimator.facts.nodes
        found = dict[str, Layout]()
        while count:
            group, number, start = self._from[count][unit]
            names = [nodes[place].name for each in units[start:unit] for place in each]
            devices = self._order[count - group : count]
            moved = {self._order[place]: rank for place, rank in enumerate(devices)}
            layouts = self._ways[group][number].layouts
            found |= placed({name: layouts[name] for name in names}, moved)
            count, unit = count - group, start
        return found
