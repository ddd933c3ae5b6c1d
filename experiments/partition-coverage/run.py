"""How much of what people have can be imported and split? Every network in a process of its own, with limits."""

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
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from networks import Candidate, candidates, list_timm
from splits import SAMPLES, Trial
from torch import nn
from variation import vary

from sepnas.errors import ImportFailedError
from sepnas.importing.found import FoundNetwork
from sepnas.importing.run import ImportedNetwork, trace_found
from sepnas.importing.source import find_network
from sepnas.partition.counts import count_graph
from sepnas.partition.schemes.registry import SCHEMES
from sepnas.results.recorder import Recorder

HERE = Path(__file__).resolve().parent
MAX_BYTES = 10 << 30
BUSY = 0.99
"""A scheme splits a network if its busiest device has less than this share of the MACs."""
Row = dict[str, Any]


def tried(candidate: Candidate, limit_s: float) -> Iterator[Row]:
    """What became of one network: its counts, and then its splits one by one."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    begun = time.process_time()
    imported, module = imported_from(candidate)
    trial = Trial(imported)
    counts, graph = count_graph(imported.graph), imported.graph
    yield {
        "outcome": "imported", "reason": "", "operators": len(graph.nodes), "kinds": len(counts.operators),
        "input": "x".join(map(str, graph.tensors[graph.inputs[0]].dims[1:])),
        "mmacs": round(counts.macs / 1e6, 1), "parameters": counts.parameters,
        "opaque": ", ".join(sorted({each.operator for each in counts.operators if each.opaque})),
        "deviation": imported.deviation, "samples": SAMPLES, **trial.of_module(module),
        "import_s": round(time.process_time() - begun, 1), "schemes": {},
    }  # fmt: skip
    del module
    for name, row in trial.schemes(limit_s):
        yield {"scheme": name, **row}


def imported_from(candidate: Candidate) -> tuple[ImportedNetwork, nn.Module]:
    """The network at the shape to try it at, or at its own if it takes no other; as a graph and as a module."""
    found = varied(candidate)
    if candidate.shape is not None:
        try:
            return trace_found(found, [candidate.shape]), module_of(found)
        except ImportFailedError as error:
            print(f"{candidate.source} at {candidate.shape}: {error}"[:300], flush=True)
            found = varied(candidate)
    return trace_found(found), module_of(found)


def varied(candidate: Candidate) -> FoundNetwork:
    found = find_network(candidate.source)
    vary(module_of(found))
    return found


def module_of(found: FoundNetwork) -> nn.Module:
    assert found.module is not None
    return found.module


def in_child(candidate: Candidate, args: argparse.Namespace) -> Row:
    """The same in a forked process, with a limit of its memory and of its processor time."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        resource.setrlimit(resource.RLIMIT_AS, (MAX_BYTES, MAX_BYTES))
        resource.setrlimit(resource.RLIMIT_CPU, (int(args.limit_s), int(args.limit_s) + 1))
        os._exit(tell_all(candidate, args.scheme_limit_s, writer))
    os.close(writer)
    with os.fdopen(reader) as file:
        said = [json.loads(line) for line in file]
    _, status = os.waitpid(child, 0)
    ended = f"ended by {signal.Signals(os.WTERMSIG(status)).name}" if os.WIFSIGNALED(status) else f"status {status}"
    if "SIGXCPU" in ended or "SIGKILL" in ended:
        ended = f"more than {args.limit_s:g} s of processor time"
    row: Row = said[0] if said else {"outcome": "ended", "reason": ended}
    for each in said[1:]:
        row["schemes"][each.pop("scheme")] = each
    if status and said:
        missing = [name for name in SCHEMES if name not in row.get("schemes", {})]
        row["schemes"] |= {name: {"outcome": "refused", "reason": ended} for name in missing}
    return row


def tell_all(candidate: Candidate, limit_s: float, writer: int) -> int:
    """Write what became of a network as lines of JSON; the status of the process."""
    said = False
    try:
        for row in tried(candidate, limit_s):
            os.write(writer, json.dumps(row).encode() + b"\n")
            said = True
    except BaseException as error:
        if not type(error).__module__.startswith("sepnas"):
            traceback.print_exc()
        if said:
            return 1
        why = {"outcome": "refused", "reason": f"{type(error).__name__}: {' '.join(str(error).split())[:400]}"}
        os.write(writer, json.dumps(why).encode() + b"\n")
    return 0


