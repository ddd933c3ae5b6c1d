"""Parts of a search space other than its networks: the choices of policies, the bounds and the objectives."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import permutations
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias, TypeVar

from pydantic import Field, create_model, field_validator

from sepnas.objectives import OBJECTIVES, Bounds, Objective, is_evaluated
from sepnas.plan.merge_rules import MergeRule
from sepnas.plan.wire import WireFormat
from sepnas.separable.patterns import matchings
from sepnas.separable.policy import Lag
from sepnas.spec.document import Part, repeated, short

if TYPE_CHECKING:
    ObjectiveName: TypeAlias = str
else:
    ObjectiveName = Literal[tuple(OBJECTIVES)]
MAX_DEVICES_OF: Mapping[str, int] = MappingProxyType({"permutations": 6, "swaps": 8})
"""Maximum number of devices for listing a whole family (720 orders, 105 pairings); beyond it, name the members."""

_Constraints = TypeVar("_Constraints", bound=Part)
_Name = Annotated[str, Field(max_length=1000)]


class PolicySpace(Part):
    """The transmission policies: where messages may be exchanged, and the choices of each exchange point.

    ``exchange_points``: ``all`` blocks, the ``even`` blocks of each stage (without the block that ends it, as in the
    paper), or a list of blocks; all of the deepest network. ``patterns``: names as in
    ``sepnas.separable.patterns``, or ``permutations`` or ``swaps`` (all pairings of the devices) for the whole family.
    ``readouts``: ``device:R`` or ``mean``. ``merges`` and ``readouts`` are each one choice for the whole network.
    """

    exchange_points: Literal["all", "even"] | tuple[int, ...] = "all"
    patterns: Annotated[tuple[_Name, ...], Field(min_length=1, max_length=10_000)]
    fractions: Annotated[tuple[Annotated[float, Field(gt=0, le=1)], ...], Field(min_length=1, max_length=1000)] = (1.0,)
    wires: Annotated[tuple[WireFormat, ...], Field(min_length=1)] = ("fp32",)
    lags: Annotated[tuple[Lag, ...], Field(min_length=1)] = (0,)
    merges: Annotated[tuple[MergeRule, ...], Field(min_length=1)] = ("mean",)
    readouts: Annotated[tuple[Annotated[str, Field(max_length=100)], ...], Field(min_length=1, max_length=1000)] = (
        "device:0",
    )

    @field_validator("exchange_points", mode="before")
    @classmethod
    def _known_points(cls, value: Any) -> Any:
        blocks = isinstance(value, list | tuple) and all(type(block) is int and block >= 0 for block in value)
        if not blocks and value not in ("all", "even"):
            raise ValueError(f"expected `all`, `even`, or a list of block numbers from 0, got {short(value)}")
        if blocks and list(value) != sorted(set(value)):
            raise ValueError(f"block numbers must rise and each stand once, got {short(list(value))}")
        return tuple(value) if blocks else value

    @field_validator("patterns", "fractions", "wires", "lags", "merges", "readouts")
    @classmethod
    def _each_once(cls, values: tuple[Any, ...]) -> tuple[Any, ...]:
        twice = repeated(values)
        if twice:
            raise ValueError(f"each choice may stand once, {twice[0]!r} stands {values.count(twice[0])} times")
        return values

    def pattern_names(self, num_devices: int) -> tuple[str, ...]:
        """The patterns, with ``permutations`` and ``swaps`` expanded."""
        names: list[str] = []
        for name in self.patterns:
            names += _FAMILIES[name](num_devices) if name in _FAMILIES else [name]
        return tuple(dict.fromkeys(names))


def _with_bound_for_each_objective(part: type[_Constraints]) -> type[_Constraints]:
    """The class with a field ``max_NAME`` or ``min_NAME`` added for each objective."""
    fields: dict[str, Any] = {known.bound_name: (_limit_of(known) | None, None) for known in OBJECTIVES.values()}
    made = create_model(part.__name__, __base__=part, __module__=part.__module__, **fields)
    made.__doc__ = part.__doc__
    return made


def _limit_of(objective: Objective) -> Any:
    quantity = objective.quantity
    if quantity.whole:
        return Annotated[int, Field(ge=0)]
    return Annotated[float, Field(gt=0, le=quantity.highest)]


@_with_bound_for_each_objective
class Constraints(Part):
    """Bounds on candidates; a bound that is not set does not apply.

    ``max_NAME`` bounds an objective in its base unit, ``min_NAME`` one that is maximised; it need not be among the
    ``objectives`` of the space unless it is evaluated on images. ``max_memory_bytes`` is per device; each device's own
    memory in the cluster is a bound as well. ``devices_used`` is the minimum number of devices whose work the answer
    needs.
    """

    devices_used: Annotated[int, Field(ge=1)] | None = None

    def bounds(self, evaluated: bool) -> Bounds:
        """The bounds on objectives evaluated on images (``evaluated``), or on the simulated ones."""
        names = (known.bound_name for known in OBJECTIVES.values() if is_evaluated(known.name) == evaluated)
        return Bounds.of(**{name: getattr(self, name) for name in names})


def _all_permutations(num_devices: int) -> list[str]:
    orders = permutations(range(num_devices))
    return ["permutation:" + "".join(map(str, order)) for order in orders]


def _all_swaps(num_devices: int) -> list[str]:
    return ["swap:" + ",".join(f"{a}-{b}" for a, b in pairs) for pairs in matchings(range(num_devices))]


_FAMILIES = {"permutations": _all_permutations, "swaps": _all_swaps}
