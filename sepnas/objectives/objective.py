"""An objective: one number of a candidate that a search can optimise, bound, sort by and show."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from sepnas.errors import SearchError
from sepnas.objectives.quantity import Quantity

Direction = Literal["minimize", "maximize"]


class SimulatedCosts(Protocol):
    """The simulation of one inference, from which costs are computed; sequences have one entry per device."""

    @property
    def latency_s(self) -> float: ...
    @property
    def makespan_s(self) -> float: ...
    @property
    def payload_bytes(self) -> int: ...
    @property
    def wire_bytes(self) -> int: ...
    @property
    def total_bytes(self) -> int: ...
    @property
    def busy_s(self) -> Sequence[float]: ...
    @property
    def peak_memory_bytes(self) -> Sequence[int]: ...
    @property
    def energy_j(self) -> Sequence[float]: ...


class StreamedCosts(Protocol):
    """The simulation of many requests, several of them in flight."""

    @property
    def throughput_per_s(self) -> float: ...


class Answers(Protocol):
    """A candidate's answers on the validation images."""

    @property
    def losable(self) -> Collection[int]:
        """The ranks of the devices whose loss still leaves an answer."""

    def accuracy(self, lost: Collection[int] = ()) -> float:
        """The fraction of correct answers without the devices ``lost``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """All facts about one objective; options, bounds, sort keys, columns and search spaces are made from them.

    Exactly one of ``simulated``, ``streamed`` and ``evaluated`` computes it, in the unit of ``quantity``. A simulated
    value is a cost; every candidate has it, in ``costs``. A streamed value takes the simulation of many requests; plans
    have it, and candidates of a search do not. An evaluated value is measured on validation images; candidates have it,
    in ``objectives``, only if it is an objective of the search.

    ``label`` names it in a sentence, ``heading`` in a table (with line breaks where it may wrap), ``short`` in the
    options ``--max-SHORT`` or ``--min-SHORT`` and in ``--sort``; without ``short``, use ``--bound`` and the name.
    ``bound_help`` describes the bound. ``shown``: tables include it by default. ``unknown`` is the value that means
    unknown (0 J if the cluster file gives no power). ``of_cluster``: it depends on the cluster, not only on the plan.
    ``between`` says on an axis where a value that depends on the plan alone is counted.
    ``needs_of_devices`` is the field of a cluster's devices from which it is computed: without figures in that field of
    each device it is not known. ``loses_devices``: it is evaluated with lost devices, so it needs several devices and a
    supernet trained with dropout. ``cell`` formats it in a table, if not by its quantity's format. A narrow terminal
    omits the column with the highest ``drop`` first, and never one with 0.
    """

    name: str
    label: str
    heading: str
    quantity: Quantity
    direction: Direction
    bound_help: str
    simulated: Callable[[SimulatedCosts], float] | None = None
    streamed: Callable[[StreamedCosts], float] | None = None
    evaluated: Callable[[Answers], float] | None = None
    short: str | None = None
    shown: bool = False
    unknown: float | None = None
    of_cluster: bool = True
    between: str = "between devices"
    needs_of_devices: str | None = None
    loses_devices: bool = False
    cell: Callable[[float], str] | None = None
    drop: int = 3

    def __post_init__(self) -> None:
        if [self.simulated, self.streamed, self.evaluated].count(None) != 2:
            raise ValueError(
                f"objective {self.name}: must be computed by one of `simulated`, `streamed` and `evaluated`"
            )
        if self.maximised and self.quantity.highest is None and self.streamed is None:
            raise ValueError(f"objective {self.name}: one that is maximised needs a quantity with a highest value")

    @property
    def maximised(self) -> bool:
        return self.direction == "maximize"

    @property
    def comparison(self) -> str:
        """The operator of a bound: ``<=`` for a cost, ``>=`` for a maximised objective."""
        return ">=" if self.maximised else "<="

    @property
    def bound_name(self) -> str:
        """The name of its bound in a search space and in Python: ``max_latency_s``, ``min_accuracy``."""
        return f"{'min' if self.maximised else 'max'}_{self.name}"

    @property
    def title(self) -> str:
        """The heading in one line."""
        return " ".join(self.heading.split())

    @property
    def axis_label(self) -> str:
        """The label of its axis in a picture."""
        return f"{self.label} predicted" if self.of_cluster else f"{self.label} {self.between}"

    def text(self, value: float) -> str:
        """The value in a table."""
        return (self.cell or self.quantity.format)(value)

    def data(self, value: float) -> float | int:
        """The value in JSON: counts are integers."""
        return int(value) if self.quantity.whole else value

    def value(self, measured: Mapping[str, float]) -> float:
        """Its value among a candidate's numbers; raises :class:`SearchError` if it is missing."""
        if self.name in measured:
            return measured[self.name]
        raise SearchError(
            f"candidates have no {self.name}, because this search did not "
            + (
                "evaluate it; name it in the space's `objectives`"
                if self.evaluated
                else "keep it; run the search again"
            )
        )

    def known_value(self, measured: Mapping[str, float]) -> float | None:
        """Its value among a candidate's numbers; None if it is missing or unknown."""
        value = measured.get(self.name)
        return None if value == self.unknown else value

    def sort_key(self, value: float) -> float:
        """A key that rises from the best value to the worst."""
        return -value if self.maximised else value

    def share(self, value: float, worst: float) -> float:
        """The value on a scale from 0 (ideal) to 1: a cost of ``worst`` (1 if that is 0), or a maximised value of 0."""
        highest = self.quantity.highest
        if self.maximised and highest is not None:
            return (highest - value) / highest
        return value / worst if worst else min(value, 1.0)
