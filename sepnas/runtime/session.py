"""The client: opens a session with the devices of a deployment and asks them."""

from __future__ import annotations

import contextlib
import os
import threading
import time
import warnings
from collections import OrderedDict
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt
from typing_extensions import Self

from sepnas.deploy.verify import verify_client
from sepnas.errors import DataError, ExchangeError, RemoteProtocolError, SpecError
from sepnas.plan.serial import message_from_data
from sepnas.plan.steps import CLIENT
from sepnas.runtime.codec import Array, decode, encode
from sepnas.runtime.counters import Counters, join_links
from sepnas.runtime.events import Cancel, Data, Failed, Request
from sepnas.runtime.fleet import Fleet
from sepnas.runtime.identity import Identity
from sepnas.runtime.images import normalise
from sepnas.runtime.links import check_loopback
from sepnas.runtime.protocol import MAX_BATCH
from sepnas.runtime.shaping import Shaper
from sepnas.runtime.trace import Trace, request_record
from sepnas.spec.emulation import Emulation
from sepnas.spec.hosts import Hosts, parse_address

DEFAULT_DEADLINE_S = 10.0
GRACE_S = 0.25
"""How much longer than the devices the client waits: they know better what is missing."""
MAX_TRACES = 256
MAX_DEADLINE_S = 86_400


