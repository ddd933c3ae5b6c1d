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

PATIENCE_S = 1800.0
MODULE = "sepnas.search.trials.trial"


@dataclass(frozen=True)
class Trials:
    """Judge candidates in NNI's trials, ``workers`` side by side.

    NNI's page and interface have no password: ``web_host`` other than 127.0.0.1 opens them to whoever reaches it. A
    trial that does not report for ``patience_s`` is ended and submitted again.
    """

    workers: int = 1
    web_host: str = "127.0.0.1"
    web_port: int = 0
    patience_s: float = PATIENCE_S

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise SearchError(f"`workers` must be at least 1, got {self.workers}")

    def service(self, kit: Path) -> dict[str, Any]:
        """The training service's part of NNI's configuration."""
        command = f"exec {shlex.quote(sys.executable)} -m {MODULE}"
        return {"platform": "local", "trialCommand": command, "trialCodeDirectory": str(kit)}


@contextmanager
def trials_engine(
    trials: Trials, folder: Path, write_kit: Callable[[Path], None], say: Callable[[str], None]
) -> Iterator[Any]:
    """An engine whose trials work in ``folder``; it and all its processes are gone afterwards.

    ``write_kit`` fills a trial's folder. What a search that was killed left in ``folder`` is removed first.
    """
    from sepnas.search.trials.engine import TrialsEngine
    from sepnas.search.trials.manager import NniManager

    folder = folder.resolve()
    shutil.rmtree(folder, ignore_errors=True)
    kit = folder / "kit"
    try:
        kit.mkdir(parents=True)
    except OSError as error:
        raise StorageError(f"{folder}: cannot be written: {error.strerror or error}") from error

    def start() -> NniManager:
        place = Path(tempfile.mkdtemp(prefix="nni-", dir=folder))
        manager = NniManager(place, trials.service(kit), trials.workers, trials.web_host, trials.web_port)
        say(f"NNI's page: http://{trials.web_host}:{manager.port}")
        return manager

    engine = TrialsEngine(start, trials.workers, trials.patience_s)
    try:
        write_kit(kit)
        yield engine
    finally:
        engine.shutdown()
        shutil.rmtree(folder, ignore_errors=True)
