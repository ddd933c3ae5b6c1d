"""The pace of a device's steps: as fast as it can, or slowed down by an emulation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from sepnas.runtime.transport.delivery import LinkTimings


class Pace(Protocol):
    """Told by the executor about each step, which it may delay."""

    def begin(self, batch: int) -> None:
        """A request of ``batch`` samples begins."""

    def start(self, step: int) -> None:
        """The step begins."""

    def arrived(self, moment_ns: int) -> None:
        """The message that the step waited for came at ``moment_ns`` (``time.monotonic_ns``)."""

    def finish(self) -> None:
        """The step's work is done; returns when its result may be passed on."""


class FreePace:
    """No emulation: no step is delayed."""

    def begin(self, batch: int) -> None:
        pass

    def start(self, step: int) -> None:
        pass

    def arrived(self, moment_ns: int) -> None:
        pass

    def finish(self) -> None:
        pass


class EmulatedDevice(Protocol):
    """Makes a worker behave like another device; provided by an emulation."""

    @property
    def plan(self) -> str:
        """The plan whose steps are timed; the device serves no other."""

    @property
    def pace(self) -> Pace:
        """The pace of the device's steps."""

    @property
    def links(self) -> LinkTimings:
        """The device's links."""

    def lateness(self) -> Mapping[str, Any]:
        """Numbers of steps and messages that were timed, and that were late, as plain data."""
