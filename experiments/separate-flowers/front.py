"""The front that a search finds on the reference's weights, over two, four and six boards: no candidate is trained."""

from __future__ import annotations

from typing import Any

from run import HERE, LINKS, cluster_of, experiment_of, parser_of, run_main

from sepnas import api
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
    parser = parser_of(__doc__)
    parser.add_argument("--devices", type=int, nargs="+", default=[2, 4, 6])
    parser.add_argument("--candidates", type=int, default=40)
    chosen = parser.parse_args()
    experiment = experiment_of(chosen)
    reference, rows = experiment.reference(experiment.settings["seeds"][0]), list[Row]()
    with Recorder(experiment.home / "front.json", root=HERE) as record:
        for devices in chosen.devices:
            found = api.explore(
                reference, experiment.out / f"front-{devices}-devices", experiment.source,
                cluster=cluster_of(devices, LINKS[0]), candidates=chosen.candidates, resume=True,
                threads=chosen.threads,
            )  # fmt: skip
            rows += [row_of(devices, each, each == found.knee) for each in found.front.candidates]
            record.measure(f"front_size_{devices}_devices", len(found.front.candidates), n=found.front.evaluated)
            record.measure(f"seconds_{devices}_devices", found.front.seconds, "s")
            record.measure(f"original_val_accuracy_{devices}_devices", found.front.original_accuracy)
        record.table("front", rows)
    for row in rows:
        print(row)


if __name__ == "__main__":
    run_main(main)
