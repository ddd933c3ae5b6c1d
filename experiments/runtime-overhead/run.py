"""What does the runtime cost beyond computing and the wire: for a message on loopback, and for a whole request?"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from statistics import fmean, median

import latency
import messages
from before import compare

from sepnas.deployment.verify import load_manifest
from sepnas.results.recorder import Recorder

HERE = Path(__file__).resolve().parent
ROUNDS = 7
PAUSE_S = 2e-4


def measure_messages(record: Recorder, rounds: int) -> None:
    """Bare sockets and workers take turns: a machine that slows down slows both."""
    rows = []
    with tempfile.TemporaryDirectory(prefix="sepnas-overhead-") as name:
        folder = Path(name) / "deployment"
        messages.write_deployment(folder)
        deployment_id = load_manifest(folder).deployment_id
        for number in range(rounds):
            row = {
                "round": number,
                "bare_tls_s": median(messages.bare_message_s(folder, deployment_id)),
                "bare_tls_after_computing_s": median(messages.bare_message_s(folder, deployment_id, PAUSE_S)),
                "worker_s": median(messages.worker_message_s(folder)),
            }
            print({key: f"{1e6 * value:.1f} us" for key, value in row.items() if key != "round"}, flush=True)
            rows.append(row)
    record.table("messages", rows)
    for name, of, goal in (
        ("message_overhead_us_over_bare_tls", "bare_tls_s", "<= 60"),
        ("message_overhead_us_over_bare_tls_after_computing", "bare_tls_after_computing_s", None),
    ):
        found = [1e6 * (row["worker_s"] - row[of]) for row in rows]
        record.measure(name, median(found), "us", min(found), max(found), len(found), goal)


def measure_latency(record: Recorder) -> None:
    rows = [latency.measure(policy, architecture) for policy, architecture in latency.networks().items()]
    for row in rows:
        print(row, flush=True)
    record.table("latency", [row | {"measured_s": median(row["measured_s"])} for row in rows])
    ratios = [measured_s / row["floor_s"] for row in rows[:1] for measured_s in row["measured_s"]]
    record.measure("overhead_over_floor", fmean(ratios), "", min(ratios), max(ratios), len(ratios), "<= 1.1")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--before", metavar="COMMIT", help="compare with this commit instead, in result-before.json")
    chosen = parser.parse_args()
    if chosen.before:
        with Recorder(HERE / "result-before.json", root=HERE) as record:
            compare(record, chosen.before, chosen.rounds)
        return
    with Recorder(HERE / "result.json", root=HERE) as record:
        measure_messages(record, chosen.rounds)
        measure_latency(record)


if __name__ == "__main__":
    main()
