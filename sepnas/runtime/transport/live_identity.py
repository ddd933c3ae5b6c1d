"""Certificates that may be renewed while a worker or session runs; new connections show and trust the new ones."""

from __future__ import annotations

import logging
import ssl
import threading
import time
from collections.abc import Mapping
from pathlib import Path

from sepnas.deployment.manifest import FileEntry, Manifest
from sepnas.deployment.renewal import RENEWAL_NAME
from sepnas.deployment.verify import check_credential
from sepnas.plan.steps import CLIENT
from sepnas.runtime.transport.identity import Identity

_PAUSE_S = 1.0
"""Pause before a renewal that could not be loaded (it may still be being copied) is tried again."""
_log = logging.getLogger(__name__)


class LiveIdentity(Identity):
    """The identity in ``folder / name``; open connections keep the certificate that they started with.

    Args:
        name, files: as for :func:`check_credential`.

    Raises what :class:`Identity` does, and :class:`DeploymentError` for a file that was changed. A later renewal that
    is damaged or incomplete is logged, and the certificate that was loaded last stays in use.
    """

    def __init__(self, folder: Path, name: str, files: Mapping[str, FileEntry], rank: int, deployment_id: str) -> None:
        self._place = (folder, name, files)
        self._lock = threading.Lock()
        self._seen = self._stamp()
        self._told: tuple[int, int] | None = None
        self._next_look_s = 0.0
        super().__init__(check_credential(folder, name, files), rank, deployment_id)

    @property
    def server(self) -> ssl.SSLContext:
        self._look()
        return super().server

    @property
    def client(self) -> ssl.SSLContext:
        self._look()
        return super().client

    def _stamp(self) -> tuple[int, int] | None:
        """Changes when the renewal's file is replaced; None while there is none."""
        folder, name, _ = self._place
        try:
            found = (folder / name / RENEWAL_NAME).stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_ino

    def _look(self) -> None:
        with self._lock:
            stamp = self._stamp()
            if stamp == self._seen or time.monotonic() < self._next_look_s:
                return
            try:
                where = check_credential(*self._place)
                self._contexts = Identity(where, self.rank, self.deployment_id)._contexts
            except Exception as error:  # of any kind: the certificate that was loaded last stays in use
                self._next_look_s = time.monotonic() + _PAUSE_S
                if stamp != self._told:
                    self._told = stamp
                    _log.warning("renewed certificates are not taken, the old ones go on being used: %s", error)
                return
            self._seen = stamp
            _log.info("renewed certificates of %s are in use", where)


def client_identity(deployment: Path, manifest: Manifest) -> LiveIdentity:
    """The client's identity, from a deployment's folder."""
    return LiveIdentity(deployment, "client/tls", manifest.files, CLIENT, manifest.deployment_id)
