"""When each step of a request ran, as a device keeps it and as it is sent to the client."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sepnas.deployment.plans import DEFAULT_PLAN
from sepnas.plan.steps import Step, describe_step


@dataclass(frozen=True, slots=True)
class StepTime:
    """When a step ran (``time.monotonic_ns``); of a received message also when it had arrived."""

    index: int
    start_ns: int
    end_ns: int
    payload_bytes: int = 0
    arrived_ns: int | None = None


@dataclass(frozen=True, slots=True)
class RequestTimes:
    """What a device kept of one request under a plan, on its own clock."""

    request: int
    batch: int
    steps: list[StepTime]
    plan: str = DEFAULT_PLAN


def step_rows(program: tuple[Step, ...], times: RequestTimes) -> dict[str, Any]:
    """A request's times as plain data for the wire: one row for each step."""
    rows = []
    for time in times.steps:
        kind, name, peer, tag = describe_step(program[time.index])
        rows.append([kind, name, peer, tag, time.start_ns, time.end_ns, time.payload_bytes, time.arrived_ns])
    return {"request": times.request, "steps": rows}
