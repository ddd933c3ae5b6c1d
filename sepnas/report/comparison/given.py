"""Reads what a comparison is made of: imported networks, plans, searches, trainings and deployments."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sepnas.cost.simulator import simulate
from sepnas.deployment.serial import deployed_plan
from sepnas.errors import SpecError
from sepnas.partition.graph import Graph, is_graph, load_graph
from sepnas.plan.document import load_plan
from sepnas.plan.plan import Plan
from sepnas.report.comparison.splits import Accuracy, PricedSplit, Progress, alone, searched, splits
from sepnas.report.comparison.values import Comparison, Family, PricedPlan, RefusedSplit, priced
from sepnas.separable.architecture import Architecture
from sepnas.separable.build import build_plan
from sepnas.separable.read import is_plan_file
from sepnas.spec.cluster import Cluster
from sepnas.spec.evaluation import EVALUATION_NAME, read_kept
from sepnas.spec.files import is_there
from sepnas.spec.recognise import format_of, recognise

MAX_FRONT = 60
"""Points of a search's front that are shown; the fastest are left out last."""


@dataclass(frozen=True, slots=True)
class Mapped:
    """A plan whose map is drawn; ``graph`` is that of its network, if it is known."""

    price: PricedPlan
    plan: Plan
    graph: Graph | None = None
    folded: bool = False


@dataclass
class Gathered:
    """The parts of a comparison, put together from all that is given."""

    cluster: Cluster
    counts: Sequence[int]
    accuracies: Mapping[str, float]
    progress: Progress | None = None
    searching: bool = False
    alone: list[PricedPlan] = field(default_factory=list)
    plans: list[PricedPlan] = field(default_factory=list)
    refused: list[RefusedSplit] = field(default_factory=list)
    mapped: list[Mapped] = field(default_factory=list)
    graphs: list[Graph] = field(default_factory=list)
    used: set[str] = field(default_factory=set)

    def add(self, given: Path) -> None:
        """Read and price one thing; :class:`SpecError` if it is none of those that a report takes."""
        kind = _kind_of(given)
        if kind is None:
            told = recognise(given)
            what = f"is {told[1]}" if told else "is no file or folder of sepnas"
            raise SpecError(
                f"{given} {what}; a report takes the folder of an imported network, a search, a training or a "
                "deployment, and the file of a plan or an architecture"
            )
        _READERS[kind](self, given)

    def accuracy(self, given: Path, *names: str) -> Accuracy:
        """The accuracy that was given for a path or one of its names, or else the newest one that was measured."""
        for name in (str(given), given.name, given.stem, *names):
            if name in self.accuracies:
                self.used.add(name)
                return self.accuracies[name], "given"
        return _measured(given)

    def comparison(self) -> Comparison:
        """All that was read; :class:`SpecError` for an accuracy of something that was not."""
        unused = sorted(self.accuracies.keys() - self.used)
        if unused:
            known = dict.fromkeys(
                [*(p.network for p in self.alone), *(p.label for p in self.plans if p.family == "plan")]
            )
            raise SpecError(f"--accuracy names {unused[0]!r}, which is none of {', '.join(known) or 'nothing'}")
        return Comparison(
            self.cluster.name, tuple(self.alone), tuple(self.plans), tuple(self.refused), self.cluster.threads
        )

    def price(
        self, plan: Plan, family: Family, network: str, series: str, label: str, accuracy: Accuracy
    ) -> PricedPlan:
        found = priced(plan, simulate(plan, self.cluster), family, network, series, label, accuracy)
        self.plans.append(found)
        return found


def _measured(folder: Path) -> Accuracy:
    """What `sepnas evaluate` measured last, if it did."""
    if not is_there(folder / EVALUATION_NAME):
        return None
    kept = read_kept([folder / EVALUATION_NAME])
    return (kept[-1].scores.accuracy, kept[-1].data_words) if kept else None


