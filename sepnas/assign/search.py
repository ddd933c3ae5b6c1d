"""The search for an assignment: candidates by scheme and devices, their mixtures, and exact prices of the best.

Estimates only choose what is priced. The order of the result is that of the simulator.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby, product
from math import inf
from typing import TypeVar

from sepnas.assign.changes import Changes
from sepnas.assign.estimate import Estimator
from sepnas.assign.goal import Goal
from sepnas.assign.mixing import Mixer
from sepnas.assign.priced import Alternative, priced
from sepnas.assign.proposal import MIXED, NO_SPLIT, STAGES, Proposal, alone, split
from sepnas.assign.stages import pipelines, ways_of
from sepnas.assign.subsets import classes_of, subsets_of
from sepnas.errors import PlanError
from sepnas.objectives import MEMORY_BYTES
from sepnas.partition.graph import Graph
from sepnas.partition.lowering import check_floats, lower
from sepnas.partition.parts import Layouts
from sepnas.partition.schemes.registry import SCHEMES
from sepnas.partition.schemes.scheme import Scheme
from sepnas.plan.wire import WireFormat
from sepnas.spec.cluster import Cluster

MAX_MIXED = 16
"""Maximum number of candidates whose layouts are mixed."""
PATIENCE = 2
"""Number of sizes in a row at which a scheme gets worse until larger ones are left out."""
EXTENDED = 10_000
"""The dynamic programming keeps as many labels as make it extend about this number of them in all, or more."""
FINALISTS = 4
"""Number of mixtures, of pipelines and of other candidates that are priced besides the best of each scheme."""
PRICED_NODES = 12_000
"""Bounds the number of mixtures that are priced, all or changes of the best: times the nodes and the devices."""
MAX_PRICED = 1024
"""Bounds the same number; networks with more single changes than are allowed are not changed."""
PRICED_BY_ESTIMATE = 10
"""One in so many of these are the best by the estimate; the others are changes."""

Show = Callable[[int, int, str], None]
_Item = TypeVar("_Item")


class AssignmentSearch:
    """One search; its parts may be used alone. The same arguments give the same result."""

    def __init__(
        self, graph: Graph, cluster: Cluster, goal: Goal, wire: WireFormat, show: Show = lambda done, total, what: None
    ) -> None:
        check_floats(graph)
        self.graph, self.cluster, self.goal, self.wire = graph, cluster, goal, wire
        self.estimator = Estimator(graph, cluster, wire)
        self.speeds = [1 / max(each, 1e-12) for each in self._alone_s()]
        self.classes = classes_of(cluster, [1 / each for each in self.speeds])
        self.order = [rank for ranks in self.classes for rank in ranks]
        self.num_estimated = self.num_priced = 0
        self._show, self._priced = show, dict[object, Alternative | None]()

    @property
    def budget(self) -> int:
        """The number of mixtures that may be priced."""
        size = len(self.graph.nodes) * self.cluster.num_devices
        return min(MAX_PRICED, PRICED_NODES // max(1, size))

    def without_memory(self) -> AssignmentSearch:
        """The same search on devices whose memory has no limit, for the least memory."""
        devices = tuple(each.model_copy(update={"memory_bytes": 1 << 62}) for each in self.cluster.devices)
        return AssignmentSearch(
            self.graph, self.cluster.model_copy(update={"devices": devices}), Goal(MEMORY_BYTES), self.wire, self._show
        )

    def _alone_s(self) -> list[float]:
        """The computing time of the whole network on each device."""
        ranks = range(self.cluster.num_devices)
        return [alone(self.estimator, rank).estimate.busy[rank] for rank in ranks]

    def singles(self) -> list[Proposal]:
        """No split: one device of each class, the fastest first."""
        return [alone(self.estimator, ranks[0]) for ranks in self.classes]

    def splits(self) -> Iterator[Proposal]:
        """Every scheme over subsets of the devices, with the best of the shares that were tried.

        A scheme that has got worse with more devices ``PATIENCE`` times is not tried with still more of them.
        """
        sizes = [list(each) for _, each in groupby(subsets_of(self.classes), len)]
        for done, scheme in enumerate(SCHEMES.values()):
            best: tuple[float, ...] = (inf,)
            worse = 0
            for subsets in sizes:
                self._show(done, len(SCHEMES), f"{scheme.name} over {len(subsets[0])} devices")
                found = [each for devices in subsets for each in self._split(scheme, devices)]
                yield from found
                key = min(map(self._key, found), default=(inf,))
                best, worse = min(best, key), 0 if key < best else worse + 1
                if found and worse >= PATIENCE:
                    break

    def _split(self, scheme: Scheme, devices: Sequence[int]) -> list[Proposal]:
        made = split(self.estimator, scheme, devices, [self.speeds[rank] for rank in devices])
        self.num_estimated += len(made)
        return [min(made, key=self._key)] if made else []

    def _key(self, candidate: Proposal) -> tuple[float, ...]:
        return self.goal.of_estimate(candidate.estimate)

    def run(self) -> list[Alternative]:
        """Alternatives with exact prices, the best first; empty if nothing can be priced."""
        singles, splits = self.singles(), sorted(self.splits(), key=self._key)
        staged = sorted(self._staged(singles, splits), key=self._key)
        finalists = [*singles, *_first_of_each_scheme(splits), *splits[:FINALISTS], *staged[:FINALISTS]]
        found = list(self._all_priced(finalists))
        found += self.mixtures(self.to_mix(singles, [*splits, *staged[:FINALISTS]]))
        return sorted(_unlike(found), key=self.goal.of)

    def _staged(self, singles: Sequence[Proposal], splits: Sequence[Proposal]) -> Iterable[Proposal]:
        """Pipelines of groups, if they may be of use: for throughput, or if a device alone has too little memory."""
        if not self.goal.streamed and any(map(self._has_memory, singles)):
            return ()
        ways = ways_of(self.estimator, [*singles, *splits], self.order)
        return pipelines(self.estimator, ways, self.order, self.speeds)

    def _has_memory(self, single: Proposal) -> bool:
        [device] = single.devices
        return single.estimate.peak_memory_bytes[device] <= self.cluster.devices[device].memory_bytes

    def to_mix(self, singles: Sequence[Proposal], splits: Sequence[Proposal]) -> list[Proposal]:
        """The candidates whose layouts are mixed: no split, the best of each scheme, and the best of all."""
        wanted = [*singles, *_first_of_each_scheme(splits), *splits]
        return _unlike(wanted)[:MAX_MIXED]

    def mixtures(self, candidates: Sequence[Proposal]) -> list[Alternative]:
        """The best mixtures of candidates' layouts, perhaps candidates themselves."""
        if len(candidates) < 2:
            return []
        mixer = Mixer(self.estimator, candidates)
        if mixer.num_mixtures <= self.budget:
            numbers: Iterable[Sequence[int]] = product(*(range(len(each)) for each in mixer.choices))
            found = [each for chosen in numbers if (each := self.mixture(mixer, chosen)) is not None]
        else:
            found = self.improved(mixer)
        return sorted(found, key=self.goal.of)[:FINALISTS]

    def improved(self, mixer: Mixer) -> list[Alternative]:
        """The best by the estimate, and the best that changes of these lead to."""
        total, width = len(mixer.choices), EXTENDED // sum(map(len, mixer.choices))
        labels = mixer.best(self.goal.of_estimate, width, lambda done: self._show(done, total, "mixing layouts"))
        self.num_estimated += len(labels)
        chosen: dict[tuple[int, ...], Alternative] = {}
        for label in labels[: max(FINALISTS, self.budget // PRICED_BY_ESTIMATE)]:
            made = self.mixture(mixer, label.chosen)
            if made is not None:
                chosen[label.chosen] = made
        changes = Changes(
            lambda numbers: self.mixture(mixer, numbers),
            self.goal.of,
            [len(choices) for choices in mixer.choices],
            self.budget,
            lambda done: self._show(done, self.budget, "improving the best"),
        )
        if not chosen or not changes.can_try_all_of_one_unit:
            return [*chosen.values()]
        starts = sorted(chosen.items(), key=lambda each: self.goal.of(each[1]))[:FINALISTS]
        return [*chosen.values(), changes.best(starts)]

    def mixture(self, mixer: Mixer, chosen: Sequence[int]) -> Alternative | None:
        return self.price(f"{MIXED}: {', '.join(mixer.names(chosen))}", {}, mixer.layouts(chosen))

    def _all_priced(self, candidates: Sequence[Proposal]) -> Iterator[Alternative]:
        unlike = _unlike(candidates)
        for done, each in enumerate(unlike):
            self._show(done, len(unlike), f"pricing {each.scheme} over {len(each.devices)} devices")
            shares = dict(zip(each.devices, each.shares, strict=True)) if each.scheme not in (NO_SPLIT, STAGES) else {}
            found = self.price(each.scheme, shares, each.layouts)
            if found is not None:
                yield found

    def price(self, scheme: str, shares: Mapping[int, float], layouts: Layouts) -> Alternative | None:
        """The exact price, once for equal layouts; None if they cannot be lowered, or a link is missing."""
        key = tuple(id(cell) for cell in self.estimator.cells_of(layouts))
        if key not in self._priced:
            self._priced[key] = self._newly_priced(scheme, shares, layouts)
        return self._priced[key]

    def _newly_priced(self, scheme: str, shares: Mapping[int, float], layouts: Layouts) -> Alternative | None:
        try:
            plan = lower(self.graph, layouts, self.cluster.num_devices, self.wire)
            found = priced(plan, self.cluster, scheme, shares)
        except PlanError:
            return None
        self.num_priced += 1
        return found.streamed(self.cluster) if self.goal.streamed else found


def _unlike(items: Iterable[_Item]) -> list[_Item]:
    """Each object once, in order."""
    return list({id(each): each for each in items}.values())


def _first_of_each_scheme(candidates: Iterable[Proposal]) -> list[Proposal]:
    found: dict[str, Proposal] = {}
    for each in candidates:
        found.setdefault(each.scheme, each)
    return list(found.values())
