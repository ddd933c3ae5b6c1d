"""A whole search: train the supernet, let NNI explore, write the front."""

from __future__ import annotations

import hashlib
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sepnas.errors import SearchError
from sepnas.nets.supernet import Supernet
from sepnas.objectives import Bounds, names_losing_devices
from sepnas.search.accuracy_evaluator import AccuracyEvaluator
from sepnas.search.candidate import Candidate
from sepnas.search.choose import front_within
from sepnas.search.explorer import BATCH, STRATEGIES, Explorer, StrategyName
from sepnas.search.folder import (
    FRONT_FILE,
    RUN_FILE,
    SUPERNET_FOLDER,
    TRIALS_FOLDER,
    SearchFront,
    SearchRun,
    archive_of,
    note_supernet,
)
from sepnas.search.needs import check_needs
from sepnas.search.pareto import hypervolume
from sepnas.search.policy_problem import PolicyProblem
from sepnas.search.progress import ProgressDisplay, ProgressOption
from sepnas.search.screen import Screen, Screened, check_feasible
from sepnas.search.settings import alone_in, open_run, resumable_in
from sepnas.search.strategies import CountingProposer, check_libraries, make_proposer, remark_on
from sepnas.search.supernet_progress import CountedStep
from sepnas.search.tally import Tally
from sepnas.search.trials.settings import Trials, trials_engine
from sepnas.separable.space import SearchSpace
from sepnas.spec.cluster import Cluster
from sepnas.train.checks import check_trainable, resize_advice
from sepnas.train.images import ImageData
from sepnas.train.loop import pick_device, train_network
from sepnas.train.recipe import LARGE_SIDE, NO_CHANGES, RECIPES, Recipe, RecipeChanges, may_not_mirror
from sepnas.train.supernet import SandwichStep

SUPERNET_EPOCHS = 12
LARGE_BATCH = 32
"""The batch of large images."""
DROPOUT_FOR_ONE_LOST = 0.1
"""Device dropout of a supernet if ``accuracy_one_lost`` is an objective."""


@dataclass(frozen=True)
class SearchResult:
    """The result of a search: the front by rising bytes, the number of evaluated candidates, the seconds per phase.

    ``seconds``: ``supernet`` (training), ``candidates`` (the whole exploration) and, within that, ``accuracy``.
    ``rejected`` proposals broke a bound and ``duplicates`` had the plan of an earlier one; neither cost an evaluation.
    If the search stopped before exploration, only ``seconds`` is meaningful; ``supernet_trained`` says whether the
    training is complete.
    """

    run_dir: Path
    front: list[Candidate]
    candidates: int
    hypervolume: float
    rejected: int
    duplicates: int
    seconds: dict[str, float] = field(compare=False)
    finished: bool = True
    supernet_trained: bool = True


