"""The trace of a session: every step of every device, on the client's clock. A document that is saved and loaded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, NamedTuple

from pydantic import Field

from sepnas.deployment.plans import DEFAULT_PLAN
from sepnas.plan.steps import StepKind
from sepnas.spec.document import Document, Part

Seconds = float


class StepRecord(Part):
    """One step of one device.

    ``name`` is the segment of a ``compute`` step, otherwise the tensor. ``peer`` (-1: the client) and ``tag`` are those
    of a message. A ``recv`` step ends when its message has arrived *and* the device waits for it; ``arrived_s`` is the
    arrival.
    """

    step: StepKind
    name: str
    start_s: Seconds
    end_s: Seconds
    peer: int | None = None
    tag: int | None = None
    payload_bytes: int = 0
    arrived_s: Seconds | None = None


class DeviceRecord(Part):
    """One device's steps of one request. ``uncertainty_s`` bounds the error of its clock."""

    rank: Annotated[int, Field(ge=0)]
    uncertainty_s: float
    steps: tuple[StepRecord, ...]


class RequestRecord(Part):
    """One request under a plan: sent at ``sent_s``, its answer complete at ``answered_s``, both on the client's clock.

    ``plan`` is the name in the deployment; traces of an older sepnas hold none. ``arrived_s``: when the messages of the
    answer came, by tag, but for the last one.
    """

    request: int
    batch: int
    plan: str | None = None
    sent_s: Seconds
    answered_s: Seconds
    arrived_s: Annotated[dict[int, Seconds], Field(default_factory=dict)]
    devices: tuple[DeviceRecord, ...]

    @property
    def latency_s(self) -> float:
        return self.answered_s - self.sent_s


class Trace(Document):
    """The latest requests of a session; times are seconds since the session was opened."""

    format_name: ClassVar[str] = "sepnas.trace"

    deployment_id: str
    requests: tuple[RequestRecord, ...]


@dataclass(frozen=True, slots=True)
class ClockOffset:
    """A device's clock is ``offset_ns`` ahead of the client's, with an error of at most ``uncertainty_ns``."""

    offset_ns: int
    uncertainty_ns: int


class RequestTiming(NamedTuple):
    """The batch size of a request, when it was sent and when its answer was complete (``time.monotonic_ns``), and its
    plan.

    ``arrived_ns``: when the messages of the answer came, by tag, but for the last one.
    """

    batch: int
    sent_ns: int
    answered_ns: int
    plan: str = DEFAULT_PLAN
    arrived_ns: Mapping[int, int] = MappingProxyType({})


def best_clock(pings: Iterable[tuple[int, int, int]]) -> ClockOffset:
    """The offset from the ping with the shortest round trip; each is (sent, the device's clock, received), in ns."""
    sent, clock, back = min(pings, key=lambda ping: ping[2] - ping[0])
    return ClockOffset(clock - (sent + back) // 2, (back - sent) // 2)


def request_record(
    request: int,
    timing: RequestTiming,
    rows: Mapping[tuple[int, int], list[list[Any]]],
    clocks: Mapping[int, ClockOffset],
    origin_ns: int,
) -> RequestRecord:
    """The record of a request from the client's ``timing`` and the devices' step ``rows`` by (rank, request)."""
    ran = sorted(rank for rank in clocks if (rank, request) in rows)
    return RequestRecord(
        request=request,
        batch=timing.batch,
        plan=timing.plan,
        sent_s=(timing.sent_ns - origin_ns) / 1e9,
        answered_s=(timing.answered_ns - origin_ns) / 1e9,
        arrived_s={tag: (arrived_ns - origin_ns) / 1e9 for tag, arrived_ns in timing.arrived_ns.items()},
        devices=tuple(device_record(rank, rows[rank, request], clocks[rank], origin_ns) for rank in ran),
    )


def device_record(rank: int, rows: Iterable[list[Any]], clock: ClockOffset, origin_ns: int) -> DeviceRecord:
    """A device's step rows on the client's clock, in seconds since ``origin_ns``."""

    def seconds(time_ns: int | None) -> float | None:
        return None if time_ns is None else (time_ns - clock.offset_ns - origin_ns) / 1e9

    keys = ("step", "name", "peer", "tag", "start_s", "end_s", "payload_bytes", "arrived_s")
    steps = []
    for row in rows:
        record: Mapping[str, Any] = dict(zip(keys, row, strict=True))
        moments = {key: seconds(record[key]) for key in ("start_s", "end_s", "arrived_s")}
        steps.append(StepRecord.model_validate({**record, **moments}))
    return DeviceRecord(rank=rank, uncertainty_s=clock.uncertainty_ns / 1e9, steps=tuple(steps))
