"""A plan on a cluster as plain numbers: each device's busy times between its messages, and the messages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from sepnas.cost.times import DeviceTimes, times_of
from sepnas.errors import PlanError
from sepnas.plan.device_totals import convolution_of, is_convolving
from sepnas.plan.plan import Plan
from sepnas.plan.shapes import Shape
from sepnas.plan.steps import CLIENT, Compute, Merge, Recv, Send, Slice, Step
from sepnas.plan.wire import ENCODINGS, FRAME_HEADER_BYTES, UNCONVERTED, WireFormat, payload_bytes
from sepnas.spec.cluster import Cluster

Doing = Literal["compute", "convert", "merge"]
"""An activity of the computing thread. ``convert`` includes a message's handling if no other core does it."""
Task: TypeAlias = tuple[Doing, str, float]
"""One activity of the computing thread: its kind, its segment or tensor, and its seconds."""
Leg: TypeAlias = tuple[float, int, bool]
"""Busy for this many seconds, then post (True) or take (False) the message with this tag."""
Posted: TypeAlias = tuple[int, tuple[int, int], int, str]
"""A message: tag, source and destination, payload bytes, and the tensor's name at the sender."""


@dataclass(frozen=True, slots=True)
class DeviceWork:
    """One device's part: its legs, and the seconds it is busy after the last one.

    ``busy_s`` is all of its computing thread's time, ``compute_s`` the part in segments and in the convolutions of
    merges. ``tasks`` breaks down the time of each leg, and of the rest after the last one; ``steps_s`` is the time of
    each step of the program. Both are empty unless they were asked for.
    """

    legs: list[Leg]
    rest_s: float
    compute_s: float
    busy_s: float
    tasks: list[list[Task]]
    steps_s: list[float]


class Work:
    """One request of ``batch`` samples: all devices' parts, and the messages by tag; ``arbitration`` may reorder them.

    Raises :class:`PlanError` if the cluster has fewer devices than the plan.
    """

    def __init__(self, plan: Plan, cluster: Cluster, batch: int = 1, with_tasks: bool = False) -> None:
        if cluster.num_devices < plan.num_devices:
            raise PlanError(
                f"the plan needs {plan.num_devices} devices, but cluster '{cluster.name}' has {cluster.num_devices}"
            )
        self.plan, self.cluster, self.batch, self.with_tasks = plan, cluster, batch, with_tasks
        times = times_of(cluster)[: plan.num_devices]
        self.messages: list[Posted] = []
        self._input_wires = {piece.tag: piece.wire for port in plan.inputs for piece in port.pieces}
        # a receiver converts back from the sender's format; not needed if no device pays for exchanging
        self._sends = _sends_of(plan) if any(each.exchange for each in times) else None
        self.devices = [self._device_work(rank, each) for rank, each in enumerate(times)]
        self.messages.sort()

    def _device_work(self, rank: int, times: DeviceTimes) -> DeviceWork:
        segments, shapes, messages = self.plan.segments[rank], self.plan.shapes[rank], self.messages
        batch, sends, with_tasks = self.batch, self._sends, self.with_tasks
        legs: list[Leg] = []
        tasks: list[list[Task]] = [[]] if with_tasks else []
        steps_s: list[float] = []
        seconds = compute_s = 0.0
        program = self.plan.programs[rank]
        for index, step in enumerate(program):
            convolved_s = 0.0
            if isinstance(step, Compute):
                spent_s = times.segment_s(segments[step.segment], batch)
                compute_s += spent_s
                seconds += spent_s
            elif isinstance(step, Recv):
                legs.append((seconds, step.tag, False))
                seconds = spent_s = 0.0 if sends is None and step.source != CLIENT else self._take(rank, step, times)
                if times.resume_s and not (index and isinstance(program[index - 1], Recv)):
                    # once for all messages that are waited for together, and also for messages that had arrived:
                    # otherwise a faster link could make a request longer
                    spent_s += times.resume_s
                    seconds = spent_s
            elif isinstance(step, Send):
                num_values, tag, to = step.region.num_values, step.tag, step.to
                nbytes = ENCODINGS[step.wire].payload_bytes(num_values, batch, step.scale is not None)
                messages.append((tag, (rank, to), nbytes, step.tensor))
                spent_s = 0.0 if sends is None else self._message_s(times, num_values, step.wire, nbytes, to)
                legs.append((seconds + spent_s, tag, True))
                seconds = 0.0
            elif isinstance(step, Merge):
                spent_s = 0.0 if sends is None else _merge_s(step, shapes, times, batch)
                if is_convolving(step):
                    convolved_s = times.operator_s(convolution_of(step, shapes), batch)
                    compute_s += convolved_s
                    spent_s += convolved_s
                seconds += spent_s
            else:  # a slice is a view and costs nothing
                spent_s = 0.0
            if with_tasks:
                steps_s.append(spent_s)
                _note(step, spent_s, convolved_s, tasks)
        busy_s = compute_s if sends is None else seconds + sum([leg[0] for leg in legs])
        return DeviceWork(legs, seconds, compute_s, busy_s, tasks, steps_s)

    def _take(self, rank: int, step: Recv, times: DeviceTimes) -> float:
        """The computing thread's seconds for taking a message; lists the message if it comes from the client."""
        num_values = self.plan.shapes[rank][step.tensor].num_values
        sent = self._sends.get(step.tag) if self._sends else None
        wire = sent.wire if sent else self._input_wires.get(step.tag, UNCONVERTED)
        nbytes = payload_bytes(num_values, wire, self.batch, sent is not None and sent.scale is not None)
        if step.source == CLIENT:
            self.messages.append((step.tag, (CLIENT, rank), nbytes, step.tensor))
        return self._message_s(times, num_values, wire, nbytes, step.source)

    def _message_s(self, times: DeviceTimes, num_values: int, wire: WireFormat, nbytes: int, peer: int) -> float:
        """Seconds for converting a message's values and, unless its path costs nothing, for handling it."""
        spent_s = times.convert_s(num_values * self.batch, wire)
        if peer != CLIENT or self.cluster.client_link is not None:
            spent_s += times.handle_s(nbytes + FRAME_HEADER_BYTES)
        return spent_s


def _merge_s(step: Merge, shapes: Mapping[str, Shape], times: DeviceTimes, batch: int) -> float:
    return times.merge_s(batch * sum([shapes[name].num_values for name in step.inputs]))


def _sends_of(plan: Plan) -> dict[int, Send]:
    """The sends of all devices, by tag."""
    return {step.tag: step for program in plan.programs for step in program if isinstance(step, Send)}


def _note(step: Step, spent_s: float, convolved_s: float, tasks: list[list[Task]]) -> None:
    """Add a step's time to the leg that it belongs to; a message ends a leg. ``convolved_s`` is a part of a merge's."""
    if isinstance(step, Recv):
        tasks.append([])
    if isinstance(step, Compute):
        tasks[-1].append(("compute", step.segment, spent_s))
    elif isinstance(step, Merge):
        parts: tuple[tuple[Doing, float], ...] = ("compute", convolved_s), ("merge", spent_s - convolved_s)
        tasks[-1] += [(doing, step.output, seconds) for doing, seconds in parts if seconds]
    elif spent_s and not isinstance(step, Slice):
        tasks[-1].append(("convert", step.tensor, spent_s))
    if isinstance(step, Send):
        tasks.append([])