def run_search(
    space: SearchSpace,
    cluster: Cluster,
    data: ImageData,
    out_dir: Path,
    *,
    candidates: int = 200,
    seed: int = 0,
    strategy: StrategyName = "predictive",
    recipe: Recipe | None = None,
    changes: RecipeChanges = NO_CHANGES,
    batch: int = BATCH,
    resume: bool = False,
    progress: ProgressOption = True,
    device: str = "auto",
    trials: Trials | None = None,
    supernet_only: bool = False,
    stop_after_s: float | None = None,
) -> SearchResult:
    """Search ``space`` for the best trade-offs on ``cluster`` and write everything to ``out_dir``.

    Accuracy is measured on validation images with a supernet, trained first with ``recipe`` and its ``changes``. For
    a space with the objective ``accuracy_one_lost``, device dropout is added if neither sets it. The test split is
    never used. ``strategy`` is one of ``STRATEGIES``. ``resume`` continues after a kill and ends as an uninterrupted
    run would.

    Candidates are evaluated in this process or, with ``trials``, in NNI's trials. Both give the same result, because
    the strategy receives results in batches of ``batch`` candidates. With ``supernet_only`` the search stops after
    the supernet's training and needs no library of the extra ``search``. ``stop_after_s`` limits the training time;
    an interrupted training can be resumed.

    Raises :class:`SearchError` (nothing feasible, an objective that the cluster has no figures for, another search in
    the folder), ``TrainingError`` and
    ``StorageError``. Ctrl-C leaves a resumable run; the message of its ``KeyboardInterrupt`` says how to resume.
    """
    out_dir = Path(out_dir)
    _check(space, data, candidates, seed, batch)
    check_needs(space, cluster)
    if strategy not in STRATEGIES:
        raise SearchError(f"unknown strategy {strategy!r}; allowed: {', '.join(STRATEGIES)}")
    recipe = supernet_recipe(data, recipe, changes)
    if changes.device_dropout is None and not recipe.device_dropout and names_losing_devices(space.objectives):
        recipe = recipe.changed("recipe of the supernet", device_dropout=DROPOUT_FOR_ONE_LOST)
    pick_device(device)
    if not supernet_only and stop_after_s is None:
        check_libraries()
    warnings = [] if trials is None or supernet_only else trials.check()
    warnings += filter(None, (recipe.remark(), remark_on(strategy, candidates)))
    check_trainable(space.architecture_of(space.largest()), data, recipe, seed)
    wanted = SearchRun(
        space=space,
        cluster=cluster,
        data=data.name,
        resize=data.resize,
        data_sha256=data.sha256,
        recipe=recipe,
        seed=seed,
        strategy=strategy,
        batch=batch,
        candidates=candidates,
    )
    check_feasible(space, cluster, seed)
    with alone_in(out_dir), resumable_in(out_dir), ProgressDisplay(progress) as display:
        run = open_run(out_dir / RUN_FILE, wanted, resume)
        for warning in warnings:
            display.say(warning)
        if unlinked := Screen(space, cluster).missing_links():
            display.say(f"no link in cluster '{cluster.name}': {unlinked}; policies with messages over it are left out")
        search = _Search(run, data, out_dir, device, display, trials)
        trained = search.train_supernet(stop_after_s)
        if trained and not supernet_only:
            return search.explore()
        return SearchResult(out_dir, [], 0, 0.0, 0, 0, search.seconds, finished=False, supernet_trained=trained)


def supernet_recipe(data: ImageData, recipe: Recipe | None, changes: RecipeChanges = NO_CHANGES) -> Recipe:
    """The given recipe, or the supernet's default for this data set, with ``changes``.

    The default is a single network's recipe with fewer epochs, because each step trains several policies, and without
    label smoothing, which distillation would propagate. The learning rate is high because there are few epochs and the
    loss is the mean over four networks, so each contributes a quarter. Images of a folder are not mirrored. Batches of
    large images are smaller, because the feature maps of all four networks are in memory.
    """
    if recipe is None:
        small = data.name == "digits"
        steps = {"learning_rate": 0.8} | ({} if small else {"weight_decay": 1.25e-4})
        recipe = RECIPES["digits" if small else "cifar-sgd"].model_copy(
            update={"name": "supernet", "epochs": SUPERNET_EPOCHS, "batch_size": 64, "label_smoothing": 0.0, **steps}
        )
        if data.image_size >= LARGE_SIDE:
            large = {"augmentation": RECIPES["large-images"].augmentation, "batch_size": LARGE_BATCH}
            recipe = recipe.model_copy(update=large)
        recipe = recipe.mirroring(False if may_not_mirror(data.name) else None)
    return changes.applied_to(recipe, "recipe of the supernet")


