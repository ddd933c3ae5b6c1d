"""TensorBoard curves of a search: the front as it grows, beside the run's other files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from types import TracebackType

from typing_extensions import Self

from sepnas.search.candidate import Evaluated
from sepnas.search.history import FrontHistory
from sepnas.train.curves import Scalars

CURVES_FOLDER = "tensorboard"


class SearchCurves:
    """Writes step n as soon as the first n candidates by index are known, in any order of arrival.

    Each step is therefore a function of the archive. A resumed search adds the ``kept`` candidates again, skips the
    steps that an earlier run wrote, and continues as an uninterrupted search would.
    """

    def __init__(self, run_dir: Path, kept: Sequence[Evaluated], worst: Mapping[str, float]) -> None:
        folder = run_dir / CURVES_FOLDER
        indices = (candidate.index for candidate in kept)
        whole = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], enumerate(indices)))
        # a kill may fall between the archive's last line and its step, so that step is written again
        self._written = max(0, whole - 1) if folder.exists() else 0
        self._scalars = Scalars(folder, self._written + 1)
        self._history = FrontHistory(worst)
        self._waiting: dict[int, tuple[Evaluated, float | None]] = {}
        self._next = 0

    def __enter__(self) -> Self:
        self._scalars.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._scalars.__exit__(kind, error, at)

    def add(self, candidate: Evaluated, candidates_per_s: float | None) -> None:
        """Add a candidate; ``candidates_per_s`` is None if an earlier run evaluated it."""
        self._waiting[candidate.index] = candidate, candidates_per_s
        while self._next in self._waiting:
            self._write(*self._waiting.pop(self._next))
            self._next += 1

    def _write(self, candidate: Evaluated, candidates_per_s: float | None) -> None:
        step = self._history.add(candidate)
        if step.evaluated <= self._written:
            return
        scalars = {
            "front/hypervolume": step.hypervolume,
            "front/size": step.front_size,
            "front/best_accuracy": step.best_accuracy,
            "front/knee_payload_bytes": step.knee_payload_bytes,
        }
        if candidates_per_s is not None:
            scalars["candidates_per_s"] = candidates_per_s
        self._scalars.write(step.evaluated, scalars)
