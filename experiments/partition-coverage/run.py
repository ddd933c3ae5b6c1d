"""How much of what people have can be imported? Every network in a process of its own, with a limit of time."""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import sys
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from networks import Candidate, candidates, list_timm

from sepnas.importing.run import trace_found
from sepnas.importing.source import find_network
from sepnas.partition.counts import count_graph
from sepnas.results.recorder import Recorder

HERE = Path(__file__).resolve().parent
GOAL = ">= 0.95"
MAX_BYTES = 14 << 30


def tried(candidate: Candidate) -> dict[str, Any]:
    """What became of one network: its counts, or why it cannot be imported."""
    torch.set_num_threads(1)
    found = find_network(candidate.source)
    imported = trace_found(found, [candidate.shape] if candidate.shape else ())
    counts = count_graph(imported.graph)
    return {
        "outcome": "imported", "reason": "", "operators": len(imported.graph.nodes), "kinds": len(counts.operators),
        "mmacs": round(counts.macs / 1e6, 1), "parameters": counts.parameters,
        "opaque": ", ".join(sorted({each.operator for each in counts.operators if each.opaque})),
        "deviation": imported.deviation,
    }  # fmt: skip


def in_child(candidate: Candidate, limit_s: float) -> dict[str, Any]:
    """The same in a forked process, which may use so much memory and processor time."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        resource.setrlimit(resource.RLIMIT_AS, (MAX_BYTES, MAX_BYTES))
        resource.setrlimit(resource.RLIMIT_CPU, (int(limit_s), int(limit_s) + 1))
        try:
            row = tried(candidate)
        except BaseException as error:
            row = {"outcome": "refused", "reason": f"{type(error).__name__}: {' '.join(str(error).split())[:400]}"}
            if not type(error).__module__.startswith("sepnas"):
                traceback.print_exc()
        os.write(writer, json.dumps(row).encode())
        os._exit(0)
    os.close(writer)
    said = os.read(reader, 1 << 16)  # empty when the process ends without a word
    os.close(reader)
    _, status = os.waitpid(child, 0)
    if not said:
        name = signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else f"status {status}"
        late = name in ("SIGXCPU", "SIGKILL")
        return {"outcome": "ended", "reason": f"more than {limit_s:g} s of processor time" if late else name}
    found: dict[str, Any] = json.loads(said)
    return found


def fraction(rows: list[dict[str, Any]], key: str) -> float:
    return sum(bool(row[key]) for row in rows) / len(rows)


def record(rows: list[dict[str, Any]], args: argparse.Namespace) -> None:
    """Write the result file of all networks that were tried."""
    for row in rows:
        row["is_imported"] = row["outcome"] == "imported"
        row["is_known"] = row["is_imported"] and not row["opaque"]
    with Recorder(args.out, root=HERE) as result:
        result.measure("coverage_imported_fraction", fraction(rows, "is_imported"), n=len(rows), goal=GOAL)
        result.measure("coverage_known_operators_fraction", fraction(rows, "is_known"), n=len(rows))
        worst = max((row["deviation"] for row in rows if row["is_imported"]), default=0.0)
        result.measure("coverage_worst_relative_error", worst, n=len(rows), goal="<= 0.0001")
        groups = sorted({row["group"] for row in rows})
        own = {group: [row for row in rows if row["group"] == group] for group in groups}
        result.table(
            "groups",
            [
                {
                    "group": group, "networks": len(own[group]), "imported": sum(r["is_imported"] for r in own[group]),
                    "without_opaque": sum(r["is_known"] for r in own[group]),
                }
                for group in groups
            ],
        )  # fmt: skip
        opaque = Counter(name for row in rows for name in (row.get("opaque") or "").split(", ") if name)
        result.table("opaque", [{"operator": name, "networks": count} for name, count in opaque.most_common()])
        columns = ("source", "operators", "kinds", "mmacs", "parameters", "opaque", "deviation")
        result.table("imported", [{name: row[name] for name in columns} for row in rows if row["is_imported"]])
        not_there = [row for row in rows if not row["is_imported"]]
        result.table(
            "not_imported", [{name: row[name] for name in ("source", "outcome", "reason")} for row in not_there]
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=HERE / "result.json")
    parser.add_argument("--cells", type=Path, default=Path("runs/partition-coverage/cells.jsonl"))
    parser.add_argument("--limit-s", type=float, default=900, help="processor time for each network")
    parser.add_argument("--stop-after-s", type=float, help="start no network later; run again to go on")
    parser.add_argument("--only", default="", help="networks whose source holds this text")
    parser.add_argument("--list", action="store_true", help="write timm.json anew, and end")
    args = parser.parse_args()
    if args.list:
        list_timm()
        return
    torch.set_num_threads(1)
    started = time.monotonic()
    args.cells.parent.mkdir(parents=True, exist_ok=True)
    done = (
        {row["source"]: row for row in map(json.loads, args.cells.read_text().splitlines())}
        if args.cells.exists()
        else {}
    )
    wanted = [each for each in candidates() if args.only in each.source]
    for candidate in wanted:
        late = args.stop_after_s is not None and time.monotonic() - started > args.stop_after_s
        if candidate.source in done or late:
            continue
        begun = time.monotonic()
        row = {"source": candidate.source, "group": candidate.group, **in_child(candidate, args.limit_s)}
        row["seconds"] = round(time.monotonic() - begun, 1)
        done[candidate.source] = row
        with args.cells.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(row["source"], row["outcome"], row["reason"], row.get("opaque", ""), f"{row['seconds']} s", flush=True)
    left = [each.source for each in wanted if each.source not in done]
    if left:
        sys.exit(f"{len(left)} networks are left; run again")
    record([done[each.source] for each in wanted], args)


if __name__ == "__main__":
    main()