class _Search:
    """One search, with its folder and its display."""

    def __init__(
        self,
        run: SearchRun,
        data: ImageData,
        folder: Path,
        device: str,
        display: ProgressDisplay,
        trials: Trials | None,
    ) -> None:
        self.trials = trials
        self.run, self.data, self.folder, self.device, self.display = run, data, folder, device, display
        self.space = run.space
        self.seconds = dict(run.seconds)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(run.seed)
            self.supernet = Supernet(self.space)

    def train_supernet(self, stop_after_s: float | None = None) -> bool:
        """Train from the last checkpoint; returns whether the training is complete."""
        folder, recipe = self.folder / SUPERNET_FOLDER, self.run.recipe
        largest = self.space.architecture_of(self.space.largest())
        steps = recipe.steps_per_epoch(len(self.data.train))
        sandwich = SandwichStep(
            self.space, device_dropout=recipe.device_dropout, message_dropout=recipe.message_dropout
        )
        step = CountedStep(sandwich, folder, steps, recipe.epochs, self.display)
        result = train_network(
            self.supernet,
            self.data,
            recipe,
            folder,
            seed=self.run.seed,
            resume=True,  # the folder belongs to this search, so any checkpoint in it does too
            device=self.device,
            progress=False,  # the step reports progress
            stop_after_s=stop_after_s,
            step=step,
            validate=lambda supernet: self._evaluator(supernet).accuracy(largest),
        )
        self.seconds["supernet"] = sum(record.duration_s for record in result.history)
        if result.finished:
            step.finish(result.history)
            self.run = note_supernet(self.folder, self.run, _weights_sha256(self.supernet))
        return result.finished

    def _evaluator(self, supernet: nn.Module) -> AccuracyEvaluator:
        """An evaluator for the supernet's current weights."""
        assert isinstance(supernet, Supernet)
        dropout = self.run.recipe.device_dropout, self.run.recipe.message_dropout
        return AccuracyEvaluator(supernet, self.data, self.run.seed, pick_device(self.device), dropout=dropout)

    def explore(self) -> SearchResult:
        # Imported late: NNI takes seconds to import, and only exploration needs it.
        from sepnas.search.experiment import explore
        from sepnas.search.scalarised import make_strategy

        screen = Screen(self.space, self.run.cluster)
        problem = PolicyProblem(screen, self.run.seed)
        proposer = make_proposer(self.run.strategy, problem, self.run.seed)
        archive = archive_of(self.folder, self.space)
        if self.run.candidates < len(archive):
            raise SearchError(
                f"{self.folder}: {len(archive)} candidates are evaluated already, so `candidates` must be at least "
                f"that, got {self.run.candidates}; `sepnas pick` saves one of the front"
            )
        side_by_side = 1 if self.trials is None else self.trials.side_by_side
        tally = Tally(self.run.candidates, problem.worst, self.display, proposer, archive.candidates(), side_by_side)
        explorer = Explorer(
            proposer, archive, self.space.objectives, self.run.candidates, tally.add, self.run.batch,
            self.space.constraints.bounds(evaluated=True),
        )  # fmt: skip
        strategy = make_strategy(self.run.strategy, self.run.seed, explorer, problem.worst)
        evaluator = self._evaluator(self.supernet)
        with tally.curves(self.folder, archive.candidates()), self._engine(evaluator) as engine:
            explore(problem.choices, strategy, evaluator, engine)
        return self._finish(tally, proposer, screen)

    def _engine(self, evaluator: AccuracyEvaluator) -> AbstractContextManager[Any]:
        """The engine that evaluates outside this process, or None."""
        if self.trials is None:
            return nullcontext()
        from sepnas.search.trials.kit import write_kit

        def fill(kit: Path) -> None:
            write_kit(kit, evaluator, self.data, self.run.seed)

        return trials_engine(self.trials, self.folder / TRIALS_FOLDER, fill, self.display.say)

    def _finish(self, tally: Tally[Candidate], proposer: CountingProposer[Screened], screen: Screen) -> SearchResult:
        if not tally.candidates:
            raise SearchError(f"space '{self.space.name}' gave no feasible candidate: {screen.explain()}")
        self.seconds |= {"candidates": tally.seconds(), "accuracy": sum(c.seconds for c in tally.candidates)}
        ordered = sorted(tally.candidates, key=lambda candidate: candidate.index)
        front = tuple(candidate.named(self.space.name) for candidate in front_within(ordered, Bounds()))
        volume = hypervolume(front, tally.worst)
        document = SearchFront(
            space=self.space.name, objectives=self.space.objectives, hypervolume=volume, candidates=front
        )
        document.save(self.folder / FRONT_FILE)
        self.run.model_copy(update={"seconds": self.seconds}).save(self.folder / RUN_FILE)
        return SearchResult(
            self.folder,
            list(front),
            len(ordered),
            volume,
            proposer.rejected,
            proposer.duplicates,
            self.seconds,
        )


def _check(space: SearchSpace, data: ImageData, candidates: int, seed: int, batch: int) -> None:
    for name, value in (("candidates", candidates), ("batch", batch)):
        if value < 1:
            raise SearchError(f"`{name}` must be at least 1, got {value}")
    if not 0 <= seed < 1 << 32:
        raise SearchError(f"`seed` must be within 0..{(1 << 32) - 1}, got {seed}")
    for name in ("image_size", "in_channels", "num_classes"):
        wanted, found = getattr(space.network, name), getattr(data, name)
        if wanted != found:
            raise SearchError(
                f"space '{space.name}' has `network.{name}` {wanted}, but data set {data.name!r} has {found}; "
                f"set it to {found} in a copy of the space" + (resize_advice(wanted) if name == "image_size" else "")
            )


def _weights_sha256(network: Supernet) -> str:
    digest = hashlib.sha256()
    for name, tensor in network.state_dict().items():
        digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
