"""How much faster are several boards than one, for networks as they are: predicted, measured, and published."""

from __future__ import annotations

import argparse
import os
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path += [str(HERE.parent / name) for name in ("cost-model", "partition-coverage")]

from boards import LINKS, PI_4, THREADS  # noqa: E402
from cells import Cells  # noqa: E402
from networks import NETWORKS, imported  # noqa: E402
from predicted import COUNTS, TABLE_BOARD, WIRES, predicted_rows  # noqa: E402
from published import PUBLISHED, Published  # noqa: E402

from sepnas.partition.graph import load_graph  # noqa: E402
from sepnas.results.recorder import Recorder  # noqa: E402

Row = dict[str, Any]
MEASURED = (
    ("alexnet", 2, "100mbit"), ("alexnet", 4, "gigabit"), ("vgg16", 2, "100mbit"), ("vgg16", 3, "100mbit"),
    ("vgg16", 4, "gigabit"), ("vgg16", 4, "wifi"), ("yolov2-16", 2, "wifi"), ("yolov2-16", 4, "100mbit"),
    ("resnet50", 2, "100mbit"), ("resnet50", 4, "gigabit"), ("mobilenet-v2", 2, "100mbit"),
    ("mobilenet-v2", 4, "gigabit"), ("xception", 4, "100mbit"), ("efficientnet-b0", 2, "gigabit"),
)  # fmt: skip
"""The cases that are measured, each with its best scheme in fp32."""
WORKING = ("rows", "grid", "fused-tiles", "output-channels", "pipeline", "single-cut", "input-channels")


class Rows:
    """The predicted rows, by all that they are of."""

    def __init__(self, rows: list[Row]) -> None:
        self.rows = rows

    def of(self, **facts: Any) -> list[Row]:
        return [row for row in self.rows if all(row[name] == value for name, value in facts.items())]

    def best(self, cost: str = "latency_s", **facts: Any) -> Row | None:
        return min(self.of(**facts), key=lambda row: row[cost], default=None)

    def alone_s(self, network: str, board: str, threads: int) -> float | None:
        """The latency of one board that has its input already."""
        found = self.best(network=network, board=board, threads=threads, devices=1)
        return None if found is None else float(found["latency_s"])


def speed_row(rows: Rows, network: str, count: int, link: str) -> Row | None:
    """The best scheme of each number of threads and wire format, and the gains over one board."""
    facts = {"network": network, "board": TABLE_BOARD, "devices": count, "link": link}
    one_s, four_s = (rows.alone_s(network, TABLE_BOARD, threads) for threads in THREADS)
    best = {(n, wire): rows.best(threads=n, wire=wire, **facts) for n in THREADS for wire in WIRES}
    first, last = best[1, "fp32"], best[4, "fp32"]
    if first is None or last is None or one_s is None or four_s is None:
        return None
    row = {
        "network": network, "devices": count, "link": link, "one_board_1_thread_s": one_s,
        "one_board_4_threads_s": four_s, "scheme_1_thread": first["scheme"], "latency_1_thread_s": first["latency_s"],
        "gain_1_thread": one_s / first["latency_s"], "scheme_4_threads": last["scheme"],
        "latency_4_threads_s": last["latency_s"], "gain_4_threads": four_s / last["latency_s"],
        "gain_1_thread_over_4_threads_of_one": four_s / first["latency_s"],
    }  # fmt: skip
    for (threads, wire), found in best.items():
        if wire != "fp32" and found is not None:
            name, base_s = ("4_threads", four_s) if threads > 1 else ("1_thread", one_s)
            row[f"gain_{name}_{wire}"] = base_s / found["latency_s"]
    return row


def published_row(rows: Rows, case: Published) -> Row | None:
    """What is predicted for the case, beside what is published."""
    cost = "latency_s" if case.objective == "latency" else "interval_s"
    facts = {"network": case.network, "board": case.board, "threads": 1, "devices": case.devices}
    one_s = rows.alone_s(case.network, case.board, 1)
    best = {wire: rows.best(cost, wire=wire, link=case.link, **facts) for wire in WIRES}
    found = best["fp32"]
    if found is None or one_s is None:
        return None
    row = {
        "source": case.source, "network": case.network, "board": case.board, "link": case.link,
        "devices": case.devices, "objective": case.objective, "published": case.gain, "one_board_s": one_s,
        "scheme": found["scheme"], "gain": one_s / found[cost],
        "gain_of_computing_alone": one_s / found["compute_s"], "memory_bytes": found["peak_memory_bytes"],
    }  # fmt: skip
    row |= {f"gain_{wire}": one_s / each[cost] for wire, each in best.items() if each is not None and wire != "fp32"}
    others = {f"gain_{link}": rows.best(cost, wire="fp32", link=link, **facts) for link in LINKS}
    return row | {name: one_s / each[cost] for name, each in others.items() if each is not None}


