"""Bounds on objectives, from text (``latency_s<=20ms``) or from Python keywords (``max_latency_s=0.02``)."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from numbers import Real

from sepnas.errors import SearchError, SpecError
from sepnas.objectives.known import ACCURACY, LATENCY_S, OBJECTIVES, PAYLOAD_BYTES
from sepnas.objectives.objective import Objective

_FORM = re.compile(r"\s*(\w*)\s*([<>=!]+)\s*(.*?)\s*", re.DOTALL)
_BY_BOUND_NAME: Mapping[str, Objective] = {known.bound_name: known for known in OBJECTIVES.values()}
_SMALLEST = 1e-9


@dataclass(frozen=True, slots=True)
class Bound:
    """A limit on one objective, in its base unit: an upper limit on a cost, a lower one on a maximised objective."""

    objective: Objective
    limit: float

    @classmethod
    def parse(cls, text: str, objectives: Mapping[str, Objective] = OBJECTIVES) -> Bound:
        """Parse ``latency_s<=20ms`` or ``accuracy>=90%``; raises :class:`SpecError` that names the allowed forms."""
        form = _FORM.fullmatch(text)
        if form is None:
            raise SpecError(
                f"bound {text!r} cannot be read; give OBJECTIVE<=VALUE, such as latency_s<=20ms; {_allowed(objectives)}"
            )
        name, comparison, value = form.groups()
        if name not in objectives:
            raise SpecError(f"bound {text!r}: unknown objective {name!r}; {_allowed(objectives)}")
        objective = objectives[name]
        if comparison != objective.comparison:
            raise SpecError(
                f"bound {text!r}: of {name} {'more' if objective.maximised else 'less'} is better, so give "
                f"{name}{objective.comparison}VALUE; {_allowed(objectives)}"
            )
        try:
            return cls(objective, objective.quantity.parse(value))
        except ValueError as error:
            raise SpecError(f"bound {text!r}: {error}") from None

    def excess(self, value: float) -> float:
        """The violation of the limit by ``value``, relative to the limit; 0 if it holds."""
        if self.objective.maximised:
            return max(0.0, 1 - value / max(self.limit, _SMALLEST))
        return value / max(self.limit, _SMALLEST) - 1 if value > self.limit else 0.0

    def __str__(self) -> str:
        return f"{self.objective.name} {self.objective.comparison} {self.limit:g}"


@dataclass(frozen=True, slots=True)
class Bounds:
    """A conjunction of bounds: a candidate must satisfy all of them. It is false if it has none."""

    bounds: tuple[Bound, ...] = ()

    @classmethod
    def of(cls, **limits: float | None) -> Bounds:
        """Bounds from limits in base units: ``max_latency_s=0.02, min_accuracy=0.9``; None means no bound.

        Raises :class:`SpecError` for an unknown name, or a limit that is not a finite number.
        """
        for name, limit in limits.items():
            if name not in _BY_BOUND_NAME:
                raise SpecError(f"unknown bound {name!r}; allowed: {', '.join(_BY_BOUND_NAME)}")
            if limit is not None and not _is_finite(limit):
                raise SpecError(f"`{name}` must be a finite number, got {limit!r:.60}")
        given = ((_BY_BOUND_NAME[name], limit) for name, limit in limits.items())
        return cls(tuple(Bound(objective, limit) for objective, limit in given if limit is not None))

    def __bool__(self) -> bool:
        return bool(self.bounds)

    def __iter__(self) -> Iterator[Bound]:
        return iter(self.bounds)

    def __str__(self) -> str:
        return " and ".join(map(str, self.bounds))

    def excess(self, measured: Mapping[str, float]) -> float:
        """The sum of a candidate's violations of the bounds; 0 if all hold.

        Raises :class:`SearchError` if the candidate lacks the value of a bounded objective, or it is unknown.
        """
        return sum(bound.excess(_known(bound.objective, measured)) for bound in self.bounds)

    def describe(self, measured: Mapping[str, float]) -> str:
        """A candidate's accuracy, latency and payload, then its values of the other bounded objectives, as text."""
        listed = dict.fromkeys((ACCURACY, LATENCY_S, PAYLOAD_BYTES, *(bound.objective for bound in self.bounds)))
        return ", ".join(f"{objective.name} {objective.value(measured):g}" for objective in listed)


def _is_finite(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def _known(objective: Objective, measured: Mapping[str, float]) -> float:
    value = objective.value(measured)
    if objective.known_value(measured) is None:
        raise SearchError(
            f"{objective.name} of the candidates is not known, because the search's cluster gives no "
            f"{objective.needs_of_devices} figures for its devices"
        )
    return value


def _allowed(objectives: Mapping[str, Objective]) -> str:
    return f"allowed: {', '.join(f'{known.name}{known.comparison}' for known in objectives.values())}"
