"""The requests of a session: sending them, and collecting their answers."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Collection, Mapping
from functools import partial

from sepnas.deployment.manifest import OnMissing
from sepnas.errors import DeadlineError, ExchangeError
from sepnas.runtime.client.answer import Answer
from sepnas.runtime.client.connections import DeviceConnections
from sepnas.runtime.client.inboxes import Arrival, Inbox
from sepnas.runtime.client.keeper import Keeper
from sepnas.runtime.client.messages import ClientMessages
from sepnas.runtime.client.reply import Reply
from sepnas.runtime.client.request_log import RequestLog
from sepnas.runtime.client.request_window import RequestWindow
from sepnas.runtime.protocol.events import Cancel, Data, Failed, Recall, Request
from sepnas.runtime.tensors.codec import Array, Images, is_image


class Requests:
    """Sends requests through the connections of a keeper; thread-safe.

    Args:
        keeper: holds the connections, and opens new ones after their end.
        messages: the messages between the client and the devices, by plan.
        scores: the name of the output that holds class scores, if there is one.
        on_missing: ``degrade``: requests are sent without devices that are absent.

    ``lock`` is held while a request is sent, so that requests come to all devices in one order, and while devices are
    asked a question, so that there is one at a time. It comes before all other locks: only threads that call
    the session take it, and they hold no other lock then.
    """

    def __init__(
        self, keeper: Keeper, messages: Mapping[str, ClientMessages], scores: str | None, on_missing: OnMissing
    ) -> None:
        self._keeper, self._messages, self._scores, self._on_missing = keeper, messages, scores, on_missing
        self.lock = threading.Lock()
        self.log = RequestLog()
        self._window = RequestWindow()
        self._connections = keeper.connections
        self._sent_before = 0

    @property
    def last_request(self) -> int:
        """The number of the request that was sent last."""
        return self._window.last_request

    @property
    def num_sent(self) -> int:
        """Number of requests sent through the connections that :meth:`adopt` was last called with."""
        return self._window.last_request - self._sent_before

    def adopt(self, connections: DeviceConnections) -> None:
        """Count and log anew if these connections are new: their devices know no earlier request. ``lock`` is held."""
        if connections is not self._connections:
            self._connections, self._sent_before = connections, self._window.last_request
            self.log.clear()

    def begin(self, arrays: Mapping[str, Array | Images], inbox: Inbox, limit_s: float, plan: str) -> Reply:
        """Send a request under a plan, with a batch of each input; its events come to ``inbox``.

        End the reply by :meth:`finish` or :meth:`abandon`.

        Raises :class:`DeadlineError` when it cannot be sent within ``limit_s``, and what broke the session.
        """
        deadline = time.monotonic() + limit_s
        if not self.lock.acquire(timeout=limit_s):
            raise DeadlineError(f"other threads kept the session busy for {limit_s:g} s")
        try:
            connections = self._keeper.connections
            self.adopt(connections)
            connections.check()
            reply = self._new_reply(connections, len(next(iter(arrays.values()))), deadline, plan)
            try:
                self._send(connections, reply, arrays, inbox)
            except BaseException:
                self.abandon(reply)
                raise
            return reply
        finally:
            self.lock.release()

    def wait(self, reply: Reply, inbox: queue.SimpleQueue[Arrival]) -> Answer:
        """The answer to a request, which is abandoned if that raises."""
        self._connections_of(reply)  # in a forked process nothing would ever come
        try:
            while not reply.done:
                try:
                    reply.take(inbox.get(timeout=reply.left_s))
                except queue.Empty:
                    self.fall_back(reply)
        except BaseException:
            self.abandon(reply)
            raise
        return self.finish(reply)

    def fall_back(self, reply: Reply) -> None:
        """The reply's time is over: ask other devices for the outputs that they hold, or end it."""
        connections = self._connections_of(reply)
        for rank, tag in reply.fall_back():
            connections.send(rank, Recall(request=reply.request, tag=tag))

    def finish(self, reply: Reply) -> Answer:
        """The answer, when nothing more is waited for; raises the error that takes its place."""
        connections = self._connections_of(reply)
        try:
            answer = reply.answer(connections, self._scores)
        except BaseException:
            self.abandon(reply)
            raise
        finally:
            with contextlib.suppress(ExchangeError):
                for rank in reply.silent:
                    connections.suspect(rank)
        served = set(self._messages[reply.plan].ranks) & set(connections.liveness.present_ranks)
        connections.liveness.note_served(served - reply.of_no_use)
        self._release(reply)
        if not answer.complete:
            self._cancel(reply)  # late devices need not go on with it
        self.log.note_answered(reply.request, reply.batch, reply.sent_ns, reply.plan, reply.arrived_ns)
        return answer

    def abandon_soon(self, replies: Collection[Reply]) -> None:
        """As :meth:`abandon`, in the keeper's thread.

        For finalisers: garbage may be collected in a thread that holds a lock which :meth:`abandon` takes, such as a
        channel's lock of sending, which is not reentrant.
        """
        if replies and not self._keeper.is_elsewhere():
            self._keeper.call_soon(partial(self._abandon_all, tuple(replies)))

    def abandon(self, reply: Reply) -> None:
        """Tell the devices that nobody waits for the answer any more."""
        if not self._keeper.is_elsewhere():
            self._release(reply)
            self._cancel(reply)

    def _abandon_all(self, replies: Collection[Reply]) -> None:
        for reply in replies:
            self.abandon(reply)

    def _new_reply(self, connections: DeviceConnections, batch: int, deadline: float, plan: str) -> Reply:
        request, messages = self._window.reserve(deadline), self._messages[plan]
        reply = partial(Reply, request, batch, messages.outputs, deadline, plan=plan, connections=connections)
        if self._on_missing == "strict":
            return reply()
        without = connections.liveness.absent()
        if messages.blocking(without):  # nobody else can answer: devices that are only silent must be asked
            without = connections.liveness.lost_ranks()
        return reply(without=without & set(messages.ranks), tolerant=True)

    def _send(
        self, connections: DeviceConnections, reply: Reply, arrays: Mapping[str, Array | Images], inbox: Inbox
    ) -> None:
        messages = self._messages[reply.plan]
        for rank in messages.blocking(reply.without):
            connections.check_rank(rank)
        header = Request(
            request=reply.request,
            batch=reply.batch,
            deadline_ms=max(1, int(reply.device_limit_s * 1e3)),
            without=tuple(sorted(reply.without)),
            plan=reply.plan,
            normalised=not any(map(is_image, arrays.values())),
        )
        pieces, tags = messages.encode_pieces(reply.request, arrays), messages.answer_tags
        watched = _WatchedInbox(inbox, tags, lambda: self._window.release(reply.request))
        connections.router.follow(reply.request, watched, messages.answer_bytes(reply.batch))
        for rank, sent in pieces.items():
            if rank not in reply.without:
                connections.send(rank, header, *sent)

    def _cancel(self, reply: Reply) -> None:
        for rank in self._messages[reply.plan].ranks:
            if rank not in reply.without:  # cancellations must not pile up for a frozen device
                with contextlib.suppress(ExchangeError):
                    self._connections_of(reply).send(rank, Cancel(request=reply.request))

    def _release(self, reply: Reply) -> None:
        self._connections_of(reply).router.forget(reply.request)
        self._window.release(reply.request)

    def _connections_of(self, reply: Reply) -> DeviceConnections:
        """The connections that the request was sent through; raises in a forked process."""
        return self._keeper.connections if reply.connections is None else self._keeper.here(reply.connections)


class _WatchedInbox:
    """An inbox that calls ``done`` when the devices have finished its request, even if nobody reads it yet.

    They have when the answer's messages ``tags`` have come, or a device has failed.
    """

    def __init__(self, inbox: Inbox, tags: Collection[int], done: Callable[[], None]) -> None:
        self._inbox, self._awaited, self._done = inbox, set(tags), done

    def put(self, arrival: Arrival) -> None:
        self._inbox.put(arrival)
        event = arrival[1]
        if isinstance(event, Data):
            self._awaited.discard(event.tag)
        if isinstance(event, Failed | ExchangeError) or (isinstance(event, Data) and not self._awaited):
            self._done()
