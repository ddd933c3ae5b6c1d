"""The errors that the reports and the silence of devices mean."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from sepnas.errors import DeadlineError, ExchangeError, HandshakeError, PeerLostError, PeerUnreachableError, RemoteError
from sepnas.runtime.protocol.events import Failed

GATHER_S = 0.03
"""Time to wait after a first report of a failure: others may follow, and one of them may name the cause."""
_ERRORS: dict[str, type[ExchangeError]] = {
    "deadline": DeadlineError,
    "peer-lost": PeerLostError,
    "peer-unreachable": PeerUnreachableError,
    "handshake": HandshakeError,
}


def cause_of(reports: Sequence[Failed]) -> Failed:
    """Of several reports of one failure the one nearest to its cause.

    A failure comes before a missed deadline, and a device that waits for a silent one before a device that waits for
    one that reports itself.
    """
    failing = {report.rank for report in reports}

    def order(report: Failed) -> tuple[bool, bool]:
        return report.code == "deadline", report.waiting_for in failing

    return min(reports, key=order)


def error_of(report: Failed) -> ExchangeError:
    """The error that a device's report means, to be raised."""
    return _ERRORS.get(report.code, RemoteError)(report.message)


def late_error(ranks: Collection[int], doing: str) -> DeadlineError:
    """The error that the silence of these devices means, to be raised."""
    names = ", ".join(f"device {rank}" for rank in sorted(ranks))
    return DeadlineError(f"no answer in time from {names} while {doing}; is it frozen or overloaded?")
