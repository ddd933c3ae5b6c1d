"""Does a session at full rate stay right, and do its processes stay as they are, for an hour?"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
import torch

from sepnas.local.processes import Launch, LocalWorkers
from sepnas.results.recorder import Recorder
from sepnas.runtime.client.session import Session
from sepnas.runtime.worker.vitals import memory_bytes

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "runtime-faults"))

from network import Deployed  # noqa: E402 (the network of the fault table)

IN_FLIGHT, SAMPLED_S, WINDOWS = 4, 10.0, 8
NUM_INPUTS = 16
TOLERANCE = 1e-3


def heap_bytes(pid: int) -> int:
    """What a process holds of its own, without the pages of files (libraries) that it has touched."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("RssAnon:")).split()[1])


def num_descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


class Sampler:
    """Looks at the processes now and then, in a thread of its own."""

    def __init__(self, pids: Mapping[str, int], warmup_s: float) -> None:
        self._pids, self._warmup_s, self._start = pids, warmup_s, time.monotonic()
        self.rows: list[dict[str, Any]] = []
        self.requests = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._over.wait(SAMPLED_S):
            row: dict[str, Any] = {"time_s": time.monotonic() - self._start, "requests": self.requests}
            for name, pid in self._pids.items():
                row[f"{name}_rss_bytes"], row[f"{name}_heap_bytes"] = memory_bytes(pid), heap_bytes(pid)
                row[f"{name}_descriptors"] = num_descriptors(pid)
            self.rows.append(row)
            if len(self.rows) % 6 == 0:
                print({key: round(value) for key, value in row.items()}, flush=True)

    def stop(self) -> None:
        self._over.set()
        self._thread.join()

    def series(self, key: str) -> tuple[np.ndarray[Any, np.dtype[np.float64]], np.ndarray[Any, np.dtype[np.float64]]]:
        """Seconds and values after the warm-up."""
        rows = [row for row in self.rows if row["time_s"] >= self._warmup_s] or self.rows
        return np.array([row["time_s"] for row in rows]), np.array([float(row[key]) for row in rows])


def slope_per_hour(times_s: Any, values: Any) -> tuple[float, float]:
    """The mean slope of straight lines through parts of the values, and its standard error.

    Memory moves in steps: neighbours are alike, and the error of one line through all of them would be far too small.
    """
    parts = np.array_split(np.arange(len(times_s)), min(WINDOWS, len(times_s) // 3))
    slopes = [3600 * float(np.polyfit(times_s[part], values[part], 1)[0]) for part in parts]
    return fmean(slopes), stdev(slopes) / len(slopes) ** 0.5


def ask(session: Session, deployed: Deployed, sampler: Sampler, seconds: float) -> int:
    """Stream for so long; how many answers were wrong."""
    images = np.random.default_rng(1).standard_normal((NUM_INPUTS, *deployed.images.shape), dtype=np.float32)
    with torch.inference_mode():
        expected = [deployed.network(torch.from_numpy(batch)).numpy() for batch in images]
    limit, wrong = time.monotonic() + seconds, 0
    batches = itertools.takewhile(lambda _: time.monotonic() < limit, itertools.cycle(images))
    for number, logits in enumerate(session.stream(batches, in_flight=IN_FLIGHT)):
        wanted = expected[number % NUM_INPUTS]
        wrong += not np.abs(logits - wanted).max() <= TOLERANCE * max(1.0, float(np.abs(wanted).max()))
        sampler.requests += 1
    return wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--warmup-minutes", type=float, default=20.0, help="what is left out of the slope")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    with (
        Recorder(HERE / "result.json", seeds=[0], root=HERE) as record,
        tempfile.TemporaryDirectory(prefix="sepnas-soak-") as name,
    ):
        deployed = Deployed(Path(name) / "deployment", seed=0)
        launches = [Launch(options=("--engine", "onnxruntime"))] * deployed.num_devices
        with (
            LocalWorkers(deployed.folder, deployed.num_devices, launches) as workers,
            Session(deployed.folder, workers.hosts, timeout_s=30.0) as session,
        ):
            pids = {f"device{rank}": pid for rank, pid in enumerate(workers.pids)} | {"client": os.getpid()}
            sampler = Sampler(pids, 60 * chosen.warmup_minutes)
            wrong = ask(session, deployed, sampler, 60 * chosen.minutes)
            sampler.stop()
        tell(record, sampler, pids, wrong)


def tell(record: Recorder, sampler: Sampler, pids: Mapping[str, int], wrong: int) -> None:
    record.measure("soak_requests", sampler.requests, "")
    record.measure("soak_wrong", wrong, "", n=sampler.requests, goal="<= 0")
    leaked, total, total_heap = 0, 0.0, 0.0
    rows = []
    for name in pids:
        times_s, rss = sampler.series(f"{name}_rss_bytes")
        _, descriptors = sampler.series(f"{name}_descriptors")
        _, heap = sampler.series(f"{name}_heap_bytes")
        slope, error = slope_per_hour(times_s, rss)
        total, total_heap = total + rss, total_heap + heap
        leaked += round(descriptors[-1] - descriptors[0])
        rows.append(
            {
                "process": name,
                "rss_first_bytes": rss[0],
                "rss_last_bytes": rss[-1],
                "rss_peak_bytes": rss.max(),
                "heap_first_bytes": heap[0],
                "heap_last_bytes": heap[-1],
                "slope_bytes_per_hour": slope,
                "slope_error_bytes_per_hour": error,
                "descriptors_first": descriptors[0],
                "descriptors_last": descriptors[-1],
            }
        )
    slope, error = slope_per_hour(times_s, total)
    record.measure(
        "soak_rss_slope_bytes_per_hour", slope, "B/h", slope - 2 * error, slope + 2 * error, len(times_s), "<= 1e6"
    )
    slope, error = slope_per_hour(times_s, total_heap)
    record.measure("soak_heap_slope_bytes_per_hour", slope, "B/h", slope - 2 * error, slope + 2 * error, len(times_s))
    record.measure("soak_descriptors_leaked", leaked, "", goal="<= 0")
    record.table("processes", rows)
    record.table("samples", sampler.rows[:: max(1, len(sampler.rows) // 60)])


if __name__ == "__main__":
    main()
