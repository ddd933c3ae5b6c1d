"""The registry of objectives: spaces, options, bounds, columns and sort keys are made from its values."""

from __future__ import annotations

from sepnas.objectives.bounds import Bound, Bounds
from sepnas.objectives.known import (
    ACCURACY,
    ACCURACY_ONE_LOST,
    LATENCY_S,
    OBJECTIVES,
    PAYLOAD_BYTES,
    costs_of,
    evaluate_answers,
    find_objective,
    is_evaluated,
    names_losing_devices,
    shown_objectives,
)
from sepnas.objectives.objective import Answers, Objective, SimulatedCosts

__all__ = [
    "ACCURACY",
    "ACCURACY_ONE_LOST",
    "LATENCY_S",
    "OBJECTIVES",
    "PAYLOAD_BYTES",
    "Answers",
    "Bound",
    "Bounds",
    "Objective",
    "SimulatedCosts",
    "costs_of",
    "evaluate_answers",
    "find_objective",
    "is_evaluated",
    "names_losing_devices",
    "shown_objectives",
]
