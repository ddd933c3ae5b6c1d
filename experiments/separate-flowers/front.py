"""The front that a search finds on the reference's weights, over two, four and six boards: no candidate is trained."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from run import HERE, LINKS, Experiment, cluster_of

from sepnas import api
from sepnas.errors import SepnasError
from sepnas.exploration.candidate import SeparationCandidate
from sepnas.objectives import ACCURACY
from sepnas.results.recorder import Recorder

Row = dict[str, Any]


def row_of(devices: int, found: SeparationCandidate, is_knee: bool) -> Row:
    return {
        "devices": devices, "knobs": " ".join(found.knobs.options()), "knee": is_knee,
        "val_accuracy": found.objectives[ACCURACY.name], **found.costs,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--settings", type=Path, default=HERE / "settings.json")
    parser.add_argument("--weights", type=Path, default=Path("data/efficientnet-lite0-57934424.pth"))
    parser.add_argument("--out", type=Path, default=None, help="the runs [runs/NAME of the settings' folder]")
    parser.add_argument("--devices", type=int, nargs="+", default=[2, 4, 6])
    parser.add_argument("--candidates", type=int, default=40)
    parser.add_argument("--threads", type=int, default=None)
    chosen = parser.parse_args()
    home = chosen.settings.resolve().parent
    out = chosen.out or Path("runs") / home.name
    experiment = Experiment(chosen.settings, out, chosen.weights, chosen.threads)
    reference, rows = experiment.reference(experiment.settings["seeds"][0]), list[Row]()
    with Recorder(home / "front.json", root=HERE) as record:
        for devices in chosen.devices:
            found = api.explore(
                reference, out / f"front-{devices}-devices", experiment.source, cluster=cluster_of(devices, LINKS[0]),
                candidates=chosen.candidates, resume=True, threads=chosen.threads,
            )  # fmt: skip
            rows += [row_of(devices, each, each == found.knee) for each in found.front.candidates]
            record.measure(f"front_size_{devices}_devices", len(found.front.candidates), n=found.front.evaluated)
            record.measure(f"seconds_{devices}_devices", found.front.seconds, "s")
            record.measure(f"original_val_accuracy_{devices}_devices", found.front.original_accuracy)
        record.table("front", rows)
    for row in rows:
        print(row)


if __name__ == "__main__":
    try:
        main()
    except SepnasError as error:
        raise SystemExit(f"error: {error}") from None