def _kind_of(given: Path) -> str | None:
    if is_graph(str(given)):
        return "network"
    if is_plan_file(given):
        return "plan"
    told = recognise(given)
    kind = None if told is None else told[0]
    if kind == "file":
        return "architecture" if format_of(given) == "architecture" else None
    return kind if kind in _READERS else None


def _read_network(found: Gathered, given: Path) -> None:
    """One device alone and all splits; maps of the fastest split, and folded ones of each other scheme's fastest."""
    graph = load_graph(given)
    found.graphs.append(graph)
    accuracy = found.accuracy(given, graph.name)
    found.alone.append(alone(graph, found.cluster, accuracy).price)
    best: dict[str, PricedSplit] = {}
    tried = [*splits(graph, found.cluster, found.counts, accuracy, found.progress)]
    if found.searching and (best_found := searched(graph, found.cluster, accuracy, found.progress)) is not None:
        tried.append(best_found)
    for each in tried:
        if isinstance(each, RefusedSplit):
            found.refused.append(each)
            continue
        found.plans.append(each.price)
        if each.scheme not in best or each.price.latency_s < best[each.scheme].price.latency_s:
            best[each.scheme] = each
    ranked = sorted(best.values(), key=lambda each: each.price.latency_s)
    found.mapped += [Mapped(each.price, each.plan, graph, place > 0) for place, each in enumerate(ranked)]


def _read_plan(found: Gathered, given: Path) -> None:
    plan, name = load_plan(given), given.name
    accuracy = found.accuracy(given)
    found.mapped.append(Mapped(found.price(plan, "plan", name, name, name, accuracy), plan))


def _read_architecture(found: Gathered, given: Path) -> None:
    architecture = Architecture.load(given)
    _add_separable(found, architecture, given.name, found.accuracy(given, architecture.name))


def _add_separable(found: Gathered, architecture: Architecture, label: str, accuracy: Accuracy) -> None:
    plan = build_plan(architecture)
    price = found.price(plan, "separable", architecture.name, label, label, accuracy)
    found.mapped.append(Mapped(price, plan))


def _read_run(found: Gathered, given: Path) -> None:
    from sepnas.train.record import best_of, read_history

    best = best_of(read_history(given)).val_accuracy, "validation images"
    architecture = Architecture.load(given / "architecture.json")
    _add_separable(found, architecture, given.name, found.accuracy(given) or best)


def _read_search(found: Gathered, given: Path) -> None:
    """The front of a search, and the map of its knee."""
    from sepnas.search.found import Found

    search = Found.load(given)
    for candidate in sorted(search.front, key=lambda each: each.measured["latency_s"])[:MAX_FRONT]:
        plan, label = build_plan(candidate.architecture), f"candidate {candidate.index}"
        accuracy = candidate.objectives["accuracy"], "supernet"
        network = search.run.space.name
        price = found.price(plan, "separable", network, f"front of {given.name}", label, accuracy)
        if candidate.key == search.knee.key:
            found.mapped.append(Mapped(price, plan))


def _read_deployment(found: Gathered, given: Path) -> None:
    from sepnas.deployment.verify import load_manifest

    manifest = load_manifest(given)
    for name in manifest.plans:
        plan, label = deployed_plan(given, name), f"plan {name} of {given.name}"
        accuracy = found.accuracy(given)
        found.mapped.append(Mapped(found.price(plan, "plan", manifest.name, label, label, accuracy), plan))


_READERS: Mapping[str, Callable[[Gathered, Path], None]] = {
    "network": _read_network,
    "plan": _read_plan,
    "architecture": _read_architecture,
    "run": _read_run,
    "search": _read_search,
    "deployment": _read_deployment,
}


def counts_up_to(num_devices: int) -> Iterator[int]:
    """Numbers of devices to try: all up to eight, then every second, and the last."""
    yield from (n for n in range(1, num_devices + 1) if n <= 8 or n % 2 == 0 or n == num_devices)
