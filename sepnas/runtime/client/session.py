"""The client: a session with the devices of a deployment."""

from __future__ import annotations

import contextlib
import os
import queue
import time
import weakref
from collections.abc import Generator, Iterable, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import NoReturn, TypedDict

from typing_extensions import Self

from sepnas.deployment.manifest import OnMissing
from sepnas.deployment.verify import verify_client
from sepnas.errors import DataError, LocalProtocolError, SpecError
from sepnas.runtime.client.answer import Answer, Outputs
from sepnas.runtime.client.connections import DeviceConnections
from sepnas.runtime.client.diagnostics import Diagnostics
from sepnas.runtime.client.dialing import SessionTarget
from sepnas.runtime.client.inboxes import Arrival, Inbox
from sepnas.runtime.client.inputs import Inputs, prepare_inputs
from sepnas.runtime.client.keeper import Keeper
from sepnas.runtime.client.limits import (
    DEFAULT_TIMEOUT_S,
    MAX_TRACES,
    checked_in_flight,
    checked_on_missing,
    checked_timeout_s,
)
from sepnas.runtime.client.messages import ClientMessages, expected_of
from sepnas.runtime.client.opening import allow_insecure, open_keeper
from sepnas.runtime.client.reply import Reply
from sepnas.runtime.client.requests import Requests
from sepnas.runtime.client.streaming import Begin, stream_answers
from sepnas.runtime.client.trace import Trace
from sepnas.runtime.transport.counters import Counters
from sepnas.runtime.transport.delivery import LinkTimings
from sepnas.runtime.transport.handshake import warn_of_loopback
from sepnas.runtime.transport.live_identity import client_identity
from sepnas.spec.document import short
from sepnas.spec.hosts import Hosts


class SessionOptions(TypedDict, total=False):
    """The options of a session that :class:`Session` explains."""

    timeout_s: float
    insecure: bool
    on_missing: OnMissing | None
    plans: Sequence[str] | None
    reconnect: bool


