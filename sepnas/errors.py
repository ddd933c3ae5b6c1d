"""Every error that sepnas raises on purpose.

    SepnasError
    ├── SpecError              a description (file or value) that a person wrote is wrong
    │   ├── VersionError       ... it was written by a newer sepnas
    │   └── UnreadableError    ... it is there, and may not be read, or is no file
    ├── PlanError              a plan that cannot be carried out (on this cluster)
    ├── DataError              a data set or an image that cannot be used
    ├── TrainingError          training cannot start or go on
    │   └── CheckpointError    a checkpoint that is damaged or belongs to something else
    ├── SearchError            a search cannot start or go on
    ├── StorageError           a file cannot be written (disk full, no permission)
    ├── DeploymentError        a deployment that is damaged, incomplete or foreign
    ├── BusyError              more requests at once than a service takes
    └── ExchangeError          something went wrong while devices talked
        ├── ProtocolError      bytes that break the protocol
        │   ├── LocalProtocolError    ... ours: a bug or a misuse on this side
        │   └── RemoteProtocolError   ... the peer's
        ├── HandshakeError     the peer speaks another version, deployment or certificate
        ├── ListenError        the address cannot be listened on
        ├── PeerUnreachableError   nobody answers at the address
        ├── PeerLostError      the peer went away in the middle
        ├── DeadlineError      an answer or a message did not come in time
        └── RemoteError        a device reports that it failed while it computed

A message says what is wrong, where, and what would have been right.
"""

from __future__ import annotations

import signal
from typing import TypeVar

_Error = TypeVar("_Error", bound="SepnasError")


class SepnasError(Exception):
    """The root: ``except SepnasError`` catches all that sepnas raises on purpose."""


class SpecError(SepnasError):
    """A description is wrong; the message names the file, the field, the value and what is allowed."""


class VersionError(SpecError):
    """A file's version is not one that this sepnas reads."""


class UnreadableError(SpecError):
    """A file cannot be read where it is: no permission, no regular file; its content may be as it should."""


class PlanError(SepnasError):
    """A plan cannot be carried out, or does not fit the cluster."""


class DataError(SepnasError):
    """A data set or an image cannot be used as it is."""


class TrainingError(SepnasError):
    """Training cannot start or cannot go on."""


class CheckpointError(TrainingError):
    """A checkpoint is damaged or belongs to another architecture or run."""


class SearchError(SepnasError):
    """A search cannot start or cannot go on."""


class StorageError(SepnasError):
    """A file cannot be written; nothing half-written is left behind."""


class DeploymentError(SepnasError):
    """A deployment is damaged, incomplete or does not belong here."""


class BusyError(SepnasError):
    """A service has as many requests as it takes at once; a later one may find room."""


class ExchangeError(SepnasError):
    """Something went wrong while devices talked to each other."""


class ProtocolError(ExchangeError):
    """Bytes or calls that break the protocol."""


class LocalProtocolError(ProtocolError):
    """This side tried something that the protocol forbids."""


class RemoteProtocolError(ProtocolError):
    """The peer sent something that the protocol forbids."""


class HandshakeError(ExchangeError):
    """The peer belongs to another version, deployment or authority."""


class ListenError(ExchangeError):
    """The address cannot be listened on."""


class PeerUnreachableError(ExchangeError):
    """Nobody answers at the peer's address."""


class PeerLostError(ExchangeError):
    """A peer went away in the middle of a session."""


class DeadlineError(ExchangeError):
    """A message or an answer did not come by its deadline."""


class RemoteError(ExchangeError):
    """A device reports that it failed while it computed."""


def how_it_ended(returncode: int) -> str:
    """A process' end in words, from the ``returncode`` that :mod:`subprocess` gives: an exit code or a signal."""
    if returncode >= 0:
        return f"it ended with code {returncode}"
    known = {each.value: each.name for each in signal.Signals}
    name = known.get(-returncode, f"signal {-returncode}")
    causes = {
        "SIGKILL": "someone killed it, or the system did for want of memory",
        **dict.fromkeys(
            ("SIGSEGV", "SIGBUS", "SIGILL", "SIGFPE", "SIGABRT"), "a library crashed, or the machine lacks something"
        ),
    }
    return f"{name} ended it" + (f": {causes[name]}" if name in causes else "")


def again(error: _Error) -> _Error:
    """A new error with the same words, caused by the one that is kept: raising one object again and again would
    lengthen its traceback each time, and keep alive what was at work."""
    fresh = type(error)(*error.args)
    fresh.__cause__ = error
    return fresh
