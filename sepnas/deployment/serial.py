"""Reads plans and steps back from a deployment; errors name the faulty step."""

from __future__ import annotations

import os

from sepnas.deployment.manifest import ShardManifest
from sepnas.deployment.plans import plan_file
from sepnas.deployment.verify import load_manifest, verify_file
from sepnas.errors import PlanError
from sepnas.plan.checks import step_problem
from sepnas.plan.document import load_plan
from sepnas.plan.plan import Message, Plan
from sepnas.plan.serial import message_from_data, shape_from_data, step_from_data
from sepnas.plan.steps import Step


def deployed_plan(folder: str | os.PathLike[str], name: str | None = None) -> Plan:
    """A plan of a deployment, by default its default one.

    Raises :class:`SpecError`, also for an unknown name, :class:`DeploymentError` if its file was changed, or
    :class:`PlanError`.
    """
    manifest = load_manifest(folder)
    manifest.plan(name)
    return load_plan(verify_file(folder, manifest, plan_file(manifest.default_plan if name is None else name)))


def messages_of(plan: Plan, rank: int) -> tuple[Message, ...]:
    """The messages that ``rank`` sends or receives."""
    return tuple(message for message in plan.messages() if rank in (message.source, message.destination))


def program_of(shard: ShardManifest, plan: str, where: str = "shard") -> tuple[Step, ...]:
    """The steps of a shard in a plan; raises :class:`PlanError` that names a step which cannot be executed."""
    part = shard.plans[plan]
    program = tuple(step_from_data(data) for data in part.program)
    messages = {message.tag: message_from_data(message) for message in part.messages}
    shapes = {name: shape_from_data(data) for name, data in part.shapes.items()}
    segments = {
        name: (shard.segments[entry].inputs, shard.segments[entry].outputs)
        for name in (*shard.segments, *part.aliases)
        if (entry := part.segment(name)) in shard.segments
    }
    known: set[str] = set()
    for index, step in enumerate(program):
        problem = step_problem(step, shard.rank, known, shapes, messages, segments)
        if problem:
            raise PlanError(f"{where}: `plans.{plan}.program.{index}`: {problem}")
        known.update(step.writes)
    return program
