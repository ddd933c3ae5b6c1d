"""How trials are to be run, and the engine that runs them so."""

from __future__ import annotations

import shlex
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sepnas.errors import SearchError, StorageError
from sepnas.search.trials.machines import Machine

PATIENCE_S = 1800.0
MODULE = "sepnas.search.trials.trial"


@dataclass(frozen=True)
class Trials:
    """Judge candidates in NNI's trials, ``workers`` side by side: on this machine, or on each of ``machines``.

    NNI's page and interface have no password: ``web_host`` other than 127.0.0.1 opens them to whoever reaches it. A
    trial that does not report for ``patience_s`` is ended and submitted again.
    """

    workers: int = 1
    machines: tuple[Machine, ...] = ()
    web_host: str = "127.0.0.1"
    web_port: int = 0
    patience_s: float = PATIENCE_S

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise SearchError(f"`workers` must be at least 1, got {self.workers}")

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
            "trialCommand": f'exec "$SEPNAS_PYTHON" -m {MODULE}',  # see remote.js
            "trialCodeDirectory": str(kit),
            "nniManagerIp": "127.0.0.1",  # the machine's end of the tunnel
            "reuseMode": False,
            "machineList": [_configuration(machine) for machine in self.machines],
        }

    def facts(self) -> dict[str, Any] | None:
        """What remote.js must know of the machines; None for this one. :class:`SearchError` for an unknown key."""
        found = {machine.address: {"python": machine.python, "keys": machine.keys()} for machine in self.machines}
        return found or None


def _configuration(machine: Machine) -> dict[str, Any]:
    key = {"sshKeyFile": str(Path(machine.ssh_key).expanduser())} if machine.ssh_key else {}
    return {"host": machine.host, "port": machine.port, "user": machine.user, **key}


@contextmanager
def trials_engine(
    trials: Trials, folder: Path, write_kit: Callable[[Path], None], say: Callable[[str], None]
) -> Iterator[Any]:
    """An engine whose trials work in ``folder``; it and all its processes are gone afterwards.

    ``write_kit`` fills a trial's folder. What a search that was killed left in ``folder`` is removed first.
    """
    from sepnas.search.trials.engine import TrialsEngine
    from sepnas.search.trials.manager import NniManager

    facts, folder = trials.facts(), folder.resolve()
    shutil.rmtree(folder, ignore_errors=True)
    kit = folder / "kit"
    try:
        kit.mkdir(parents=True)
    except OSError as error:
        raise StorageError(f"{folder}: cannot be written: {error.strerror or error}") from error

    def start() -> NniManager:
        place = Path(tempfile.mkdtemp(prefix="nni-", dir=folder))
        manager = NniManager(place, trials.service(kit), trials.side_by_side, trials.web_host, trials.web_port, facts)
        say(f"NNI's page: http://{trials.web_host}:{manager.port}")
        return manager

    engine = TrialsEngine(start, trials.side_by_side, trials.patience_s, say)
    try:
        write_kit(kit)
        yield engine
    finally:
        engine.shutdown()
        shutil.rmtree(folder, ignore_errors=True)
