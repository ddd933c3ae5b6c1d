"""The registry of objectives: spaces, options, bounds, columns and sort keys are made from its values."""

from __future__ import annotations

from sepnas.objectives.bounds import Bound, Bounds
from sepnas.objectives.known import (
    ACCURACY,
    ACCURACY_ONE_LOST,
    ENERGY_J,
    LATENCY_S,
    MEMORY_BYTES,
    OBJECTIVES,
    PAYLOAD_BYTES,
    PLAN_OBJECTIVES,
    THROUGHPUT_PER_S,
    TOTAL_BYTES,
    costs_of,
    evaluate_answers,
    find_objective,
    is_evaluated,
    names_losing_devices,
    shown_objectives,
)
from sepnas.objectives.objective import Answers, Direction, Objective, SimulatedCosts, StreamedCosts

__all__ = [
    "ACCURACY",
    "ACCURACY_ONE_LOST",
    "ENERGY_J",
    "LATENCY_S",
    "MEMORY_BYTES",
    "OBJECTIVES",
    "PAYLOAD_BYTES",
    "PLAN_OBJECTIVES",
    "THROUGHPUT_PER_S",
    "TOTAL_BYTES",
    "Answers",
    "Bound",
    "Bounds",
    "Direction",
    "Objective",
    "SimulatedCosts",
    "StreamedCosts",
    "costs_of",
    "evaluate_answers",
    "find_objective",
    "is_evaluated",
    "names_losing_devices",
    "shown_objectives",
]
