"""Settings for trials, and the engine that runs them."""

from __future__ import annotations

import shlex
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sepnas.errors import SearchError, StorageError
from sepnas.search.trials.machines import Machine, check_machines

PATIENCE_S = 1800.0
MAX_PORT = 65535
MAX_WORKERS = 1024
PAGE_FILE = "page.txt"
MODULE = "sepnas.search.trials.trial"


@dataclass(frozen=True)
class Trials:
    """Evaluate candidates in NNI's trials, with ``workers`` in parallel on this machine or on each of ``machines``.

    NNI's page is read-only and protected by its link; with a ``web_host`` other than 127.0.0.1, the link crosses the
    network in clear text. A trial that does not report for ``patience_s`` is ended and resubmitted.
    """

    workers: int = 1
    machines: tuple[Machine, ...] = ()
    web_host: str = "127.0.0.1"
    web_port: int = 0
    patience_s: float = PATIENCE_S

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise SearchError(f"`workers` must be at least 1, got {self.workers}")
        if self.workers > MAX_WORKERS:
            raise SearchError(f"`workers` must be at most {MAX_WORKERS}, got {self.workers}")
        if not 0 <= self.web_port <= MAX_PORT:
            raise SearchError(f"`web_port` must be within 0..{MAX_PORT}, got {self.web_port}")
        if not self.patience_s > 0:
            raise SearchError(f"`patience_s` must be above 0, got {self.patience_s}")

    def check(self) -> list[str]:
        """Raise :class:`SearchError` for settings that cannot work on this machine and network, before any training.

        Returns problems that may be solved before trials begin: machines that do not respond, if others do.
        """
        for host in dict.fromkeys(("127.0.0.1", self.web_host)):
            _check_listening(host, self.web_port)
        return check_machines(self.machines)

    @property
    def side_by_side(self) -> int:
        return self.workers * max(1, len(self.machines))

    def service(self, kit: Path) -> dict[str, Any]:
        """The training service's part of NNI's configuration."""
        if not self.machines:
            command = f"exec {shlex.quote(sys.executable)} -m {MODULE}"
            return {"platform": "local", "trialCommand": command, "trialCodeDirectory": str(kit)}
        return {
            "platform": "remote",
            "trialCommand": f'exec "$SEPNAS_PYTHON" -m {MODULE}',  # set by remote.js
            "trialCodeDirectory": str(kit),
            "nniManagerIp": "127.0.0.1",  # the machine's end of the tunnel
            "reuseMode": False,
            "machineList": [_configuration(machine) for machine in self.machines],
        }

    def facts(self) -> dict[str, Any] | None:
        """Facts about the machines for remote.js, or None; raises :class:`SearchError` for an unknown host key."""
        found = {machine.address: {"python": machine.python, "keys": machine.keys()} for machine in self.machines}
        return found or None


def _check_listening(host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server((host, port), family=family).close()
    except (OSError, UnicodeError) as error:
        where = f"port {port}" if host == "127.0.0.1" else f"`web_host` {host}, port {port}"
        problem = getattr(error, "strerror", None) or error
        raise SearchError(f"{where} cannot be used for NNI's page: {problem}; choose another") from None


def _configuration(machine: Machine) -> dict[str, Any]:
    key = {"sshKeyFile": str(Path(machine.ssh_key).expanduser())} if machine.ssh_key else {}
    return {"host": machine.host, "port": machine.port, "user": machine.user, **key}


def _way_to_page(folder: Path, address: str, path: str) -> str:
    """The secret link to the page: in full on a terminal, otherwise in a file that only its owner can read."""
    if sys.stderr.isatty():
        return address + path
    link = folder / PAGE_FILE
    link.touch(mode=0o600)
    link.write_text(f"{address}{path}\n")
    return f"{address}, by the link in {link}"


@contextmanager
def trials_engine(
    trials: Trials, folder: Path, write_kit: Callable[[Path], None], say: Callable[[str], None]
) -> Iterator[Any]:
    """An engine whose trials work in ``folder``; afterwards the folder is removed and all its processes have ended.

    ``write_kit`` fills a trial's folder. Remains of a killed search in ``folder`` are removed first.
    """
    from sepnas.search.trials.engine import TrialsEngine
    from sepnas.search.trials.manager import NniManager

    facts, folder = trials.facts(), folder.resolve()
    shutil.rmtree(folder, ignore_errors=True)
    kit = folder / "kit"
    try:
        folder.mkdir(parents=True, mode=0o700)  # private: the kit, the logs and NNI's files
        kit.mkdir()
    except OSError as error:
        raise StorageError(f"{folder}: cannot be written: {error.strerror or error}") from error

    def start() -> NniManager:
        place = Path(tempfile.mkdtemp(prefix="nni-", dir=folder))
        manager = NniManager(place, trials.service(kit), trials.side_by_side, trials.web_host, trials.web_port, facts)
        say(f"NNI's page: {_way_to_page(place, f'http://{trials.web_host}:{manager.port}', manager.page)}")
        return manager

    engine = TrialsEngine(start, trials.side_by_side, trials.patience_s, say)
    try:
        write_kit(kit)
        yield engine
    finally:
        engine.shutdown()
        shutil.rmtree(folder, ignore_errors=True)