class Session:
    """A client's session with the devices of a deployment; use it as a context manager.

    Args:
        deployment: the deployment's folder (its manifest and ``client/`` are enough).
        devices: the devices' addresses: a :class:`Hosts`, a path to a hosts file, or None for the deployment's own
            ``hosts.yaml``.
        timeout_s: time for opening the session, and then for each request; at most a day.
        insecure: plain TCP; on loopback addresses only.
        links: the client's links in an emulated cluster.
        on_missing: what a late message or a lost device means for a request: ``strict`` an error, ``degrade`` an answer
            without it; by default the choice made at export.
        plans: the plans that requests may name, by default all of the deployment. A request that names none has the
            deployment's default plan, or the first of these. Devices that no plan needs are not connected.
        reconnect: whether a strict session that lost a device connects to all of them again, in the background and as
            often as necessary; a session that degrades always dials lost devices again.

    Raises:
        SpecError: an invalid deadline, a missing address, or an unknown plan.
        DeploymentError: a file of the deployment was changed.
        PeerUnreachableError: nobody answers at a device's address.
        HandshakeError: foreign or expired certificate, another deployment, plan or version, or the device is busy.
        DeadlineError: a device did not answer in time.

    After :class:`DeadlineError` and :class:`RemoteError` the session can be used further. :class:`PeerLostError` ends a
    strict session, and every later call raises it: open a new session, or use ``reconnect``, which raises it until the
    devices are back. A session that degrades goes on, and begins without devices that are down.

    Threads may share a session; each device works on one request at a time, in the order of sending. A forked process
    may not use it (:class:`LocalProtocolError`), and it cannot be pickled. A session that is garbage-collected closes.
    """

    def __init__(
        self,
        deployment: str | os.PathLike[str],
        devices: str | os.PathLike[str] | Hosts | None = None,
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        insecure: bool = False,
        links: LinkTimings | None = None,
        on_missing: OnMissing | None = None,
        plans: Sequence[str] | None = None,
        reconnect: bool = False,
    ) -> None:
        self.timeout_s = checked_timeout_s(timeout_s)
        folder = Path(deployment)
        self.manifest = verify_client(folder, uses_hosts=devices is None)
        self.on_missing = checked_on_missing(on_missing or self.manifest.on_missing)
        """``strict`` or ``degrade``."""
        hosts = devices if isinstance(devices, Hosts) else Hosts.load(devices or folder / "hosts.yaml")
        served = self.manifest.chosen(plans)
        self.plans = tuple(served)
        """The plans that requests may name, the one of requests that name none first."""
        self._messages = {name: ClientMessages.of(plan, self.manifest.network) for name, plan in served.items()}
        expected = expected_of(self._messages.values(), self.on_missing)
        warn_of_loopback({each.rank: each.address for each in hosts.devices if each.rank in expected})
        if insecure:
            allow_insecure(hosts, expected)
        identity = None if insecure else client_identity(folder, self.manifest)
        digests, deployment_id = {name: plan.digest for name, plan in served.items()}, self.manifest.deployment_id
        target = SessionTarget(deployment_id, expected, hosts, identity, self.on_missing, links, reconnect, digests)
        self._links, origin_ns = links, time.monotonic_ns()
        self._keeper = open_keeper(target, timeout_s)
        self._requests = Requests(self._keeper, self._messages, self.manifest.network.scores, self.on_missing)
        self._diagnostics = Diagnostics(self._keeper, self._requests, links, origin_ns)
        self._drop = weakref.finalize(self, _drop, self._keeper, links)
        self._drop.atexit = False  # at exit the system closes the connections, and no thread can be started

    def __reduce__(self) -> NoReturn:
        raise LocalProtocolError("a session cannot be copied or sent to another process; open one there")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Leave all devices, within about a second. In a forked process only the descriptors are closed."""
        self._drop.detach()
        self._keeper.close()
        if self._links is not None and not self._keeper.is_elsewhere():
            self._links.close()

    # -- requests

    def infer(self, inputs: Inputs, timeout_s: float | None = None, *, plan: str | None = None) -> Outputs:
        """The output ``(B, *shape)``, float32, of a batch ``(B, *shape)``: for a classifier of images, the logits
        ``(B, classes)`` of ``(B, channels, height, width)``.

        A network with several inputs is given a mapping from name to batch, and one with several outputs answers with
        such a mapping; ``manifest.network`` lists both with their shapes. Images (uint8) are sent as bytes and
        normalised by the devices; float32 values are taken as they are (images already normalised). ``plan`` is the
        plan's name (see :attr:`plans`); devices switch from one request to the next without loading anything.

        :meth:`ask` answers with more: the outputs by name whatever their number, the logits, and what is missing in a
        session that degrades.

        Raises:
            DataError: names, shapes or types that are not those of the inputs.
            SpecError: an invalid deadline, or a ``plan`` that is none of :attr:`plans`.
            DeadlineError: no answer after ``timeout_s`` (by default the session's), which includes the time that the
                request waits behind others.
            PeerLostError: a device was lost.
            RemoteError: a device failed while it computed, or answered with NaN or infinity.
        """
        return self.ask(inputs, timeout_s, plan=plan).result

    def ask(self, inputs: Inputs, timeout_s: float | None = None, *, plan: str | None = None) -> Answer:
        """The outputs by name together with what is missing in them; raises as :meth:`infer` does."""
        inbox: queue.SimpleQueue[Arrival] = queue.SimpleQueue()
        return self._requests.wait(self.begin(inputs, inbox, timeout_s, plan=plan), inbox)

    def classify(self, inputs: Inputs, timeout_s: float | None = None, *, plan: str | None = None) -> list[str]:
        """The class name of each sample of a batch; raises as :meth:`infer` does, and :class:`DataError` if the network
        names no classes."""
        classes = self.manifest.classes
        best = self.ask(inputs, timeout_s, plan=plan).logits.argmax(axis=1)
        return [classes[index] for index in best]

    def stream(
        self, batches: Iterable[Inputs], in_flight: int = 2, timeout_s: float | None = None, *, plan: str | None = None
    ) -> Generator[Outputs]:
        """The result of :meth:`infer` for each batch, in order, with up to ``in_flight`` (at most 32) on their way.

        Devices compute one request while messages of others travel: throughput rises, and so does the latency of each
        request. The next batch is taken when an answer has been handed on. Raises as :meth:`infer` does; requests that
        are on their way then, or when the generator is closed, are cancelled.
        """
        return self._results_of(self.answers(batches, in_flight, timeout_s, plan=plan))

    def answers(
        self, batches: Iterable[Inputs], in_flight: int = 2, timeout_s: float | None = None, *, plan: str | None = None
    ) -> Generator[Answer]:
        """As :meth:`stream`, together with what is missing in each answer."""
        begin = partial(self.begin, timeout_s=timeout_s, plan=self._plan(plan))
        return self._answers(begin, batches, checked_in_flight(in_flight))

    def _answers(self, begin: Begin, batches: Iterable[Inputs], in_flight: int) -> Generator[Answer]:
        yield from stream_answers(self._requests, begin, batches, in_flight)

    def _results_of(self, answers: Generator[Answer]) -> Generator[Outputs]:
        with contextlib.closing(answers):
            for answer in answers:
                yield answer.result

    def begin(self, inputs: Inputs, inbox: Inbox, timeout_s: float | None = None, *, plan: str | None = None) -> Reply:
        """Send a request whose events come to ``inbox``; end each reply by :meth:`finish` or :meth:`abandon`.

        Waits only while too many requests are open. Raises as :meth:`infer` does.
        """
        name = self._plan(plan)
        self._connections.check()  # before any lock is taken: in a forked process it may be held forever
        arrays = prepare_inputs(inputs, self.manifest.inputs_of(name))
        limit_s = self.timeout_s if timeout_s is None else checked_timeout_s(timeout_s)
        return self._requests.begin(arrays, inbox, limit_s, name)

    def _plan(self, name: str | None) -> str:
        if name is None:
            return self.plans[0]
        if name not in self._messages:
            raise SpecError(f"this session has no plan {short(name)}; its plans are {', '.join(self.plans)}")
        return name

    def fall_back(self, reply: Reply) -> None:
        """The reply's time is over: ask other devices for the outputs that they hold, or end it."""
        self._requests.fall_back(reply)

    def finish(self, reply: Reply) -> Answer:
        """The answer, when nothing more is waited for; raises the error that takes its place."""
        return self._requests.finish(reply)

    def abandon(self, reply: Reply) -> None:
        """Tell the devices, in another thread, that nobody waits for the answer any more."""
        self._requests.abandon_soon([reply])

    # -- the devices

    @property
    def _connections(self) -> DeviceConnections:
        """The connections now; raises :class:`LocalProtocolError` in a forked process."""
        return self._keeper.connections

    def health(self) -> dict[int, str]:
        """Of each device: ``ready``, ``silent``, how its requests fail, or how it was lost.

        Devices are pinged once a second. One is silent if it has not answered a ping for some seconds, or was late and
        has not answered a ping since.
        """
        return self._connections.liveness.states()

    def lost(self) -> dict[int, str]:
        """The devices that are lost, and the reasons."""
        return self._connections.liveness.losses()

    def can_answer(self) -> bool:
        """Whether requests that name no plan have a chance: all devices are ready or, in a session that degrades, for
        each output those that hold its pieces, or one that holds a fallback."""
        useless = self._connections.liveness.useless()
        return not useless if self.on_missing == "strict" else not self._messages[self.plans[0]].blocking(useless)

    def is_failing(self) -> bool:
        """Whether a device failed or delayed the latest requests."""
        return self._connections.liveness.is_failing

    @property
    def is_over(self) -> bool:
        """Whether no request will be answered any more, unless the session connects again."""
        return self._connections.is_over

    def counters(self) -> Counters:
        """The counts of all ends of all connections since the session was opened, or last connected again."""
        return self._diagnostics.counters(self.timeout_s)

    def lateness(self) -> dict[int, dict[str, dict[str, float]]]:
        """Of each rank that emulates: how many of its ``steps`` and ``messages`` were ``timed`` and came ``late``."""
        return self._diagnostics.lateness(self.timeout_s)

    def trace(self, last: int = 1) -> Trace:
        """Every step of every device in the last requests, at most 256, on this machine's clock."""
        if not 0 < last <= MAX_TRACES:
            raise DataError(f"`last` must lie in 1..{MAX_TRACES}, got {last}")
        requests = self._diagnostics.trace(last, self.timeout_s)
        return Trace(deployment_id=self.manifest.deployment_id, requests=requests)


def _drop(keeper: Keeper, links: LinkTimings | None) -> None:
    """Close a session that was garbage-collected; may run in any thread, in the middle of anything."""
    keeper.drop(after=None if links is None else links.close)
