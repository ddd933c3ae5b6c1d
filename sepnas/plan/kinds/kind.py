"""What an operator of a graph is: one object for each kind holds its costs, its shapes and its halo rule. No torch.

Axes are counted as in torch, the batch axis included. Attributes have the names of ATen's arguments; those that hold
their default may be left out. The torch implementation of a kind is a list of ATen calls, made from the attributes.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, ClassVar, TypeAlias

from sepnas.plan.kinds.terms import Terms
from sepnas.plan.operators import Operator
from sepnas.plan.shapes import Range, Region

Dims: TypeAlias = tuple[int, ...]
Attributes: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class OperatorUse:
    """One use of an operator: its attributes and the sizes of its operands, by role (``input``, ``weight``, ...)."""

    attributes: Attributes
    inputs: Mapping[str, Dims]
    memo: dict[Hashable, Any] = field(default_factory=dict, init=False, repr=False, compare=False)
    """What is asked for again and again, such as windows."""

    def __getitem__(self, role: str) -> Dims:
        """The sizes of an operand; :class:`ValueError` if there is none."""
        try:
            return self.inputs[role]
        except KeyError:
            raise ValueError(f"operand `{role}` is missing; there are {', '.join(self.inputs) or 'none'}") from None

    def get(self, name: str, default: Any = None) -> Any:
        """An attribute, or its default."""
        return self.attributes.get(name, default)

    def per_axis(self, name: str, count: int, default: int) -> Dims:
        """An attribute with one number per axis; a single number stands for all of them."""
        value = self.attributes.get(name, default)
        values = tuple(value) if isinstance(value, list | tuple) else (value,)
        values = values * count if len(values) == 1 else values
        if len(values) != count or not all(isinstance(each, int) for each in values):
            raise ValueError(f"attribute `{name}` must have {count} whole numbers, got {value!r}")
        return values

    def axis(self, name: str, rank: int, default: int = 0) -> int:
        """An attribute that names an axis, counted from the front."""
        return front_axis(self.attributes.get(name, default), rank, name)

    def axes(self, name: str, rank: int, default: Any = ()) -> tuple[int, ...]:
        """An attribute that names one axis or several, sorted and counted from the front."""
        value = self.attributes.get(name, default)
        values = value if isinstance(value, list | tuple) else (value,)
        return tuple(sorted({front_axis(each, rank, name) for each in values}))


def front_axis(value: Any, rank: int, name: str = "dim") -> int:
    """An axis counted from the front, given one that may be counted from the back."""
    if not isinstance(value, int) or not -rank <= value < max(rank, 1):
        raise ValueError(f"attribute `{name}` must be an axis of {rank}, got {value!r}")
    return value % rank if rank else 0


@dataclass(frozen=True, slots=True)
class AtenCall:
    """One call of an ATen operator.

    ``operands`` says for each tensor argument which operand it is; ``""`` is the result of the call before, and a tuple
    of roles is a list of tensors (None: no tensor at that place). ``arguments`` are the others.
    """

    overload: str
    operands: Mapping[str, str | tuple[str | None, ...]]
    arguments: Attributes


@dataclass(frozen=True, slots=True)
class Restriction:
    """What computes a region of an operator's output: the same operator, on parts of its operands.

    ``inputs`` has the region of each operand, and lacks those that the region does not need. ``attributes`` are those
    of the smaller use, such as its padding. ``crop`` is the region of the smaller output that was asked for.
    """

    inputs: Mapping[str, Region]
    attributes: Attributes
    crop: Region


@dataclass(frozen=True)
class GraphOperator(ABC):
    """A kind of operator with one output. ``aten`` are the overloads that are traced to it."""

    name: str
    aten: tuple[str, ...]

    parameters: ClassVar[tuple[str, ...]] = ("weight", "bias")
    """The operands that usually are weights."""

    @abstractmethod
    def output(self, use: OperatorUse) -> Dims:
        """The sizes of the output; :class:`ValueError` if the operands do not fit each other or the attributes."""

    @abstractmethod
    def cuts(self, use: OperatorUse) -> Mapping[int, int]:
        """The axes of the output that may be cut, each with the multiple that a cut keeps to."""

    @abstractmethod
    def part(self, use: OperatorUse, region: Region) -> Restriction:
        """See :meth:`restrict`; the region is one that :meth:`widened` gave."""

    def macs(self, use: OperatorUse) -> int:
        """Multiply-accumulates; operators without products of weights or activations have none."""
        return 0

    def padding_share(self, use: OperatorUse) -> float:
        """The share (0..1) of zeros beside the input in all that the weights of a layer are multiplied with.

        A constant that a bias adds in place of the input's is right for the rest only. It is 1 where there is no bias.
        """
        return 1.0

    def num_weights(self, use: OperatorUse) -> int:
        """The numbers that lie in weights, if the usual operands are weights."""
        return sum(math.prod(dims) for role, dims in use.inputs.items() if role in self.parameters)

    def normalise(self, overload: str, use: OperatorUse) -> Attributes:
        """The attributes of this kind, given those of an ATen overload."""
        return use.attributes

    def calls(self, use: OperatorUse) -> tuple[AtenCall, ...]:
        """The torch implementation."""
        return (AtenCall(self.aten[0], {role: role for role in use.inputs}, use.attributes),)

    def priced(self, use: OperatorUse) -> tuple[Operator, ...]:
        """The operators in which devices are measured that have this one's MACs and values; none if it has no time."""
        return ()

    def axes(self, use: OperatorUse, names: Mapping[str, str]) -> str:
        """The names of the output's axes, given those of the operands; ``?`` for an axis without a name."""
        rank = len(self.output(use))
        first = of_samples(names, rank) or next(iter(names.values()), "")
        return first if len(first) == rank else first[:1] + "?" * (rank - 1) if rank and first else "?" * rank

    def widened(self, use: OperatorUse, region: Region) -> Region:
        """The smallest region around this one that can be computed by itself."""
        if "bounds" not in use.memo:
            use.memo["bounds"] = self.cuts(use), self.output(use)
        cuts, dims = use.memo["bounds"]
        ranges = []
        for axis, ((start, stop), size) in enumerate(zip(region.ranges, dims, strict=True)):
            multiple = cuts.get(axis)
            if multiple is None:
                ranges.append((0, size))
            else:
                ranges.append((start // multiple * multiple, min(size, -(-stop // multiple) * multiple)))
        return Region(tuple(ranges))

    def restrict(self, use: OperatorUse, region: Region) -> Restriction:
        """What computes exactly ``region`` of the output; along axes that may not be cut, all of it is computed."""
        wide = self.widened(use, region)
        found = self.part(use, wide)
        if region == wide:
            return found
        offsets = [inner - outer for (inner, _), (outer, _) in zip(region.ranges, wide.ranges, strict=True)]
        ranges = zip(found.crop.ranges, offsets, region.dims, strict=True)
        crop = Region(tuple((start + offset, start + offset + size) for (start, _), offset, size in ranges))
        return Restriction(found.inputs, found.attributes, crop)

    def terms(self, use: OperatorUse) -> Terms | None:
        """The terms of each output value that may be shared out, such as input channels or rows; None if none may."""
        return None

    def partial(self, use: OperatorUse, terms: Region) -> Restriction:
        """What joins these of the :meth:`terms`, for all of the output. The results, merged, are the output.

        A bias belongs to the share that begins with the first term.
        """
        raise ValueError(f"{self.name} has no terms that may be shared out")

    def input_region(self, use: OperatorUse, region: Region) -> Mapping[str, Region]:
        """The region of each operand that a region of the output needs: the halo rule."""
        return self.restrict(use, region).inputs


def of_samples(names: Mapping[str, str], rank: int) -> str:
    """The names of the axes of the first operand with this many, if possible of one that is no weight."""
    ranked = [name for name in names.values() if len(name) == rank]
    return next((name for name in ranked if name[:1] == "N"), ranked[0] if ranked else "")


@lru_cache(maxsize=1 << 12)
def whole(dims: Dims) -> Region:
    """The region of a whole tensor. Equal regions are one object."""
    return Region(tuple((0, size) for size in dims))


def along(dims: Dims, axis: int, span: Range) -> Region:
    """A range along one axis, and all of the others."""
    return Region(tuple(span if each == axis % len(dims) else (0, size) for each, size in enumerate(dims)))


def exactly(inputs: Mapping[str, Region], attributes: Attributes, dims: Dims) -> Restriction:
    """A restriction whose whole result, of sizes ``dims``, is what was asked for."""
    return Restriction(inputs, attributes, whole(dims))


def broadcast_region(ranges: tuple[Range, ...], dims: Dims) -> Region:
    """The region of an operand that is broadcast to a larger output."""
    own = ranges[len(ranges) - len(dims) :]
    return Region(tuple((0, 1) if size == 1 else each for each, size in zip(own, dims, strict=True)))


def broadcast(*shapes: Dims) -> Dims:
    """The sizes of operands that are broadcast together; :class:`ValueError` if they do not fit."""
    rank = max(map(len, shapes), default=0)
    padded = [(1,) * (rank - len(dims)) + tuple(dims) for dims in shapes]
    result = tuple(max(sizes) if 0 not in sizes else 0 for sizes in zip(*padded, strict=True))
    for dims in padded:
        if any(size not in (1, total) for size, total in zip(dims, result, strict=True)):
            raise ValueError(f"operands {' and '.join(map(sizes_text, shapes))} do not broadcast")
    return result


def sizes_text(dims: Dims) -> str:
    """Sizes for a message, such as ``1x3x8x8``."""
    return "x".join(map(str, dims)) or "a number"
