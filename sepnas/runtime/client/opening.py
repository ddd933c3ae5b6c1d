"""Opening a session: the check of an insecure one, and an explanation when its devices refuse it."""

from __future__ import annotations

import time
import warnings
import weakref
from collections.abc import Collection

from sepnas.errors import HandshakeError, again
from sepnas.runtime.client.dialing import SessionTarget
from sepnas.runtime.client.keeper import Keeper
from sepnas.runtime.transport.handshake import check_loopback
from sepnas.spec.hosts import Hosts, parse_address

_open_keepers: weakref.WeakKeyDictionary[Keeper, str] = weakref.WeakKeyDictionary()
"""The keepers of this process' sessions, and the deployments they belong to."""


def allow_insecure(hosts: Hosts, ranks: Collection[int]) -> None:
    """Warn of an insecure session; raises :class:`SpecError` for one that would leave this machine.

    To be called by the session's constructor: the warning names the line that called that.
    """
    for rank in ranks:
        check_loopback(parse_address(hosts.address(rank))[0])
    warnings.warn("insecure session: plain TCP, nobody's identity is checked", stacklevel=3)


def open_keeper(target: SessionTarget, limit_s: float) -> Keeper:
    """A keeper with open connections; raises :class:`ExchangeError`."""
    reconnect = target.reconnect and target.on_missing == "strict"  # a session that degrades dials lost devices anyway
    try:
        keeper = Keeper(target, time.monotonic() + limit_s, reconnect)
    except HandshakeError as error:
        raise _explain_refusal(error, target.deployment_id) from error
    _open_keepers[keeper] = target.deployment_id
    return keeper


def _explain_refusal(error: HandshakeError, deployment_id: str) -> HandshakeError:
    """Say so if the devices are busy with a session of this very process: in a notebook a cell is often run twice."""
    keepers = [keeper for each in _open_keepers.keyrefs() if (keeper := each()) is not None]
    open_here = any(keeper.is_open() and _open_keepers.get(keeper) == deployment_id for keeper in keepers)
    if not (open_here and "(busy)" in str(error)):
        return again(error)
    return HandshakeError(f"{error}; this process itself has a session with the deployment open: close that one first")