def measured_rows(cells: Cells, rows: Rows, args: argparse.Namespace, deadline: float) -> list[Row]:
    """The measured cases that are done, and, if asked for, the others until time is up."""
    from measured import measure

    found = []
    for network, count, link in MEASURED:
        if network not in args.networks:
            continue
        facts = {"network": network, "board": PI_4, "threads": 1, "wire": "fp32", "devices": count, "link": link}
        able = [row for row in rows.of(**facts) if row["scheme"] in WORKING]
        best = min(able, key=lambda row: row["latency_s"], default=None)
        if best is None:
            continue
        case = {**facts, "scheme": best["scheme"], "engine": args.engine}
        key = " ".join(str(each) for each in case.values())
        if key not in cells.found and (not args.measure or time.monotonic() > deadline):
            continue
        row = cells.get(key, partial(measured, args, case, measure))
        if "measured_s" not in row:
            continue
        found.append({**case, **row, "ratio": row["measured_s"] / row["predicted_s"]})
        print(f"{key}: predicted {row['predicted_s']:.4f} s, measured {row['measured_s']:.4f} s", flush=True)
    return found


def measured(args: argparse.Namespace, case: Row, measure: Any) -> Row:
    """One measured case, with the load of the machine before and after it."""
    before = os.getloadavg()[0]
    try:
        row: Row = measure(imported(case["network"], args.out / "networks"), case, args.shaping)
    except Exception as error:
        print(f"{case}: {type(error).__name__}: {error}", flush=True)
        return {"reason": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
    return row | {"load_before": before, "load_after": os.getloadavg()[0]}


def record_published(record: Recorder, rows: Rows) -> None:
    found = [row for case in PUBLISHED if (row := published_row(rows, case)) is not None]
    for row in found:
        gains = [row[name] for name in row if name.startswith("gain_") and name.removeprefix("gain_") in LINKS]
        record.measure(
            f"speedup_{row['source']}", row["gain"], "", min(gains), max(gains), goal=f">= {row['published']}"
        )  # fmt: skip
    ahead = sum(row["gain"] >= row["published"] for row in found)
    record.measure("speedups_ahead_of_published", ahead, n=len(found), goal=f">= {len(PUBLISHED)}")
    record.table("published", found)


def record_speeds(record: Recorder, rows: Rows) -> None:
    speeds = [
        row
        for network in NETWORKS for count in COUNTS if count > 1 for link in LINKS
        if (row := speed_row(rows, network, count, link)) is not None
    ]  # fmt: skip
    record.table("speeds", speeds)
    for threads in ("1_thread", "4_threads"):
        wins = [row for row in speeds if row[f"gain_{threads}"] > 1]
        record.measure(f"cases_faster_than_one_board_{threads}", len(wins), n=len(speeds))
    record.table("schemes_4_boards_100mbit", [
        {name: row[name] for name in ("network", "scheme", "latency_s", "payload_bytes", "peak_memory_bytes")}
        for row in rows.of(devices=4, link="100mbit", board=TABLE_BOARD, threads=1, wire="fp32")
    ])  # fmt: skip


def record_measured(record: Recorder, found: list[Row]) -> None:
    if not found:
        return
    errors = [abs(row["predicted_s"] / row["measured_s"] - 1) for row in found]
    record.measure(
        "latency_mape_partition", sum(errors) / len(errors), "", min(errors), max(errors), len(errors), "<= 0.08"
    )
    record.measure("latency_worst_error_partition", max(errors), n=len(errors), goal="<= 0.2")
    off = max(abs(row["bytes_counted"] - row["bytes_predicted"]) for row in found)
    record.measure("bytes_counted_minus_predicted", off, "B", n=len(found), goal="== 0")
    record.table("measured", found)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/partition-speed"))
    parser.add_argument("--networks", nargs="+", choices=tuple(NETWORKS), default=list(NETWORKS))
    parser.add_argument("--limit-s", type=float, default=120, help="processor time for each plan")
    parser.add_argument("--stop-after-s", type=float, default=float("inf"), help="begin nothing later; run again")
    parser.add_argument("--measure", action="store_true", help="measure what is not measured yet, as root")
    parser.add_argument("--engine", default="torch", help="of the workers that are measured")
    parser.add_argument("--shaping", choices=("auto", "process", "netns"), default="auto")
    return parser.parse_args()


def main() -> None:
    args = arguments()
    deadline = time.monotonic() + args.stop_after_s
    graphs = {name: load_graph(imported(name, args.out / "networks")) for name in NETWORKS if name in args.networks}
    with Recorder(HERE / "result.json", root=HERE) as record:
        rows = Rows(predicted_rows(Cells(args.out / "predicted.jsonl"), graphs, args.limit_s, deadline))
        record_published(record, rows)
        record_speeds(record, rows)
        record_measured(record, measured_rows(Cells(args.out / "measured.jsonl"), rows, args, deadline))
    for measure in record.measures.values():
        print(f"{measure.name}: {measure.value:.4g} {measure.unit}")


if __name__ == "__main__":
    main()
