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

from boards import LINKS, PI_4, SPEEDS  # noqa: E402
from cells import Cells  # noqa: E402
from networks import NETWORKS, imported  # noqa: E402
from predicted import COUNTS, SPEEDS_COMPARED, TABLE_BOARD, WIRES, predicted_rows  # noqa: E402
from published import PUBLISHED, Published  # noqa: E402
from searched import searched_rows  # noqa: E402

from sepnas.partition.graph import load_graph  # noqa: E402
from sepnas.results.recorder import Recorder  # noqa: E402

Row = dict[str, Any]
MEASURED = (
    ("resnet50", 2, "100mbit"), ("vgg16", 3, "100mbit"), ("yolov2-16", 4, "wifi"), ("alexnet", 2, "100mbit"),
    ("mobilenet-v2", 2, "100mbit"), ("vgg16", 4, "gigabit"), ("resnet50", 4, "gigabit"), ("yolov2-16", 2, "wifi"),
    ("mobilenet-v2", 4, "gigabit"), ("alexnet", 4, "gigabit"), ("xception", 4, "100mbit"), ("vgg16", 2, "wifi"),
)  # fmt: skip
"""The cases that are measured, each with its best scheme in fp32."""
WORKING = ("rows", "grid", "fused-tiles", "output-channels", "pipeline", "single-cut", "input-channels")


class Rows:
    """The predicted rows, by all that they are of."""

    def __init__(self, rows: list[Row]) -> None:
        self.rows: dict[tuple[str, int], list[Row]] = {}
        for row in rows:
            self.rows.setdefault((row["network"], row["devices"]), []).append(row)

    def of(self, network: str, devices: int, **facts: Any) -> list[Row]:
        found = self.rows.get((network, devices), ())
        return [row for row in found if all(row[name] == value for name, value in facts.items())]

    def best(self, cost: str = "latency_s", **facts: Any) -> Row | None:
        return min(self.of(**facts), key=lambda row: row[cost], default=None)

    def alone_s(self, network: str, board: str, speed: str) -> float | None:
        """The latency of one board that has its input already."""
        found = self.best(network=network, board=board, speed=speed, devices=1)
        return None if found is None else float(found["latency_s"])


def speed_row(rows: Rows, network: str, count: int, link: str, speed: str) -> Row | None:
    """The best scheme in each wire format, and its gain over one board of the same speed."""
    facts = {"network": network, "board": TABLE_BOARD, "devices": count, "link": link, "speed": speed}
    alone_s = rows.alone_s(network, TABLE_BOARD, speed)
    four_s = rows.alone_s(network, TABLE_BOARD, "4-threads")
    best = {wire: rows.best(wire=wire, **facts) for wire in WIRES}
    first = best["fp32"]
    if first is None or alone_s is None or four_s is None:
        return None
    row = {
        "network": network, "devices": count, "link": link, "speed": speed, "one_board_s": alone_s,
        "scheme": first["scheme"], "latency_s": first["latency_s"], "gain": alone_s / first["latency_s"],
        "gain_over_4_threads_of_one": four_s / first["latency_s"],
    }  # fmt: skip
    others = {f"gain_{wire}": alone_s / each["latency_s"] for wire, each in best.items() if each and wire != "fp32"}
    return row | others


def published_row(rows: Rows, found_by_search: Rows, case: Published, speed: str) -> Row | None:
    """What is predicted for the case by the best scheme and by the search, beside what is published."""
    cost = "latency_s" if case.objective == "latency" else "interval_s"
    facts = {"network": case.network, "board": case.board, "speed": speed, "devices": case.devices}
    alone_s = rows.alone_s(case.network, case.board, speed)
    best = {wire: rows.best(cost, wire=wire, link=case.link, **facts) for wire in WIRES}
    found = best["fp32"]
    if found is None or alone_s is None:
        return None
    row = {
        "source": case.source, "network": case.network, "board": case.board, "speed": speed, "link": case.link,
        "devices": case.devices, "objective": case.objective, "published": case.gain, "one_board_s": alone_s,
        "scheme": found["scheme"], "gain": alone_s / found[cost],
        "gain_if_messages_took_no_time": alone_s / found["compute_s"], "memory_bytes": found["peak_memory_bytes"],
    }  # fmt: skip
    row |= {f"gain_{wire}": alone_s / each[cost] for wire, each in best.items() if each and wire != "fp32"}
    others = {f"gain_{link}": rows.best(cost, wire="fp32", link=link, **facts) for link in LINKS}
    row |= {name: alone_s / each[cost] for name, each in others.items() if each}
    for wire in WIRES:
        best_found = found_by_search.best(cost, wire=wire, source=case.source, **facts)
        if best_found is not None:
            row |= {"found_by_search": best_found["found"], f"gain_of_search_{wire}": alone_s / best_found[cost]}
    return row


