"""The pace of a device's steps: as fast as it can, or held up by an emulation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from sepnas.runtime.transport.delivery import Ways


class Pace(Protocol):
    """What the executor tells at each step, and what may hold it up."""

    def begin(self, batch: int) -> None:
        """A request of ``batch`` samples begins."""

    def start(self, step: int) -> None:
        """The step begins."""

    def arrived(self, moment_ns: int) -> None:
        """What the step waited for came at this moment (``time.monotonic_ns``)."""

    def finish(self) -> None:
        """The step's work is done, and not yet passed on; returns when it may be."""


class FreePace:
    """Nothing is emulated."""

    def begin(self, batch: int) -> None:
        pass

    def start(self, step: int) -> None:
        pass

    def arrived(self, moment_ns: int) -> None:
        pass

    def finish(self) -> None:
        pass


class EmulatedDevice(Protocol):
    """What makes a worker behave like another device; handed in by an emulation."""

    @property
    def pace(self) -> Pace:
        """The pace of its steps."""

    @property
    def ways(self) -> Ways:
        """Its links."""

    def lateness(self) -> Mapping[str, Any]:
        """How many steps and messages were timed and late, as plain data."""
