"""A search space: the networks and transmission policies that a search may choose from.

A *genotype* is one choice for each label of :meth:`SearchSpace.choices`, such as ``depth`` or ``point3.pattern``.
Exchange points are those of the deepest network: after place k of stage s. Several genotypes may describe the same
architecture: a point without transfers is dropped whatever its other choices, and so is a point after the last block
of a stage in a shallower network; lag 1 at the end of a stage is read as lag 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from math import prod
from operator import contains
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, TypeAlias

from pydantic import Field, model_validator
from typing_extensions import Self

from sepnas.errors import SpecError
from sepnas.objectives import names_losing_devices
from sepnas.plan.merge_rules import MERGE_RULES
from sepnas.plan.wire import WIRE_FORMATS
from sepnas.separable.architecture import Architecture
from sepnas.separable.backbones.backbone import BlockStages
from sepnas.separable.policy import ExchangePoint, TransmissionPolicy
from sepnas.separable.space_network import NetworkSpace
from sepnas.separable.space_parts import Constraints, ObjectiveName, PolicySpace
from sepnas.separable.space_points import (
    GENES,
    Place,
    check_pattern,
    make_places,
    make_point,
    pairs_of,
    readout_of,
    silent_policy,
)
from sepnas.spec.document import Document
from sepnas.spec.figures import Text

Choice: TypeAlias = str | float | int
Genotype: TypeAlias = Mapping[str, Choice]
DENSITIES = 8
"""Number of levels of the share of silent points in :meth:`SearchSpace.sample_spread`."""


class SearchSpace(Document):
    """The networks, policies, bounds and objectives of a search."""

    format_name: ClassVar[str] = "sepnas.search-space"

    name: Text = "space"
    network: NetworkSpace
    policy: PolicySpace
    constraints: Constraints = Constraints()
    objectives: Annotated[tuple[ObjectiveName, ...], Field(min_length=2)] = ("accuracy", "latency_s", "payload_bytes")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if "accuracy" not in self.objectives or len(set(self.objectives)) < len(self.objectives):
            raise ValueError(f"`objectives` must name accuracy and others, each once, got {list(self.objectives)}")
        losing = names_losing_devices(self.objectives)
        if losing and self.num_devices == 1:
            raise ValueError(f"`objectives` names {losing[0]}, but there is one device only; leave it out")
        for bound in self.constraints.bounds(evaluated=True):
            if bound.objective.name not in self.objectives:
                raise ValueError(
                    f"`constraints.{bound.objective.bound_name}` bounds an objective evaluated on images, so "
                    f"`objectives` must name {bound.objective.name}, got {list(self.objectives)}"
                )
        if (self.constraints.devices_used or 1) > self.num_devices:
            raise ValueError(
                f"`constraints.devices_used` is {self.constraints.devices_used}, but `network` has {self.num_devices} "
                "devices; ask for no more"
            )
        blocks = self._stages.num_blocks
        outside = [block for block in self.blocks if block >= blocks]
        if outside:
            raise ValueError(f"`policy.exchange_points` names block {outside[0]}, but the blocks are 0..{blocks - 1}")
        try:
            for index, name in enumerate(self.policy.patterns):
                check_pattern(name, self.num_devices, f"`policy.patterns.{index}`")
            for index, name in enumerate(self.policy.readouts):
                readout_of(name, self.num_devices, f"`policy.readouts.{index}`")
        except SpecError as error:
            raise ValueError(str(error)) from None
        return self

    @property
    def num_devices(self) -> int:
        return self.network.count_devices()

    @property
    def deepest(self) -> int:
        return max(self.network.depths)

    @property
    def _stages(self) -> BlockStages:
        """The stages of the deepest network."""
        return self.network.stages(self.deepest)

    @cached_property
    def blocks(self) -> tuple[int, ...]:
        """The blocks of the deepest network that are followed by an exchange point."""
        where, stages = self.policy.exchange_points, self._stages
        if where == "all":
            return tuple(range(stages.num_blocks))
        if where == "even":
            return stages.even_blocks()
        return where

    def choices(self) -> Mapping[str, tuple[Choice, ...]]:
        """The values of each label, in a fixed order: ``readout``, ``merge``, the network's labels, the points'."""
        return self._choices

    def size(self) -> int:
        """The number of genotypes (there are fewer distinct plans)."""
        return prod(len(values) for values in self._choices.values())

    def sample(self, draw: Callable[[int], int]) -> dict[str, Choice]:
        """A genotype; each choice is an independent ``draw(n)`` from 0..n-1."""
        return {label: values[draw(len(values))] for label, values in self._choices.items()}

    def sample_spread(self, draw: Callable[[int], int]) -> dict[str, Choice]:
        """A genotype with its own share of silent points and its own small pools of choices.

        With independent choices (:meth:`sample`) nearly all genotypes send about the same number of bytes; these cover
        the whole range.
        """
        genotype = self.sample(draw)
        silent, density = self._silent, 1 + draw(DENSITIES)
        pools = {gene: _some(values, draw) for gene, values in self._point_choices.items()}
        for block in self.blocks:
            genotype |= {f"point{block}.{gene}": pool[draw(len(pool))] for gene, pool in pools.items()}
            if silent is not None and draw(DENSITIES) >= density:
                genotype[f"point{block}.pattern"] = silent
        return genotype

    def architecture_of(self, genotype: Genotype) -> Architecture:
        """The architecture of a genotype; :class:`SpecError` names a label or choice that is not in the space."""
        self._check(genotype)
        network = self.network.architecture(self.name, genotype)
        # Built from checked pieces: validating it again would cost more than pricing it.
        return network.with_checked(policy=self._policy(genotype, network.depth))

    def genotype_of(self, policy: TransmissionPolicy, depth: int | None = None) -> dict[str, Choice] | None:
        """The largest network of this depth (default: the deepest) with this policy; None if not in the space."""
        depth = self.deepest if depth is None else depth
        if depth not in self.network.depths:
            return None
        wanted = {p.after: p for p in policy.points if p.transfers}
        readout = "mean" if policy.readout.kind == "mean" else f"device:{policy.readout.device}"
        whole = {"readout": readout, **self._network_extreme(max)}
        if "depth" in whole:
            whole["depth"] = depth
        for merge in self.policy.merges:
            genotype = {label: values[0] for label, values in self._choices.items()} | {"merge": merge} | whole
            for place in self._places(depth):
                genes = self._genes(wanted.get(place.after, ExchangePoint(after=place.after)))
                genotype |= {
                    label: genes[gene] for label, gene in zip(place.labels, GENES, strict=True) if gene in genes
                }
            if self._contains(genotype):
                found = self._policy(genotype, depth)
                if (found.points, found.readout) == (tuple(wanted.values()), policy.readout):
                    return genotype
        return None

    def largest(self) -> dict[str, Choice]:
        """The deepest and widest network that sends most: if possible all to all, whole, fp32, lag 0."""
        return self._extreme(max, pairs=max, fraction=max, wire=min, readout="mean")

    def smallest(self) -> dict[str, Choice]:
        """The shallowest and narrowest network that sends least."""
        return self._extreme(min, pairs=min, fraction=min, wire=max, readout="device")

    def _extreme(self, numbers: Any, pairs: Any, fraction: Any, wire: Any, readout: str) -> dict[str, Choice]:
        genes: dict[str, Choice] = {
            "pattern": pairs(self._point_choices["pattern"], key=lambda name: len(pairs_of(name, self.num_devices))),
            "fraction": fraction(self.policy.fractions),
            "wire": wire(self.policy.wires, key=WIRE_FORMATS.index),
            "lag": min(self.policy.lags),
        }
        readouts = sorted(self.policy.readouts, key=lambda name: not name.startswith(readout))
        whole: dict[str, Choice] = {"readout": readouts[0], "merge": min(self.policy.merges, key=MERGE_RULES.index)}
        points = {f"point{block}.{gene}": value for block in self.blocks for gene, value in genes.items()}
        return whole | self._network_extreme(numbers) | points

    def _network_extreme(self, extreme: Callable[[Iterable[int]], int]) -> dict[str, Choice]:
        return {label: extreme(values) for label, values in self.network.choices().items()}

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        return self  # it is immutable

    @cached_property
    def _choices(self) -> Mapping[str, tuple[Choice, ...]]:
        found: dict[str, tuple[Choice, ...]] = {"readout": self.policy.readouts, "merge": self.policy.merges}
        found |= self.network.choices()
        for block in self.blocks:
            found |= {f"point{block}.{gene}": values for gene, values in self._point_choices.items()}
        return MappingProxyType(found)

    @cached_property
    def _point_choices(self) -> dict[str, tuple[Choice, ...]]:
        """The values of each gene of an exchange point."""
        policy = self.policy
        values = (policy.pattern_names(self.num_devices), policy.fractions, policy.wires, policy.lags)
        return dict(zip(GENES, values, strict=True))

    @cached_property
    def _silent(self) -> Choice | None:
        """A pattern that sends nothing, if there is one."""
        return next((p for p in self._point_choices["pattern"] if not pairs_of(str(p), self.num_devices)), None)

    def _places(self, depth: int) -> tuple[Place, ...]:
        return make_places(self.network.backbone, self.blocks, self.deepest, depth)

    def _policy(self, genotype: Genotype, depth: int) -> TransmissionPolicy:
        num_devices, merge, points = self.num_devices, genotype["merge"], []
        for place in self._places(depth):
            pattern, fraction, wire, lag = place.genes(genotype)
            point = make_point(place.after, num_devices, merge, pattern, fraction, wire, 0 if place.ends_stage else lag)
            if point.transfers:
                points.append(point)
        silent = silent_policy(self.name, str(genotype["readout"]), num_devices)
        return silent.with_checked(points=tuple(points))  # in rising order, because the places are

    def _genes(self, wanted: ExchangePoint) -> dict[str, Choice]:
        """The choices closest to a point with equal settings for all of its transfers."""
        pairs = {(t.source, t.destination) for t in wanted.transfers}
        fits = [p for p in self._point_choices["pattern"] if set(pairs_of(str(p), self.num_devices)) == pairs]
        genes: dict[str, Choice] = {"pattern": fits[0]} if fits else {}
        if wanted.transfers:
            first = wanted.transfers[0]
            genes |= {"fraction": first.fraction, "wire": first.wire}
            genes |= {"lag": first.lag} if first.lag in self.policy.lags else {}
        return genes

    def _contains(self, genotype: Genotype) -> bool:
        try:
            return all(map(contains, self._allowed, map(genotype.get, self._choices)))
        except TypeError:  # a choice that cannot be hashed: a list from a damaged file
            return False

    @cached_property
    def _allowed(self) -> tuple[frozenset[Choice], ...]:
        """The values of each label as sets, for fast lookup."""
        return tuple(frozenset(values) for values in self._choices.values())

    def _check(self, genotype: Genotype) -> None:
        if len(genotype) == len(self._choices) and self._contains(genotype):
            return
        if genotype.keys() != self._choices.keys():
            label = sorted(genotype.keys() ^ self._choices.keys())[0]
            raise SpecError(f"genotype: label {label!r} is {'unknown' if label in genotype else 'missing'}")
        for label, values in self._choices.items():
            if genotype[label] not in values:
                raise SpecError(f"genotype: `{label}` is {genotype[label]!r}; allowed: {', '.join(map(str, values))}")


def _some(values: tuple[Choice, ...], draw: Callable[[int], int]) -> list[Choice]:
    """One or more of the values; few are more likely."""
    left = list(values)
    return [left.pop(draw(len(left))) for _ in range(1 + draw(1 + draw(len(values))))]