def measured_rows(cells: Cells, rows: Rows, args: argparse.Namespace, deadline: float) -> list[Row]:
    """The measured cases that are done, and, if asked for, the others until time is up."""
    from measured import measure

    found = []
    for network, count, link in MEASURED:
        if network not in args.networks:
            continue
        facts = {"network": network, "board": PI_4, "speed": "eager", "wire": "fp32", "devices": count, "link": link}
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
        row: Row = measure(imported(case["network"], args.out / "networks"), case, args.shaping, args.realtime)
    except Exception as error:
        print(f"{case}: {type(error).__name__}: {error}", flush=True)
        return {"reason": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
    return row | {"load_before": before, "load_after": os.getloadavg()[0]}


def best_gain(row: Row) -> float:
    """The gain of the best scheme in equal shares, or of the plan that the search finds, in fp32."""
    return max(row["gain"], row.get("gain_of_search_fp32", 0.0))


def record_published(record: Recorder, rows: Rows, found_by_search: Rows) -> None:
    """A measure for each published gain: with the kernels of eager PyTorch, and with those of ncnn."""
    table: list[Row] = []
    for speed, suffix in SPEEDS_COMPARED.items():
        found = [row for case in PUBLISHED if (row := published_row(rows, found_by_search, case, speed)) is not None]
        for row in found:
            gains = [*(row[f"gain_{link}"] for link in LINKS), best_gain(row)]
            goal = None if row["published"] is None else f">= {row['published']}"
            name = f"speedup_{row['source']}{suffix}"
            record.measure(name, best_gain(row), "", min(gains), max(gains), len(LINKS), goal)
        known = [row for row in found if row["published"] is not None]
        ahead = sum(best_gain(row) >= row["published"] for row in known)
        record.measure(f"speedups_ahead_of_published{suffix}", ahead, n=len(known), goal=f">= {len(known)}")
        table += found
    record.table("published", table)


def record_speeds(record: Recorder, rows: Rows) -> None:
    cases = [(network, count, link) for network in NETWORKS for count in COUNTS if count > 1 for link in LINKS]
    for speed in SPEEDS:
        found = [row for case in cases if (row := speed_row(rows, *case, speed)) is not None]
        name = speed.replace("-", "_")
        record.table(f"speeds_{name}", found)
        if found:
            record.measure(f"cases_faster_than_one_board_{name}", sum(row["gain"] > 1 for row in found), n=len(found))
    over = [row for case in cases if (row := speed_row(rows, *case, "1-thread")) is not None]
    wins = sum(row["gain_over_4_threads_of_one"] > 1 for row in over)
    record.measure("cases_of_one_thread_faster_than_four_threads_of_one_board", wins, n=len(over))
    record.table("schemes_4_boards_100mbit", [
        {name: row[name] for name in ("network", "scheme", "latency_s", "payload_bytes", "peak_memory_bytes")}
        for network in NETWORKS
        for row in rows.of(network, 4, link="100mbit", board=TABLE_BOARD, speed="1-thread", wire="fp32")
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
    parser.add_argument("--realtime", action="store_true", help="boards come before others that compute here (root)")
    parser.add_argument("--shaping", choices=("auto", "process", "netns"), default="auto")
    return parser.parse_args()


def main() -> None:
    args = arguments()
    deadline = time.monotonic() + args.stop_after_s
    graphs = {name: load_graph(imported(name, args.out / "networks")) for name in NETWORKS if name in args.networks}
    with Recorder(HERE / "result.json", root=HERE) as record:
        rows = Rows(predicted_rows(Cells(args.out / "predicted.jsonl"), graphs, args.limit_s, deadline))
        searched = list(searched_rows(Cells(args.out / "searched.jsonl"), graphs))
        record_published(record, rows, Rows(searched))
        record_speeds(record, rows)
        record_measured(record, measured_rows(Cells(args.out / "measured.jsonl"), rows, args, deadline))
    for measure in record.measures.values():
        print(f"{measure.name}: {measure.value:.4g} {measure.unit}")


if __name__ == "__main__":
    main()
