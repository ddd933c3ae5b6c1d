"""A search space: the networks and transmission policies that a search may choose from.

A *genotype* is one choice for each label of :meth:`SearchSpace.choices`, such as ``point3.pattern``. Several
genotypes may mean the same policy: a point without transfers vanishes whatever its other choices say, and lag 1
where a stage ends is read as lag 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property, lru_cache
from math import prod
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, TypeAlias

from pydantic import Field, model_validator
from typing_extensions import Self

from sepnas.errors import SpecError
from sepnas.spec.architecture import NUM_STAGES, Architecture
from sepnas.spec.document import Document
from sepnas.spec.patterns import Pairs, pattern_pairs, point
from sepnas.spec.policy import ExchangePoint, Readout, TransmissionPolicy
from sepnas.spec.space_parts import MOST_PERMUTED_DEVICES, Constraints, NetworkSpace, Objective, PolicySpace
from sepnas.spec.wire import WIRE_FORMATS

Choice: TypeAlias = str | float | int
Genotype: TypeAlias = Mapping[str, Choice]


class SearchSpace(Document):
    """Networks, policies, bounds and the objectives of a search."""

    format_name: ClassVar[str] = "sepnas.search-space"

    name: str = "space"
    network: NetworkSpace
    policy: PolicySpace
    constraints: Constraints = Constraints()
    objectives: Annotated[tuple[Objective, ...], Field(min_length=2)] = ("accuracy", "latency_s", "payload_bytes")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if "accuracy" not in self.objectives or len(set(self.objectives)) < len(self.objectives):
            raise ValueError(f"`objectives` must name accuracy and others, each once, got {list(self.objectives)}")
        blocks = 3 * ((self.network.depth - 2) // 9)
        outside = [block for block in self.blocks if block >= blocks]
        if outside:
            raise ValueError(f"`policy.exchange_points` names block {outside[0]}, but the blocks are 0..{blocks - 1}")
        try:
            for index, name in enumerate(self.policy.patterns):
                _check_pattern(name, self.num_devices, f"`policy.patterns.{index}`")
            for index, name in enumerate(self.policy.readouts):
                _readout(name, self.num_devices, f"`policy.readouts.{index}`")
        except SpecError as error:
            raise ValueError(str(error)) from None
        return self

    @property
    def num_devices(self) -> int:
        return len(self.network.device_parts())

    @cached_property
    def blocks(self) -> tuple[int, ...]:
        """The blocks after which there is an exchange point."""
        where, stage = self.policy.exchange_points, (self.network.depth - 2) // 9
        if where == "all":
            return tuple(range(NUM_STAGES * stage))
        if where == "even":
            return tuple(first * stage + block for first in range(NUM_STAGES) for block in range(0, stage - 1, 2))
        return where

    def choices(self) -> Mapping[str, tuple[Choice, ...]]:
        """What each label may be, in a fixed order: ``readout``, ``merge``, then the points' labels."""
        return self._choices

    def size(self) -> int:
        """The number of genotypes (of plans there are fewer)."""
        return prod(len(values) for values in self._choices.values())

    def sample(self, draw: Callable[[int], int]) -> dict[str, Choice]:
        """A genotype, each choice by its own ``draw(n)`` from 0..n-1."""
        return {label: values[draw(len(values))] for label, values in self._choices.items()}

    def policy_of(self, genotype: Genotype) -> TransmissionPolicy:
        """The policy that a genotype means; :class:`SpecError` names a label or choice that is not in the space."""
        self._check(genotype)
        points = (self._point(genotype, block) for block in self.blocks)
        readout = _readout(str(genotype["readout"]), self.num_devices, "`readout`")
        return TransmissionPolicy(name=self.name, points=tuple(p for p in points if p.transfers), readout=readout)

    def architecture_of(self, genotype: Genotype) -> Architecture:
        """The network that a genotype means, with its policy."""
        # Built from checked pieces: checking it once more would cost more than pricing it.
        return self._architecture.model_copy(update={"policy": self.policy_of(genotype)})

    def genotype_of(self, policy: TransmissionPolicy) -> dict[str, Choice] | None:
        """A genotype that means this policy, or None where the space cannot express it."""
        wanted = tuple(p for p in policy.points if p.transfers)
        for merge in self.policy.merges:
            genotype = {label: values[0] for label, values in self._choices.items()}
            readout = "mean" if policy.readout.kind == "mean" else f"device:{policy.readout.device}"
            genotype |= {"merge": merge, "readout": readout}
            for block in self.blocks:
                genotype |= self._genes(
                    block, next((p for p in wanted if p.after == block), ExchangePoint(after=block))
                )
            if self._contains(genotype):
                found = self.policy_of(genotype)
                if (found.points, found.readout) == (wanted, policy.readout):
                    return genotype
        return None

    def largest(self) -> dict[str, Choice]:
        """The genotype that sends most: for a space that has them all-to-all, whole, fp32, at once."""
        return self._extreme(pairs=max, fraction=max, wire=min, readout="mean")

    def smallest(self) -> dict[str, Choice]:
        """The genotype that sends least."""
        return self._extreme(pairs=min, fraction=min, wire=max, readout="device")

    def _extreme(self, pairs: Any, fraction: Any, wire: Any, readout: str) -> dict[str, Choice]:
        patterns = self.policy.pattern_names(self.num_devices)
        genes: dict[str, Choice] = {
            "pattern": pairs(patterns, key=lambda name: len(pattern_pairs(name, self.num_devices))),
            "fraction": fraction(self.policy.fractions),
            "wire": wire(self.policy.wires, key=WIRE_FORMATS.index),
            "lag": min(self.policy.lags),
        }
        readouts = sorted(self.policy.readouts, key=lambda name: not name.startswith(readout))
        whole: dict[str, Choice] = {"readout": readouts[0], "merge": min(self.policy.merges)}
        return whole | {f"point{block}.{gene}": value for block in self.blocks for gene, value in genes.items()}

    @cached_property
    def _choices(self) -> Mapping[str, tuple[Choice, ...]]:
        found: dict[str, tuple[Choice, ...]] = {"readout": self.policy.readouts, "merge": self.policy.merges}
        patterns = self.policy.pattern_names(self.num_devices)
        for block in self.blocks:
            found[f"point{block}.pattern"] = patterns
            found[f"point{block}.fraction"] = self.policy.fractions
            found[f"point{block}.wire"] = self.policy.wires
            found[f"point{block}.lag"] = self.policy.lags
        return MappingProxyType(found)

    @cached_property
    def _architecture(self) -> Architecture:
        numbers = {name: getattr(self.network, name) for name in _SHARED_FIELDS}
        return Architecture(name=self.name, parts=self.network.device_parts(), **numbers)

    def _point(self, genotype: Genotype, block: int) -> ExchangePoint:
        pattern, fraction, wire, lag = (
            genotype[f"point{block}.{gene}"] for gene in ("pattern", "fraction", "wire", "lag")
        )
        ends_stage = (block + 1) % self._architecture.blocks_per_stage[0] == 0
        return _make_point(
            block, str(pattern), self.num_devices, fraction, wire, 0 if ends_stage else lag, genotype["merge"]
        )

    def _genes(self, block: int, wanted: ExchangePoint) -> dict[str, Choice]:
        """Choices that come closest to a point whose transfers all look alike."""
        pairs = {(t.source, t.destination) for t in wanted.transfers}
        names = self.policy.pattern_names(self.num_devices)
        fits = [name for name in names if set(_pairs(name, self.num_devices)) == pairs]
        genes: dict[str, Choice] = {"pattern": fits[0]} if fits else {}
        if wanted.transfers:
            first = wanted.transfers[0]
            genes |= {"fraction": first.fraction, "wire": first.wire}
            genes |= {"lag": first.lag} if first.lag in self.policy.lags else {}
        return {f"point{block}.{gene}": value for gene, value in genes.items()}

    def _contains(self, genotype: Genotype) -> bool:
        return all(genotype[label] in values for label, values in self._choices.items())

    def _check(self, genotype: Genotype) -> None:
        if genotype.keys() != self._choices.keys():
            label = sorted(genotype.keys() ^ self._choices.keys())[0]
            raise SpecError(f"genotype: label {label!r} is {'unknown' if label in genotype else 'missing'}")
        for label, values in self._choices.items():
            if genotype[label] not in values:
                raise SpecError(f"genotype: `{label}` is {genotype[label]!r}; allowed: {', '.join(map(str, values))}")


