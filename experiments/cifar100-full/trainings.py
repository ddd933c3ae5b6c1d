"""The runs of a network at full size: which there are, what each goes on from or learns from, and in which order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sepnas.plan.wire import WireFormat
from sepnas.separable.architecture import Architecture, named_architecture
from sepnas.separable.policy import Readout
from sepnas.train.recipe import Recipe

WIRES: tuple[WireFormat, ...] = ("fp32", "int8", "int4")
"""What a trained network goes on with; fp32 is what the others are held against, so that none has seen more images."""
FINE_EPOCHS, FINE_RATE = 5, 0.02
DISTILLATION = {"weight": 0.7, "temperature": 2.0}
BASE = "all-to-all"


@dataclass(frozen=True)
class Run:
    """One training; ``start``: the run whose network it goes on from; ``teacher``: the one that it learns from."""

    name: str
    architecture: Architecture
    start: Run | None = None
    teacher: Run | None = None

    @property
    def needed(self) -> tuple[Run, ...]:
        """Those whose checkpoints must be there."""
        return tuple(each for each in (self.start, self.teacher) if each)

    def recipe(self, recipe: Recipe) -> Recipe:
        """Its own, of the one that all have."""
        values: dict[str, object] = {}
        if self.start:
            epochs = min(FINE_EPOCHS, recipe.epochs)
            values |= {"epochs": epochs, "learning_rate": FINE_RATE, "name": f"{recipe.name}-fine"}
        if self.teacher:
            values |= {"distillation": DISTILLATION}
        return Recipe.from_data(recipe.to_data() | values, recipe.name)


def runs_of(network: str, devices: int, searched: Path) -> Iterator[Run]:
    """In the order of worth; first what the others are held against. Policies of ``searched/resnext56-4`` and the like
    are good for every width."""

    def named(policy: str, count: int = devices) -> Architecture:
        return named_architecture(network, count, policy, num_classes=100)

    def with_mean(architecture: Architecture) -> Architecture:
        return architecture.with_policy(architecture.policy.model_copy(update={"readout": Readout(kind="mean")}))

    whole = Run("not-separable", named("none", 1))
    all_to_all = Run(BASE, named("all-to-all"))
    hand_made = Run("hand-made-mean", with_mean(named("hand-made")))
    found = list(_searched(named("none"), searched))
    yield from (whole, all_to_all, hand_made, *found)
    yield _gone_on(all_to_all, "fp32")
    yield from (_gone_on(run, wire) for run in (*found, hand_made) for wire in WIRES)
    yield from (Run(f"{run.name}-taught", run.architecture, teacher=whole) for run in found or [hand_made])
    yield Run("hand-made", named("hand-made"))
    yield Run("no-exchange-mean", with_mean(named("none")))


def _searched(like: Architecture, searched: Path) -> Iterator[Run]:
    """Policies found for as many devices and blocks, on this network, written in fp32 at first."""
    for path in sorted((searched / f"resnext{like.depth}-{like.num_devices}").glob("*.json")):
        policy = Architecture.load(path).policy.written_in("fp32", "sample")
        yield Run(path.stem, like.with_policy(policy))


def _gone_on(run: Run, wire: WireFormat) -> Run:
    policy = run.architecture.policy.written_in(wire, "learned")
    return Run(f"{run.name}-{wire}", run.architecture.with_policy(policy), start=run)


def pending(every: Sequence[Run], wanted: Sequence[Run], finished: Sequence[Run]) -> list[Run]:
    """What is to be trained for those that are ``wanted``, in order: them, and of what they need all whose checkpoint
    is not ``finished``, whatever was found of it before."""
    names = {run.name for run in wanted}
    for run in reversed(every):
        if run.name in names:
            names |= {each.name for each in run.needed if each not in finished}
    return [run for run in every if run.name in names]
