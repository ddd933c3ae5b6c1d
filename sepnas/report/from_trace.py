"""Reads traces of real requests, checks them against a plan, and converts them into time lines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import zip_longest
from pathlib import Path

from sepnas.cost.timeline import Activity, Timeline
from sepnas.deployment.plans import DEFAULT_PLAN
from sepnas.errors import SpecError
from sepnas.plan.plan import Plan
from sepnas.plan.steps import CLIENT, Step, StepKind, describe_step
from sepnas.runtime.client.trace import RequestRecord, StepRecord, Trace

_OTHER = "or write another trace with `sepnas bench --trace`"


def _next(request: RequestRecord) -> str:
    if request.plan in (None, DEFAULT_PLAN):
        return f"give the deployed architecture, {_OTHER}"
    return f"the request followed plan '{request.plan}': give its file, DEPLOYMENT/plans/{request.plan}.json, {_OTHER}"


def load_trace(path: Path) -> Trace:
    """Load a trace with at least one request; raises :class:`SpecError`."""
    trace = Trace.load(path)
    if not trace.requests:
        raise SpecError(f"{path}: field `requests`: holds no request; write another with `sepnas bench --trace`")
    return trace


def request_of(trace: Trace, number: int | None, path: Path) -> RequestRecord:
    """The request with this number, or the last one if None; raises :class:`SpecError` if there is none."""
    if number is None:
        return trace.requests[-1]
    for request in trace.requests:
        if request.request == number:
            return request
    first, last = trace.requests[0].request, trace.requests[-1].request
    raise SpecError(f"{path}: holds no request {number}; it has {len(trace.requests)}, from {first} to {last}")


def check_request(plan: Plan, trace: Trace, place: int, path: Path) -> None:
    """Raise :class:`SpecError` if a request does not follow ``plan`` or is incomplete.

    ``place`` is the request's index in the trace; ``path`` names the file in the message.
    """
    request, where = trace.requests[place], f"{path}: field `requests.{place}"
    traced = [device.rank for device in request.devices]
    busy = [rank for rank, program in enumerate(plan.programs) if program]
    if sorted(traced) != busy:
        raise SpecError(
            f"{where}.devices`: was taken on the devices {traced}, but the plan computes on {busy}; {_next(request)}"
        )
    nbytes = {m.tag: tuple(request.batch * size for size in m.sample_sizes()) for m in plan.messages()}
    for place, device in enumerate(request.devices):
        steps = f"{where}.devices.{place}.steps"
        program = plan.programs[device.rank]
        for index, (record, step) in enumerate(zip_longest(device.steps, program)):
            if record is None:
                raise SpecError(
                    f"{steps}`: ends after {index} of the {len(program)} steps that the plan has for device "
                    f"{device.rank}: the trace was cut short or is of another network; {_next(request)}"
                )
            if step is None or not _same(record, step, nbytes):
                wanted = "nothing more" if step is None else _step_text(step, nbytes)
                raise SpecError(
                    f"{steps}.{index}`: is {_record_text(record)}, but the plan has {wanted}; {_next(request)}"
                )


def _same(record: StepRecord, step: Step, nbytes: Mapping[int, tuple[int, ...]]) -> bool:
    kind, name, peer, tag = describe_step(step)
    if (record.step, record.name) != (kind, name):
        return False
    return tag is None or ((record.peer, record.tag) == (peer, tag) and record.payload_bytes in nbytes[tag])


def _text(kind: StepKind, name: str, peer: int | None, payload_bytes: int) -> str:
    text = f"{kind} '{name}'"
    return text if peer is None else f"{text} of {payload_bytes} bytes (peer {peer})"


def _record_text(record: StepRecord) -> str:
    return _text(record.step, record.name, record.peer, record.payload_bytes)


def _step_text(step: Step, nbytes: Mapping[int, tuple[int, ...]]) -> str:
    kind, name, peer, tag = describe_step(step)
    return _text(kind, name, peer, 0 if tag is None else nbytes[tag][0])


def measured_timeline(request: RequestRecord, wires: Mapping[int, str] | None = None) -> Timeline:
    """A traced request on the client's clock, from its sending; ``wires`` is from :func:`wires_of`."""
    wires = wires or {}
    steps = [
        activity
        for device in request.devices
        for step in device.steps
        for activity in _step_activities(device.rank, step, request.sent_s, wires)
    ]
    return Timeline(
        "measured",
        request.latency_s,
        (*steps, *_transfers(request, wires)),
        request.batch,
        {device.rank: device.uncertainty_s for device in request.devices},
    )


def _step_activities(rank: int, step: StepRecord, origin_s: float, wires: Mapping[int, str]) -> Iterator[Activity]:
    start_s, end_s = step.start_s - origin_s, step.end_s - origin_s
    wire = None if step.tag is None else wires.get(step.tag)
    if step.step == "recv" and step.arrived_s is not None and step.arrived_s > step.start_s:
        arrived_s = min(step.arrived_s - origin_s, end_s)
        yield Activity(rank, "wait", step.name, start_s, arrived_s, step.peer, step.tag, 0, wire)
        start_s = arrived_s
    yield Activity(rank, step.step, step.name, start_s, end_s, step.peer, step.tag, step.payload_bytes, wire)


def _transfers(request: RequestRecord, wires: Mapping[int, str]) -> Iterator[Activity]:
    """Each message from the start of its sending to its arrival; the client recorded its own sending and receipt."""
    sends, recvs = _by_tag(request, "send"), _by_tag(request, "recv")
    for tag in sorted({*sends, *recvs}):
        source, sent = sends.get(tag, (CLIENT, None))
        destination, received = recvs.get(tag, (CLIENT, None))
        step = sent or received
        if step is None or step.peer != (destination if sent else source):
            continue  # only one end was recorded
        posted_s = request.sent_s if sent is None else sent.start_s
        had_s = request.arrived_s.get(tag, request.answered_s) if received is None else received.arrived_s
        start_s = posted_s - request.sent_s
        # clock offsets are inexact
        end_s = start_s if had_s is None else max(start_s, had_s - request.sent_s)
        yield Activity(
            source, "transfer", step.name, start_s, end_s, destination, tag, step.payload_bytes, wires.get(tag)
        )


def _by_tag(request: RequestRecord, kind: str) -> dict[int, tuple[int, StepRecord]]:
    """The rank and the step at one end of each message, by tag; ``kind`` selects the end."""
    return {
        step.tag: (device.rank, step)
        for device in request.devices
        for step in device.steps
        if step.step == kind and step.tag is not None
    }