_SHARED_FIELDS = ("depth", "image_size", "in_channels", "num_classes", "stem_channels", "stem_stride")


def _check_pattern(name: str, num_devices: int, where: str) -> None:
    if name == "permutations":
        if num_devices > MOST_PERMUTED_DEVICES:
            raise SpecError(
                f"{where}: `permutations` serves up to {MOST_PERMUTED_DEVICES} devices, here are {num_devices}; "
                "name the permutations that you want"
            )
        return
    try:
        pattern_pairs(name, num_devices)
    except SpecError as error:
        raise SpecError(f"{where}: {error}") from None


def _readout(name: str, num_devices: int, where: str) -> Readout:
    kind, _, rank = name.partition(":")
    if name == "mean":
        return Readout(kind="mean")
    if kind != "device" or not rank.isdecimal() or int(rank) >= num_devices:
        raise SpecError(f"{where} is {name!r}; allowed: mean, device:R with R in 0..{num_devices - 1}")
    return Readout(kind="device", device=int(rank))


@lru_cache(maxsize=1024)
def _pairs(name: str, num_devices: int) -> Pairs:
    return pattern_pairs(name, num_devices)


@lru_cache(maxsize=1 << 16)
def _make_point(
    block: int, pattern: str, num_devices: int, fraction: Any, wire: Any, lag: Any, merge: Any
) -> ExchangePoint:
    """Exchange points are immutable and few: one is made once and shared by all candidates."""
    return point(block, _pairs(pattern, num_devices), fraction, wire, lag, merge)
