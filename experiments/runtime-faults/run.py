"""What becomes of requests when devices, links and bytes fail, and when strangers knock: each many times."""

from __future__ import annotations

import argparse
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from asking import Case
from cables import cable_faults
from devices import Devices
from middle import middle_faults
from network import Deployed
from processes import frozen, killed_and_restarted, killed_strict, slow_clients, strangers

from sepnas.results.recorder import Recorder

HERE = Path(__file__).resolve().parent


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=52, help="of each case; the devices take turns")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def main() -> None:
    chosen = arguments()
    torch.set_num_threads(1)
    with (
        Recorder(HERE / "result.json", seeds=[chosen.seed], root=HERE) as record,
        tempfile.TemporaryDirectory(prefix="sepnas-faults-") as name,
    ):
        deployed, other = (
            Deployed(Path(name) / "deployment", chosen.seed),
            Deployed(Path(name) / "other", chosen.seed + 1),
        )
        cases: list[Case] = []
        for case in all_cases(deployed, other, chosen.times, random.Random(chosen.seed)):
            print(case.row(), flush=True)
            cases.append(case)
        measure(record, cases)


def all_cases(deployed: Deployed, other: Deployed, times: int, draw: random.Random) -> Iterator[Case]:
    with Devices(deployed.folder, deployed.num_devices) as devices:
        yield from killed_and_restarted(devices, deployed, times, draw)
        yield from killed_strict(devices, deployed, times, draw)
        yield from frozen(devices, deployed, times, draw)
        yield from middle_faults(devices, deployed, times, draw)
        yield from strangers(devices, deployed, times, other)
        yield from slow_clients(devices, deployed, times)
    yield from cable_faults(deployed, times, draw)


def measure(record: Recorder, cases: list[Case]) -> None:
    record.table("faults", [case.row() for case in cases])
    record.measure(
        "faults_hung", sum(case.hung for case in cases), "", n=sum(case.times for case in cases), goal="<= 0"
    )
    record.measure(
        "faults_wrong", sum(case.wrong for case in cases), "", n=sum(case.times for case in cases), goal="<= 0"
    )
    for name, key, of, goal in (
        ("killed_detected_p99_s", "detected_s", "killed", "<= 0.05"),
        ("frozen_detected_p99_s_after_deadline", "after_deadline_s", "frozen", "<= 0.01"),
        ("rejoin_p99_s", "rejoin_s", "killed", "<= 2"),
    ):
        values = [value for case in cases if case.name.startswith(of) for value in getattr(case, key)]
        record.measure(name, float(np.quantile(values, 0.99)), "s", min(values), max(values), len(values), goal)


if __name__ == "__main__":
    main()