def judged(row: Row) -> Row:
    """The row with what the measures count."""
    schemes = row.get("schemes", {})
    split = [name for name, each in schemes.items() if is_split(each)]
    largest = min((schemes[name]["largest"] for name in split), default=1.0)
    imported = row["outcome"] == "imported"
    return {"samples": 1, "batch_deviation": None} | row | {
        "is_imported": imported, "is_known": imported and not row["opaque"], "is_split": bool(split),
        "is_halved": largest <= 0.75, "largest": largest, "exact": ", ".join(split),
        "between": named(schemes, "exact", apart=split), "wrong": named(schemes, "wrong"),
        "failed": named(schemes, "failed"),
        "error": max((each["error"] for each in schemes.values() if "error" in each), default=0.0),
    }  # fmt: skip


def named(schemes: dict[str, Row], outcome: str, apart: Sequence[str] = ()) -> str:
    return ", ".join(name for name, each in schemes.items() if each["outcome"] == outcome and name not in apart)


def is_split(scheme: Row) -> bool:
    """Whether a scheme is exact, and splits within layers: several devices share a layer, and none has nearly all."""
    return scheme["outcome"] == "exact" and scheme["split"] > 0 and scheme["largest"] < BUSY


def fraction(rows: list[Row], key: str) -> float:
    return sum(bool(row[key]) for row in rows) / len(rows)


def record(tried_rows: list[Row], wanted: int, args: argparse.Namespace) -> None:
    """Write the result file of the networks that were tried."""
    rows = [judged(row) for row in tried_rows]
    with Recorder(args.out, root=HERE) as result:
        n = len(rows)
        result.measure("coverage_networks_tried", n, goal=f">= {wanted}")
        result.measure("coverage_imported_fraction", fraction(rows, "is_imported"), n=n, goal=">= 0.95")
        result.measure("coverage_split_fraction", fraction(rows, "is_split"), n=n, goal=">= 0.9")
        result.measure("coverage_largest_share_below_three_quarters_fraction", fraction(rows, "is_halved"), n=n)
        result.measure("coverage_known_operators_fraction", fraction(rows, "is_known"), n=n)
        worst = max((row["deviation"] for row in rows if row["is_imported"]), default=0.0)
        result.measure("coverage_worst_relative_error", worst, n=n, goal="<= 0.0001")
        splits = [each for row in rows for each in row.get("schemes", {}).values() if "error" in each]
        result.measure(
            "coverage_split_worst_relative_error", max((each["error"] for each in splits), default=0.0),
            n=len(splits), goal="<= 0.0001",
        )  # fmt: skip
        two = [row for row in rows if row.get("samples") == SAMPLES]
        batches = [row["batch_deviation"] for row in two if row["batch_deviation"] is not None]
        result.measure("coverage_tried_with_two_samples", len(two), goal=f">= {wanted}")
        result.measure(
            "coverage_batch_worst_relative_error", max(batches, default=0.0), n=len(batches), goal="<= 0.0001"
        )
        failed = [
            {"source": row["source"], "scheme": name, "reason": each["reason"]}
            for row in rows for name, each in row.get("schemes", {}).items() if each["outcome"] == "failed"
        ]  # fmt: skip
        result.measure("coverage_failed_plans", len(failed), n=len(rows), goal="<= 0")
        result.table("failed", failed)
        result.table("no_batch", [
            {"source": row["source"], "reason": row["batch_reason"]} for row in two if row["batch_reason"]
        ])  # fmt: skip
        result.table("groups", [group_row(rows, group) for group in sorted({row["group"] for row in rows})])
        result.table("schemes", [scheme_row(rows, name) for name in SCHEMES])
        opaque = Counter(name for row in rows for name in (row.get("opaque") or "").split(", ") if name)
        result.table("opaque", [{"operator": name, "networks": count} for name, count in opaque.most_common()])
        columns = (
            "source", "input", "operators", "kinds", "mmacs", "parameters", "opaque", "deviation", "exact", "between",
            "largest", "error", "samples", "batch_deviation",
        )  # fmt: skip
        result.table("imported", [{name: row[name] for name in columns} for row in rows if row["is_imported"]])
        result.table("not_imported", not_there(rows))
        result.table("not_split", [
            {"source": row["source"], "opaque": row["opaque"], "reason": why_not_split(row)}
            for row in rows if row["is_imported"] and not row["is_split"]
        ])  # fmt: skip
        result.table("wrong", [
            {"source": row["source"], "scheme": name, "error": each["error"]}
            for row in rows for name, each in row.get("schemes", {}).items() if each["outcome"] == "wrong"
        ])  # fmt: skip
    for measure in result.measures.values():
        print(f"{measure.name}: {measure.value:.4g}")


