"""The recorder: collects an experiment's measures and writes its result file if it succeeds."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from types import TracebackType
from typing import Any

from typing_extensions import Self

from sepnas.errors import SpecError
from sepnas.results.provenance import command_line, git_commit, machine_facts
from sepnas.spec.result import Measure, ResultFile, Table, plain_table


class Recorder:
    """Collects measures between entry and exit, then writes ``path``.

    A failing block writes nothing and keeps an earlier result: a partial run is not a result.

        >>> with Recorder("experiments/demo/result.json", seeds=(0,)) as record:    # doctest: +SKIP
        ...     record.measure("demo_wall_s", 151.0, unit="s", goal="<= 180")

    Args:
        path: the result file.
        command: the command that reproduces it; the running command line by default.
        seeds: the seeds of the experiment.
        root: a folder of the repository whose commit is recorded.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        command: str | None = None,
        seeds: Sequence[int] = (),
        root: str | os.PathLike[str] = ".",
    ) -> None:
        self.path = Path(path)
        self.measures: dict[str, Measure] = {}
        self.tables: dict[str, Table] = {}
        self._command = command or command_line()
        self._seeds = tuple(int(seed) for seed in seeds)
        self._root = root

    def __enter__(self) -> Self:
        # The commit at the start: the tree may be edited while the experiment runs.
        self._commit = git_commit(self._root)
        self._started = datetime.now(timezone.utc).replace(microsecond=0)
        self._clock_s = time.perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.result().save(self.path)

    @property
    def duration_s(self) -> float:
        """Seconds since entry."""
        return round(time.perf_counter() - self._clock_s, 3)

    def measure(
        self,
        name: str,
        value: float,
        unit: str = "",
        low: float | None = None,
        high: float | None = None,
        n: int = 1,
        goal: str | None = None,
    ) -> Measure:
        """Record one number; ``goal`` is text such as ``>= 0.7``, ``<= 180`` or ``== 0``."""
        if name in self.measures:
            raise SpecError(f"measure {name!r} is already noted with value {self.measures[name].value:g}")
        spread = {key: float(bound) for key, bound in (("low", low), ("high", high)) if bound is not None}
        self.measures[name] = Measure.of(name, float(value), unit=unit, n=n, goal=goal, **spread)
        return self.measures[name]

    def table(self, name: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """Record a table: one mapping from column to cell per row."""
        self.tables[name] = plain_table(name, [dict(row) for row in rows])

    def result(self) -> ResultFile:
        """The result so far, as it would be written now."""
        return ResultFile(
            command=self._command,
            commit=self._commit,
            started=self._started,
            duration_s=self.duration_s,
            machine=machine_facts(),
            seeds=self._seeds,
            measures=tuple(self.measures.values()),
            tables=self.tables,
        )
