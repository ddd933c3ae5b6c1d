"""A whole exploration: measure the network, let NNI search the knobs, write the front."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sepnas.errors import SearchError
from sepnas.exploration.candidate import PricedSeparation, SeparationCandidate
from sepnas.exploration.evaluator import SeparationEvaluator, some_of_validation
from sepnas.exploration.folder import ExplorationRun, SeparationFront, archive_in, finished_front
from sepnas.exploration.problem import OBJECTIVE_NAMES, SeparationProblem
from sepnas.exploration.separations import Separations
from sepnas.importing.one_thread import linear_algebra_on_one_thread
from sepnas.importing.separated import check_separable
from sepnas.importing.separator import Separator
from sepnas.nets.graph import load_graph_network
from sepnas.objectives import LATENCY_S, Bounds
from sepnas.partition.schemes.registry import on_one_device
from sepnas.search.choose import front_within
from sepnas.search.explorer import STRATEGIES, Explorer, StrategyName
from sepnas.search.folder import FRONT_FILE, RUN_FILE
from sepnas.search.pareto import hypervolume, knee
from sepnas.search.progress import ProgressDisplay, ProgressOption
from sepnas.search.screen import priced
from sepnas.search.settings import alone_in, open_run, resumable_in
from sepnas.search.strategies import CountingProposer, check_libraries, make_proposer, remark_on
from sepnas.search.tally import Tally
from sepnas.separation.document import digest_of
from sepnas.separation.thinning import AUTO
from sepnas.spec.cluster import Cluster, format_pairs
from sepnas.spec.document import few
from sepnas.spec.folder_lock import LOCK_FILE
from sepnas.train.checkpoint import tensors_sha256
from sepnas.train.images import ImageData
from sepnas.train.separated import SeparatedTuning
from sepnas.train.source import DataSource
from sepnas.train.threads import use_threads_for_macs
from sepnas.units import format_count

CHILDREN = 4
"""Candidates priced for each that is evaluated: a price takes a second, where those of a search take milliseconds."""
BATCH = 1
"""Each proposal knows all results before: evaluations follow one another."""


@dataclass(frozen=True)
class ExplorationResult:
    """A finished exploration: its folder, its settings, and its front."""

    run_dir: Path
    run: ExplorationRun
    front: SeparationFront

    @property
    def knee(self) -> SeparationCandidate:
        """The point of the front nearest to the ideal one."""
        return knee(self.front.candidates)


def explore_network(
    network: Path,
    out: Path,
    source: DataSource,
    cluster: Cluster,
    devices: int,
    *,
    candidates: int = 60,
    images: int = 512,
    val_images: int = 1000,
    strategy: StrategyName = "predictive",
    seed: int = 0,
    resume: bool = False,
    threads: int | None = None,
    progress: ProgressOption = True,
) -> ExplorationResult:
    """Search for the best ways to separate a network over the first ``devices`` of a cluster, and write ``out``.

    Each candidate is separated as `sepnas separate` does, priced by simulation, and evaluated on ``val_images``
    validation images at most, without training. ``resume`` continues after a kill, and ends as an unbroken exploration
    would; a finished one is read.

    Raises :class:`SearchError` (another exploration in the folder), ``TrainingError`` (images or classes that do not
    fit), ``SpecError``, ``PlanError`` (a network that cannot be separated so), ``StorageError``. Ctrl-C leaves a
    resumable run.
    """
    if strategy not in STRATEGIES:
        raise SearchError(f"unknown strategy {strategy!r}; allowed: {', '.join(STRATEGIES)}")
    check_separable(network, AUTO, 0, devices)
    check_libraries()
    if unlinked := format_pairs(cluster.missing_links(devices)):
        raise SearchError(
            f"cluster '{cluster.name}' has no link for {unlinked}; the devices of a separated network exchange in each "
            "pair: add links (`between: all` for every pair)"
        )
    tuning = SeparatedTuning(network, source)
    speeds = [each.flops_per_s for each in cluster.devices[:devices]]
    samples = tuple(tuning.samples(images))
    of = Separator(load_graph_network(network), speeds, samples=samples, seed=seed)
    wanted = ExplorationRun(
        network=of.graph.name, graph_sha256=digest_of(of.graph), weights_sha256=tensors_sha256(of.weights),
        num_devices=devices, cluster=cluster, data=tuning.images.name,
        data_sha256=tuning.images.sha256, images=images, val_images=val_images, seed=seed, strategy=strategy,
        candidates=candidates,
    )  # fmt: skip
    with alone_in(out), resumable_in(out), linear_algebra_on_one_thread(), ProgressDisplay(progress) as display:
        _refuse_other_files(out)
        run = open_run(out / RUN_FILE, wanted, resume)
        front = finished_front(out, candidates)
        if front is None:
            front = _Exploration(run, network, out, tuning.images, of, display).explore(threads)
        return ExplorationResult(out, run, front)


class _Exploration:
    """One exploration, with its folder and its display."""

    def __init__(
        self, run: ExplorationRun, network: Path, out: Path, data: ImageData, of: Separator, display: ProgressDisplay
    ) -> None:
        self.run, self.network, self.out, self.of, self.display = run, network, out, of, display
        self.data = some_of_validation(data, run.val_images, run.seed)

    def explore(self, threads: int | None) -> SeparationFront:
        # Imported late: NNI takes seconds to import.
        from sepnas.search.experiment import explore
        from sepnas.search.scalarised import make_strategy

        run, archive = self.run, archive_in(self.out)
        if run.candidates < len(archive):
            raise SearchError(
                f"{self.out}: {len(archive)} candidates are evaluated already, so `candidates` must be at least that, "
                f"got {run.candidates}"
            )
        if remark := remark_on(run.strategy, run.candidates):
            self.display.say(remark)
        separations = self._measured(threads)
        problem = SeparationProblem(separations, run.cluster)
        evaluator = SeparationEvaluator(separations, self.data)
        original = evaluator.original(self.network)
        self.display.say(
            f"the network itself: {original:.2%} of {format_count(len(self.data.val), 'validation image')}"
        )
        proposer = make_proposer(run.strategy, problem, run.seed, CHILDREN)
        tally = Tally(run.candidates, problem.worst, self.display, proposer, archive.candidates())
        explorer = Explorer(proposer, archive, OBJECTIVE_NAMES, run.candidates, tally.add, BATCH)
        strategy = make_strategy(run.strategy, run.seed, explorer, problem.worst)
        with tally.curves(self.out, archive.candidates()):
            explore(problem.choices, strategy, evaluator)
        if not tally.candidates:
            raise SearchError(
                f"no separation of '{run.network}' fits cluster '{run.cluster.name}': {problem.explain()}"
            )
        return self._finish(tally, proposer, original)

    def _measured(self, threads: int | None) -> Separations:
        """The network's separations, once images have told what matters: on the threads that `separate` has."""
        count = sum(len(inputs[0]) for inputs in self.of.samples)
        self.display.say(f"measuring activations on {format_count(count, 'image')}")
        assert self.of.statistics
        use_threads_for_macs(self.of.graph.macs, threads)
        return Separations(self.of, self.run.cluster)

    def _finish(
        self, tally: Tally[SeparationCandidate], proposer: CountingProposer[PricedSeparation], original: float
    ) -> SeparationFront:
        front = tuple(front_within(sorted(tally.candidates, key=lambda each: each.index), Bounds()))
        document = SeparationFront(
            original_accuracy=original, original_costs=self._alone(), val_images=len(self.data.val),
            exact_bytes=self.of.exact_bytes, evaluated=len(tally.candidates), wanted=self.run.candidates,
            rejected=proposer.rejected, duplicates=proposer.duplicates, seconds=tally.seconds(),
            hypervolume=hypervolume(front, tally.worst),
            candidates=front,
        )  # fmt: skip
        document.save(self.out / FRONT_FILE)
        return document

    def _alone(self) -> dict[str, float]:
        """The costs of the device that computes the network fastest alone."""
        devices = self.run.num_devices
        plans = (on_one_device(self.of.graph, rank, devices) for rank in range(devices))
        return min((priced(plan, self.run.cluster)[0] for plan in plans), key=LATENCY_S.value)


def _refuse_other_files(out: Path) -> None:
    """Refuse a folder of something else, in which an exploration would leave its files."""
    names = {path.name for path in out.iterdir()} - {LOCK_FILE}
    if names and RUN_FILE not in names:
        raise SearchError(f"{out}: holds other files ({few(sorted(names), 4)}); name a new folder, or an empty one")
