"""Rivals on one board: the same network, fine-tuned alike on smaller images. How accurate is one board in less time?"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from run import BOARD, HERE, LINKS, Experiment, cluster_of, run_main

from sepnas import api
from sepnas.assign.assign import assign
from sepnas.partition.graph import load_graph
from sepnas.results.recorder import Recorder
from sepnas.train.source import DataSource


class Rival(Experiment):
    """The experiment's network at another image size."""

    def __init__(self, side: int, settings: Path, out: Path, weights: Path, threads: int | None) -> None:
        super().__init__(settings, out, weights, threads)
        self.settings["image_size"] = self.side = side
        self.source = DataSource(self.settings["data"], image_size=side)

    def reference_name(self, seed: int) -> str:
        return f"rival-{self.side}-pixels-{self.settings['reference_epochs']}-epochs-seed-{seed}"

    def rows(self) -> list[dict[str, Any]]:
        seed = self.settings["seeds"][0]
        graph, found = load_graph(self.reference(seed)), self.found(self.reference_name(seed)) or {}
        rows = []
        for link in LINKS:
            one = cluster_of(1, link)
            simulated = api.simulate(assign(graph, one).chosen.plan, one)
            rows.append(
                {
                    "image_size": self.side, "board": BOARD, "link": link,
                    "latency_ms": round(1e3 * simulated.latency_s, 1),
                    "memory_mb": round(max(simulated.simulation.peak_memory_bytes) / 1e6, 1),
                    "val": max(found["val_by_epoch"]), "test": found["test_accuracy"],
                }
            )  # fmt: skip
        return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--settings", type=Path, default=HERE / "settings.json")
    parser.add_argument("--sizes", type=int, nargs="+", default=[112, 96, 64], help="pixels a side")
    parser.add_argument("--weights", type=Path, default=Path("data/efficientnet-lite0-57934424.pth"))
    parser.add_argument("--threads", type=int, default=None)
    chosen = parser.parse_args()
    home = chosen.settings.resolve().parent
    out = Path("runs") / home.name
    rows = []
    for side in chosen.sizes:
        rows += Rival(side, chosen.settings, out / f"{side}-pixels", chosen.weights, chosen.threads).rows()
        print(rows[-2:], flush=True)
    with Recorder(home / "rivals.json", seeds=(0,), root=HERE) as record:
        record.table("rivals", rows)


if __name__ == "__main__":
    run_main(main)
