"""A condition whose waiter reads connections while it waits: no other thread has to wake up to hand messages over."""

from __future__ import annotations

import contextlib
import os
import select
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Protocol

from typing_extensions import Self

Pull = Callable[[], bool]
"""Reads what has come on a connection, without waiting; returns False at the connection's end."""


class Changed(Protocol):
    """The part of ``threading.Condition`` that a mailbox uses."""

    def __enter__(self) -> object: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> object: ...

    def wait(self, timeout: float | None = None) -> object: ...

    def notify_all(self) -> None: ...


class PullingCondition:
    """One thread may wait, others may wake it, as with ``threading.Condition``.

    An added connection also has a reader thread, for the time in which no thread waits here. Both watch the socket with
    ``EPOLLEXCLUSIVE``: Linux wakes the first watcher that sleeps, in the order in which they registered.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._asleep = False
        self._pulls: dict[int, Pull] = {}
        self._epoll = select.epoll()
        self._alarm = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll.register(self._alarm, select.EPOLLIN)

    def __enter__(self) -> Self:
        self._lock.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.release()

    def add(self, descriptor: int, pull: Pull) -> None:
        """Watch a connection; to be called before its reader thread watches it."""
        with self._lock:
            self._pulls[descriptor] = pull
            self._epoll.register(descriptor, select.EPOLLIN | select.EPOLLEXCLUSIVE)

    def wait(self, timeout: float | None = None) -> None:
        """Sleep until :meth:`notify_all` or until something was read; may return spuriously.

        The caller holds the lock, which is released meanwhile.
        """
        self._asleep = True
        self._lock.release()
        try:
            ready = self._epoll.poll(timeout)
            self._asleep = False
            for descriptor, _ in ready:
                if descriptor == self._alarm:
                    os.eventfd_read(self._alarm)
                elif (pull := self._pulls.get(descriptor)) and not pull():
                    self._forget(descriptor, pull)
        finally:
            self._asleep = False
            self._lock.acquire()

    def _forget(self, descriptor: int, pull: Pull) -> None:
        with self._lock:
            if self._pulls.get(descriptor) is pull:  # and not that of a newer connection with the same number
                del self._pulls[descriptor]
                with contextlib.suppress(OSError, ValueError):  # its reader may have closed it
                    self._epoll.unregister(descriptor)

    def notify_all(self) -> None:
        """Wake the waiting thread; the caller holds the lock."""
        if self._asleep:
            os.eventfd_write(self._alarm, 1)

    def close(self) -> None:
        """Free the descriptors; no thread waits any more."""
        with self._lock:
            if self._epoll.closed:
                return
            self._pulls.clear()
            self._epoll.close()
            os.close(self._alarm)


def new_condition() -> PullingCondition | threading.Condition:
    """A :class:`PullingCondition` where the system supports it (Linux, Python 3.10), else a plain condition."""
    can = hasattr(select, "EPOLLEXCLUSIVE") and hasattr(os, "eventfd")
    return PullingCondition() if can else threading.Condition()


def close_condition(condition: PullingCondition | threading.Condition) -> None:
    """Free what a condition holds, once no thread waits for it any more."""
    if isinstance(condition, PullingCondition):
        condition.close()
