"""sepnas beside other ways to run one network on several devices: on an emulated cluster, and in real processes."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch
from emulated import NETWORKS, Row, cells, measure_cell, speedups
from networks import trained
from prepare import prepare
from real import CONTESTANTS, measure_contestant

from sepnas.results.recorder import Recorder

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE.parent / "cost-model"))
from cells import Cells  # noqa: E402  (what was measured is kept as there)

GOAL = ">= 3.5"


def kept(rows: Cells, key: str, measure: Callable[[], Row], deadline: float) -> Row:
    """The row that was measured before, or now, if there is time."""
    if key not in rows.found and time.monotonic() > deadline:
        raise SystemExit(f"time is up: {len(rows.found)} rows are kept in {rows.path}; run it again")
    new = key not in rows.found
    row = rows.get(key, measure)
    if new:
        print(key, {name: value for name, value in row.items() if not isinstance(value, list)}, flush=True)
    return row


def emulated_rows(rows: Cells, folder: Path, profile_seconds: float, deadline: float) -> list[Row]:
    found = []
    for cell in cells():
        key = f"emulated {' '.join(map(str, asdict(cell).values()))}"
        measure = partial(measure_cell, cell, folder, profile_seconds)
        found.append(asdict(cell) | kept(rows, key, measure, deadline))
    return speedups(found)


def real_rows(rows: Cells, network: str, folder: Path, requests: int, peers: Path | None, deadline: float) -> list[Row]:
    found = []
    for one in CONTESTANTS:
        key = f"real {network} {one.words} {one.variant} {one.parts} {one.processes} {requests}"
        measure = partial(measure_contestant, one, network, folder, requests, peers)
        found.append(kept(rows, key, measure, deadline))
    return found


def record_emulated(record: Recorder, rows: list[Row]) -> None:
    """The headline is that of the engine that gains less, with the policy of the paper."""
    for network in NETWORKS:
        own = [row for row in rows if row["network"] == network and row["parts"] > 1]
        suffix = "" if network == NETWORKS[0] else f"_{network}"
        hand_made = [row for row in own if row["policy"] == "hand-made" and row["boards"] == "profile"]
        least = min(hand_made, key=lambda row: float(row["speedup"]))
        measure_speedup(record, f"speedup_over_one_device{suffix}", least)
        for row in own:
            name = f"{row['boards']}_{row['engine']}_{row['policy']}".replace("-", "_")
            measure_speedup(record, f"speedup{suffix}_{name}", row)
    errors = [abs(row["predicted_s"] / row["latency_s"] - 1) for row in rows]
    record.measure("latency_mape", sum(errors) / len(errors), "", min(errors), max(errors), len(errors))
    differences = [row["largest_relative_difference"] for row in rows]
    record.measure("relative_difference_emulated", max(differences), "", n=len(differences), goal="<= 1e-5")
    record.table("emulated", rows)


def measure_speedup(record: Recorder, name: str, row: Row) -> None:
    speedups = row["speedups"]
    record.measure(name, row["speedup"], "", min(speedups), max(speedups), len(speedups), GOAL)


def record_real(record: Recorder, rows: list[Row]) -> None:
    own = [row for row in rows if row["name"] == "with_sepnas"]
    differences = [row["largest_relative_difference"] for row in own]
    record.measure("relative_difference_sepnas", max(differences), "", n=len(differences), goal="<= 1e-5")
    record.measure("contestants_that_cannot_run", sum("error" in row for row in rows), n=len(rows))
    record.table("peers", rows)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peers", type=Path, help="the folder into which requirements.txt was installed")
    parser.add_argument("--out", type=Path, default=Path("runs/runtime-peers"))
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--profile-seconds", type=float, default=180.0)
    parser.add_argument("--prepare-only", action="store_true", help="train and export, measure nothing")
    parser.add_argument("--stop-after-s", type=float, default=float("inf"))
    return parser.parse_args()


def main() -> None:
    chosen = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))  # so that nothing goes on running
    deadline = time.monotonic() + chosen.stop_after_s
    with Recorder(HERE / "result.json", seeds=(0,), root=HERE) as record:
        for parts in (1, 2, 4):
            prepare(NETWORKS[0], parts, chosen.out)
        for parts in (1, 4):
            trained(NETWORKS[1], parts, chosen.out)
        if chosen.prepare_only:
            raise SystemExit
        torch.set_num_threads(1)
        rows = Cells(chosen.out / "rows.jsonl")
        record_emulated(record, emulated_rows(rows, chosen.out, chosen.profile_seconds, deadline))
        record_real(record, real_rows(rows, NETWORKS[0], chosen.out, chosen.requests, chosen.peers, deadline))
        for measure in record.measures.values():
            print(f"{measure.name}: {measure.value:.4g} {measure.unit}")


if __name__ == "__main__":
    main()
