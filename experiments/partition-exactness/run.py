"""Is each split exact? Every network under every scheme in one process, and each scheme on real worker processes."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import cells
import torch
import workers
from cells import Cell, Whole
from networks import SEED, Network
from workers import Case

from sepnas.results.recorder import Recorder

HERE = Path(__file__).resolve().parent
GOAL = "<= 1e-4"
_One = TypeVar("_One", Cell, Case)


class Rows:
    """The rows that are done, kept in a file of JSON lines."""

    def __init__(self, path: Path, stop_at: float) -> None:
        self.path, self.stop_at = path, stop_at
        path.parent.mkdir(parents=True, exist_ok=True)
        self.done = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        self._traced: tuple[Network, Whole] | None = None

    def whole(self, network: Network) -> Whole:
        """The traced network; only the last one is kept."""
        if self._traced is None or self._traced[0] != network:
            self._traced = None
            self._traced = network, Whole.of(network)
        return self._traced[1]

    def add(self, wanted: Iterable[_One], row_of: Callable[[_One, Whole], dict[str, Any]]) -> tuple[list[Any], int]:
        """The rows of all that is wanted, those that are there already included, and the number of those left."""
        found, left = [], 0
        known = {_key(row, wanted): row for row in self.done for wanted in (_CELL, _CASE) if wanted[-1] in row}
        for one in wanted:
            key = tuple(one.key.values())
            if key not in known and time.monotonic() < self.stop_at:
                known[key] = row = row_of(one, self.whole(one.network))
                with self.path.open("a") as file:
                    file.write(json.dumps(row) + "\n")
                print(*row.values(), flush=True)
            if key in known:
                found.append(known[key])
            else:
                left += 1
        return found, left


_CELL, _CASE = ("network", "scheme", "devices", "shares"), ("network", "scheme", "devices", "engine")


def _key(row: dict[str, Any], names: tuple[str, ...]) -> tuple[Any, ...]:
    return tuple(row[name] for name in names)


def record(rows: list[dict[str, Any]], cases: list[dict[str, Any]], left: int, out: Path) -> None:
    """Write the result file."""
    split = [row for row in rows if row["outcome"] == "split"]
    answered = [row for row in cases if row["outcome"] == "answered"]
    with Recorder(out, seeds=(SEED,), root=HERE) as result:
        worst = max(row["error"] for row in split)
        result.measure("exactness_worst_relative_error", worst, n=len(split), goal=GOAL)
        result.measure("exactness_cells_refused", len(rows) - len(split), n=len(rows))
        result.measure("exactness_cells_not_run", left, n=len(rows) + left, goal="== 0")
        if answered:
            errors = [row["error"] for row in answered]
            result.measure("exactness_worst_relative_error_workers", max(errors), n=len(answered), goal=GOAL)
            beyond = [row["beyond_predicted"] for row in answered]
            result.measure("bytes_counted_minus_predicted", max(beyond, key=abs), "B", n=len(beyond), goal="== 0")
        result.measure("exactness_worker_cases_failed", len(cases) - len(answered), n=len(cases), goal="== 0")
        result.table("networks_and_schemes", list(_summaries(rows)))
        result.table("refused", list(_refusals(rows)))
        columns = ("network", "scheme", "devices", "engine", "outcome", "error", "beyond_predicted", "reason")
        result.table("workers", [{name: row.get(name, "") for name in columns} for row in cases])


def _summaries(rows: list[dict[str, Any]]) -> Iterable[dict[str, Any]]:
    """For each network and scheme: splits and refusals, the worst error, and the largest share of a device of two."""
    for network, scheme in dict.fromkeys((row["network"], row["scheme"]) for row in rows):
        own = [row for row in rows if (row["network"], row["scheme"]) == (network, scheme)]
        split = [row for row in own if row["outcome"] == "split"]
        halves = [row["largest_share"] for row in split if (row["devices"], row["shares"]) == (2, "even")]
        yield {
            "network": network, "scheme": scheme, "split": len(split), "refused": len(own) - len(split),
            "worst_error": max((row["error"] for row in split), default=""),
            "largest_share_of_two": halves[0] if halves else "",
            "most_macs": max((row["macs"] for row in split), default=""),
        }  # fmt: skip


def _refusals(rows: list[dict[str, Any]]) -> Iterable[dict[str, Any]]:
    """Each network and scheme that is refused, with the devices, and the reason of the first."""
    refused = [row for row in rows if row["outcome"] == "refused"]
    for network, scheme in dict.fromkeys((row["network"], row["scheme"]) for row in refused):
        own = [row for row in refused if (row["network"], row["scheme"]) == (network, scheme)]
        devices = ", ".join(f"{row['devices']} {row['shares']}" for row in own)
        yield {"network": network, "scheme": scheme, "devices": devices, "reason": own[0]["reason"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=HERE / "result.json")
    parser.add_argument("--rows", type=Path, default=HERE / "rows.jsonl")
    parser.add_argument("--stop-after-s", type=float, default=float("inf"), help="begin no cell later; run again")
    parser.add_argument("--only", default="", help="networks whose source holds this text")
    parser.add_argument("--no-workers", action="store_true", help="leave the worker processes out")
    parser.add_argument("--record", action="store_true", help="write the result of what is there, and say what is left")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    rows = Rows(args.rows, time.monotonic() + (0.0 if args.record else args.stop_after_s))
    cases, cases_left = ([], 0) if args.no_workers else rows.add(list(workers.all_cases()), workers.row_of)
    found, left = rows.add(list(cells.all_cells(args.only)), cells.row_of)
    if left + cases_left and not args.record:
        sys.exit(f"{left} cells and {cases_left} cases of workers are left; run again")
    record(found, cases, left + cases_left, args.out)


if __name__ == "__main__":
    main()
