"""Every error that sepnas raises on purpose.

    SepnasError
    ├── SpecError              a description (file or value) that a person wrote is wrong
    │   ├── VersionError       ... it was written by a newer sepnas
    │   └── UnreadableError    ... it exists, but may not be read or is not a regular file
    ├── PlanError              a plan cannot be executed (on this cluster)
    ├── DataError              a data set or an image cannot be used
    ├── TrainingError          training cannot start or continue
    │   └── CheckpointError    a checkpoint is damaged or belongs to another run
    ├── SearchError            a search cannot start or continue
    ├── StorageError           a file cannot be written (disk full, no permission)
    ├── ImportFailedError      a network cannot be imported
    ├── DeploymentError        a deployment is damaged, incomplete or foreign
    ├── BusyError              a service is at its limit of concurrent requests
    └── ExchangeError          communication between devices failed
        ├── ProtocolError      bytes or calls violate the protocol
        │   ├── LocalProtocolError    ... on this side: a bug or misuse
        │   └── RemoteProtocolError   ... on the peer's side
        ├── HandshakeError     the peer has another version, deployment or certificate authority
        ├── ListenError        the address cannot be listened on
        ├── PeerUnreachableError   no answer at the address
        ├── PeerLostError      the connection to the peer was lost
        ├── DeadlineError      an answer or a message missed its deadline
        └── RemoteError        a device reports a failure during computation

Each message names the fault, its place and the allowed values.
"""

from __future__ import annotations

import signal
from typing import TypeVar

_Error = TypeVar("_Error", bound="SepnasError")


class SepnasError(Exception):
    """The base class: ``except SepnasError`` catches every error that sepnas raises on purpose."""


class SpecError(SepnasError):
    """A description is wrong; the message names the file, the field, the value and the allowed values."""


class VersionError(SpecError):
    """This sepnas cannot read the file's version."""


class UnreadableError(SpecError):
    """A file exists but cannot be read: no permission, or not a regular file. Its content may be correct."""


class PlanError(SepnasError):
    """A plan cannot be executed, or does not fit the cluster."""


class DataError(SepnasError):
    """A data set or an image cannot be used."""


class TrainingError(SepnasError):
    """Training cannot start or continue."""


class CheckpointError(TrainingError):
    """A checkpoint is damaged or belongs to another architecture or run."""


class SearchError(SepnasError):
    """A search cannot start or continue."""


class StorageError(SepnasError):
    """A file cannot be written; no partial file is left behind."""


class ImportFailedError(SepnasError):
    """A network cannot be imported: it is unknown, cannot be traced, or would have to be unpickled."""


class DeploymentError(SepnasError):
    """A deployment is damaged, incomplete or foreign."""


class BusyError(SepnasError):
    """A service is at its limit of concurrent requests; a later attempt may succeed."""


class ExchangeError(SepnasError):
    """Communication between devices failed."""


class ProtocolError(ExchangeError):
    """Bytes or calls violate the protocol."""


class LocalProtocolError(ProtocolError):
    """This side violated the protocol: a bug or misuse."""


class RemoteProtocolError(ProtocolError):
    """The peer violated the protocol."""


class HandshakeError(ExchangeError):
    """The peer has another version, deployment or certificate authority."""


class ListenError(ExchangeError):
    """The address cannot be listened on."""


class PeerUnreachableError(ExchangeError):
    """There is no answer at the peer's address."""


class PeerLostError(ExchangeError):
    """The connection to a peer was lost during a session."""


class DeadlineError(ExchangeError):
    """A message or an answer missed its deadline."""


class RemoteError(ExchangeError):
    """A device reports a failure during computation."""


def how_it_ended(returncode: int) -> str:
    """Describe how a process ended, from the ``returncode`` of :mod:`subprocess`: an exit code or a signal."""
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
    """A new error with the same message, caused by ``error``. Raising one stored object repeatedly would grow its
    traceback each time and keep the frames' objects alive."""
    fresh = type(error)(*error.args)
    fresh.__cause__ = error
    return fresh