def not_there(rows: list[Row]) -> list[Row]:
    return [{name: row[name] for name in ("source", "outcome", "reason")} for row in rows if not row["is_imported"]]


def group_row(rows: list[Row], group: str) -> Row:
    own = [row for row in rows if row["group"] == group]
    return {
        "group": group, "networks": len(own), "imported": sum(row["is_imported"] for row in own),
        "without_opaque": sum(row["is_known"] for row in own), "split": sum(row["is_split"] for row in own),
    }  # fmt: skip


def scheme_row(rows: list[Row], name: str) -> Row:
    found = [row["schemes"][name] for row in rows if name in row.get("schemes", {})]
    shares = sorted(each["largest"] for each in found if each["outcome"] == "exact")
    return {
        "scheme": name, "tried": len(found), "exact": len(shares),
        "within_layers": sum(is_split(each) for each in found),
        "refused": sum(each["outcome"] == "refused" for each in found),
        "wrong": sum(each["outcome"] == "wrong" for each in found),
        "failed": sum(each["outcome"] == "failed" for each in found),
        "largest_share_median": shares[len(shares) // 2] if shares else 1.0,
    }  # fmt: skip


def why_not_split(row: Row) -> str:
    """The reasons of the schemes, each once."""
    found = dict.fromkeys(each.get("reason") or "splits nothing" for each in row["schemes"].values())
    return "; ".join(found)[:400]


def kept(path: Path) -> dict[str, Row]:
    """The rows of earlier runs by source; the last one of each."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = path.read_text().splitlines() if path.exists() else []
    return {row["source"]: row for row in map(json.loads, lines)}


def is_done(candidate: Candidate, rows: dict[str, Row]) -> bool:
    """Whether a network was tried with as many samples as now, if it was imported at all."""
    row = rows.get(candidate.source)
    return row is not None and (row["outcome"] != "imported" or row.get("samples") == SAMPLES)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=HERE / "result.json")
    parser.add_argument("--cells", type=Path, default=HERE / "cells.jsonl")
    parser.add_argument("--limit-s", type=float, default=300, help="processor time for each network")
    parser.add_argument("--scheme-limit-s", type=float, default=40, help="processor time for each scheme of it")
    parser.add_argument("--stop-after-s", type=float, help="start no network later; run again to go on")
    parser.add_argument("--only", nargs="+", default=[""], help="networks whose source holds one of these texts")
    parser.add_argument("--again", action="store_true", help="also those that are done")
    parser.add_argument("--share", default="1/1", help="every n-th network from the i-th on, i/n: for two processes")
    parser.add_argument("--record", action="store_true", help="write the result of what was tried so far, and end")
    parser.add_argument("--list", action="store_true", help="write timm.json anew, and end")
    return parser.parse_args()


def main() -> None:
    args = arguments()
    if args.list:
        list_timm()
        return
    everything, done = candidates(), kept(args.cells)
    if not args.record:
        try_all([each for each in everything if any(text in each.source for text in args.only)], args)
        done = kept(args.cells)
    left = [each.source for each in everything if not is_done(each, done)]
    if left and not args.record:
        sys.exit(f"{len(left)} networks are left; run again")
    record([done[each.source] for each in everything if each.source in done], len(everything), args)


def try_all(wanted: list[Candidate], args: argparse.Namespace) -> None:
    """Try this process's share of the networks that are not done, and keep each as soon as it is."""
    torch.set_num_threads(1)
    first, count = map(int, args.share.split("/"))
    started = time.monotonic()
    for candidate in wanted[first - 1 :: count]:
        late = args.stop_after_s is not None and time.monotonic() - started > args.stop_after_s
        if late or (not args.again and is_done(candidate, kept(args.cells))):  # perhaps done by another process
            continue
        begun = time.monotonic()
        row = {"source": candidate.source, "group": candidate.group, **in_child(candidate, args)}
        row["seconds"] = round(time.monotonic() - begun, 1)
        with args.cells.open("a") as file:
            file.write(json.dumps(row) + "\n")
        seen = judged(row)
        print(
            row["source"], row["outcome"], row["reason"], "| opaque:", row.get("opaque", ""), "| split:", seen["exact"],
            "| wrong:", seen["wrong"], "| failed:", seen["failed"],
            f"| {row['seconds']} s, import {row.get('import_s')} s", flush=True,
        )  # fmt: skip


if __name__ == "__main__":
    main()
