"""Reads plans and steps back from a deployment; errors name the faulty step."""

from __future__ import annotations

import os
from pathlib import Path

from sepnas.deployment.manifest import PLAN_NAME, ShardManifest
from sepnas.errors import PlanError
from sepnas.plan.checks import step_problem
from sepnas.plan.document import load_plan
from sepnas.plan.plan import Message, Plan
from sepnas.plan.serial import message_from_data, shape_from_data, step_from_data
from sepnas.plan.steps import Step


def deployed_plan(folder: str | os.PathLike[str]) -> Plan:
    """The plan of a deployment; raises :class:`SpecError` or :class:`PlanError`."""
    return load_plan(Path(folder) / PLAN_NAME)


def messages_of(plan: Plan, rank: int) -> tuple[Message, ...]:
    """The messages that ``rank`` sends or receives."""
    return tuple(message for message in plan.messages() if rank in (message.source, message.destination))


def program_of(shard: ShardManifest, where: str = "shard") -> tuple[Step, ...]:
    """The steps of a shard; raises :class:`PlanError` that names a step which cannot be executed."""
    program = tuple(step_from_data(data) for data in shard.program)
    messages = {message.tag: message_from_data(message) for message in shard.messages}
    shapes = {name: shape_from_data(data) for name, data in shard.shapes.items()}
    segments = {name: (segment.inputs, segment.outputs) for name, segment in shard.segments.items()}
    known: set[str] = set()
    for index, step in enumerate(program):
        problem = step_problem(step, shard.rank, known, shapes, messages, segments)
        if problem:
            raise PlanError(f"{where}: `program.{index}`: {problem}")
        known.update(step.writes)
    return program