class Session:
    """A client's connections to the devices of a deployment; use it as a context manager.

    Args:
        deployment: the deployment's folder (its manifest and ``client/`` are enough).
        devices: where the devices listen: a :class:`Hosts`, a path to a hosts file, or None for the
            deployment's own ``hosts.yaml``.
        deadline_s: how long opening the session may take, and then each request; at most a day.
        insecure: plain TCP; on loopback addresses only.
        emulation: the client's links, when the devices emulate a cluster.

    Raises:
        SpecError: a deadline that is none, or an address that is missing.
        DeploymentError: a file of the deployment was changed.
        PeerUnreachableError: nobody answers at a device's address.
        HandshakeError: foreign or expired certificate, another deployment or version, or the device is busy.
        DeadlineError: a device did not answer in time.

    After :class:`DeadlineError` and :class:`RemoteError` the session can be used further; after
    :class:`PeerLostError` open a new one. One request runs at a time; threads may share a session.
    """

    def __init__(
        self,
        deployment: str | os.PathLike[str],
        devices: str | os.PathLike[str] | Hosts | None = None,
        *,
        deadline_s: float = DEFAULT_DEADLINE_S,
        insecure: bool = False,
        emulation: Emulation | None = None,
    ) -> None:
        self.deadline_s = _checked_deadline_s(deadline_s)
        folder = Path(deployment)
        self.manifest = verify_client(folder, uses_hosts=devices is None)
        hosts = devices if isinstance(devices, Hosts) else Hosts.load(devices or folder / "hosts.yaml")
        messages = [message_from_data(data) for data in self.manifest.messages]
        self._inputs = [message for message in messages if message.source == CLIENT]
        self._output = next(message for message in messages if message.destination == CLIENT)
        ranks = [message.destination for message in self._inputs]
        if insecure:
            _allow_insecure(hosts, ranks)
        identity = None if insecure else Identity(folder / "client/tls", CLIENT, self.manifest.deployment_id)
        expected: dict[int, dict[int, int]] = {rank: {} for rank in ranks}
        expected[self._output.source] = {self._output.tag: self._output.payload_bytes()}
        self._lock = threading.Lock()
        self._last_request = 0
        self._spans: OrderedDict[int, tuple[int, int, int]] = OrderedDict()
        self._origin_ns = time.monotonic_ns()
        self._shaper = None if emulation is None else Shaper(emulation)
        self._fleet = Fleet(
            self.manifest.deployment_id, expected, hosts, identity, time.monotonic() + deadline_s, self._shaper
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Leave all devices; never waits long."""
        self._fleet.close()
        if self._shaper is not None:
            self._shaper.close()

    def infer(self, batch: npt.ArrayLike, deadline_s: float | None = None) -> Array:
        """The logits ``(B, classes)``, float32, of a batch ``(B, channels, size, size)``.

        A float32 batch is taken as it is (normalised already); uint8 images are normalised by the manifest.

        Raises:
            DataError: another shape or type.
            SpecError: a deadline that is none.
            DeadlineError: the answer was not there after ``deadline_s`` (by default the session's).
            PeerLostError: a device went away.
            RemoteError: a device failed while it computed.
        """
        x_BCHW = self._prepare(np.asarray(batch))
        limit_s = self.deadline_s if deadline_s is None else _checked_deadline_s(deadline_s)
        with self._lock:
            self._fleet.check()
            self._last_request += 1
            request, sent_ns = self._last_request, time.monotonic_ns()
            try:
                logits_BK = self._run(request, x_BCHW, limit_s)
            except BaseException:
                self._cancel(request)
                raise
            self._remember(request, len(x_BCHW), sent_ns)
            return logits_BK

    def classify(self, images: npt.ArrayLike, deadline_s: float | None = None) -> list[str]:
        """The class names of a batch, one for each image."""
        best = self.infer(images, deadline_s).argmax(axis=1)
        return [self.manifest.classes[index] for index in best]

    def counters(self) -> Counters:
        """What all ends of all connections counted since the session was opened."""
        with self._lock:
            answers = self._fleet.ask("counters", 0, time.monotonic() + self.deadline_s)
            reports = {rank: data["links"] for rank, data in answers.items()} | {CLIENT: self._fleet.traffic()}
            return Counters(self._last_request, join_links(reports))

    def lateness(self) -> dict[int, dict[str, dict[str, float]]]:
        """Of each rank that emulates: how many of its ``steps`` and ``messages`` were ``timed`` and came ``late``."""
        with self._lock:
            answers = self._fleet.ask("counters", 0, time.monotonic() + self.deadline_s)
        found = {rank: data["emulated"] for rank, data in answers.items() if "emulated" in data}
        return found | ({CLIENT: {"messages": self._shaper.lateness.to_data()}} if self._shaper else {})

    def trace(self, last: int = 1) -> Trace:
        """When each device did what in the last requests, at most 256, on this machine's clock."""
        if not 0 < last <= MAX_TRACES:
            raise DataError(f"`last` must lie in 1..{MAX_TRACES}, got {last}")
        with self._lock:
            deadline = time.monotonic() + self.deadline_s
            spans = list(self._spans.items())[-last:]
            depth = self._last_request - spans[0][0] + 1 if spans else 0  # devices also keep requests that failed here
            answers = self._fleet.ask("trace", depth, deadline)
            clocks = {rank: self._fleet.clock(rank, deadline) for rank in answers}
        rows = {(rank, r["request"]): r["steps"] for rank, data in answers.items() for r in data["requests"]}
        records = (request_record(number, span, rows, clocks, self._origin_ns) for number, span in spans)
        return Trace(deployment_id=self.manifest.deployment_id, requests=tuple(records))

    def _prepare(self, batch: npt.NDArray[np.generic]) -> Array:
        image = self.manifest.input
        wanted = (image.channels, image.size, image.size)
        if batch.ndim != 4 or batch.shape[1:] != wanted or not 1 <= len(batch) <= MAX_BATCH:
            raise DataError(f"a batch must have the shape (1..{MAX_BATCH}, {str(wanted)[1:]}, got {batch.shape}")
        if batch.dtype == np.uint8:
            return normalise(batch.astype(np.uint8, copy=False), image)
        if batch.dtype != np.float32:
            raise DataError(f"a batch must be float32 (normalised) or uint8 (images), got {batch.dtype}")
        return batch.astype(np.float32, copy=False)

    def _run(self, request: int, x_BCHW: Array, limit_s: float) -> Array:
        deadline = time.monotonic() + limit_s
        order = Request(request=request, batch=len(x_BCHW), deadline_ms=max(1, int(limit_s * 1e3)))
        payload = encode(x_BCHW, "fp32")
        for message in self._inputs:
            self._fleet.send(message.destination, order)
            self._fleet.send(message.destination, Data(request, message.tag, payload))
        while True:
            _, event = self._fleet.receive(
                deadline + GRACE_S, f"working on request {request} ({limit_s:g} s)", {self.manifest.reader}
            )
            if isinstance(event, Failed) and event.request in (0, request):
                raise self._fleet.explain(event)
            if isinstance(event, Data) and event.request == request:
                return self._logits(event, len(x_BCHW))

    def _logits(self, answer: Data, batch: int) -> Array:
        if len(answer.payload) != self._output.payload_bytes(batch):
            raise RemoteProtocolError(
                f"the answer has {len(answer.payload)} bytes; {self._output.payload_bytes(batch)} were due"
            )
        return decode(answer.payload, self._output.wire, self._output.shape).reshape(batch, -1)

    def _cancel(self, request: int) -> None:
        for message in self._inputs:
            with contextlib.suppress(ExchangeError):
                self._fleet.send(message.destination, Cancel(request=request))

    def _remember(self, request: int, batch: int, sent_ns: int) -> None:
        self._spans[request] = (batch, sent_ns, time.monotonic_ns())
        while len(self._spans) > MAX_TRACES:
            self._spans.popitem(last=False)


def _checked_deadline_s(deadline_s: float) -> float:
    if not 0 < deadline_s <= MAX_DEADLINE_S:  # so that nan is refused too
        raise SpecError(f"`deadline_s` must be more than 0 and at most {MAX_DEADLINE_S} seconds, got {deadline_s!r}")
    return deadline_s


def _allow_insecure(hosts: Hosts, ranks: list[int]) -> None:
    for rank in ranks:
        check_loopback(parse_address(hosts.address(rank))[0])
    warnings.warn("insecure session: plain TCP, nobody's identity is checked", stacklevel=3)
