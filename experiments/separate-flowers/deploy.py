"""The separated networks in worker processes: do they answer as in training, with the bytes that were predicted?"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from run import HERE, Cell, Experiment, experiment_of, parser_of, run_main

from sepnas import api
from sepnas.local.processes import LocalWorkers
from sepnas.nets.trainable import load_trainable
from sepnas.plan.document import load_plan
from sepnas.results.recorder import Recorder
from sepnas.runtime.client.session import Session
from sepnas.separation.document import PLAN_NAME

Row = dict[str, Any]


def row_of(experiment: Experiment, cell: Cell, engine: str, count: int) -> Row:
    """Test images, spread evenly, one a request, over as many processes as devices."""
    folder, deployment = experiment.out / cell.name, experiment.out / "deployment"
    plan, test = load_plan(folder / PLAN_NAME), experiment.images.test
    places = torch.linspace(0, len(test.images) - 1, count).long()
    images, classes = test.images[places], test.labels[places].numpy()
    with torch.no_grad():
        wanted = load_trainable(folder)(experiment.images.normalise(images)).numpy()
    begun = time.monotonic()
    api.export(folder, deployment, plan=plan, engines=(engine,), force=True)
    exported_s = time.monotonic() - begun
    with (
        LocalWorkers(deployment, plan.num_devices) as workers,
        Session(deployment, workers.hosts, timeout_s=120) as session,
    ):
        found = np.concatenate([session.infer(image[None].numpy()) for image in images])
        counters = session.counters()
    return {
        "network": cell.name, "engine": engine, "images": count,
        "same_classes": int((found.argmax(1) == wanted.argmax(1)).sum()),
        "top1": float((found.argmax(1) == classes).mean()),
        "top1_in_training": float((wanted.argmax(1) == classes).mean()),
        "worst_relative_error": float((np.abs(found - wanted).max(1) / np.abs(wanted).max(1)).max()),
        "median_relative_error": float(np.median(np.abs(found - wanted).max(1) / np.abs(wanted).max(1))),
        "bytes_counted_minus_predicted": counters.payload_bytes - count * plan.payload_bytes(),
        "export_s": round(exported_s, 1),
    }  # fmt: skip


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--images", type=int, default=50)
    parser.add_argument(
        "--cell", action="append", help="its name in found/, repeated for several [all whose run is there]"
    )
    chosen = parser.parse_args()
    experiment = experiment_of(chosen)
    with Recorder(experiment.home / "deployed.json", root=HERE) as record:
        rows = []
        for cell in experiment.cells():
            wanted = chosen.cell is None or cell.name in chosen.cell
            if wanted and experiment.found_cell(cell) and (experiment.out / cell.name / PLAN_NAME).is_file():
                for engine in ("torch", "onnxruntime"):
                    rows.append(row_of(experiment, cell, engine, chosen.images))
                    print(rows[-1], flush=True)
        asked, same = chosen.images * len(rows), sum(row["same_classes"] for row in rows)
        record.measure("same_class_fraction", same / asked, n=asked)
        off = sum(abs(row["bytes_counted_minus_predicted"]) for row in rows)
        record.measure("bytes_counted_minus_predicted", off, "B", n=len(rows), goal="== 0")
        record.table("deployed", rows)


if __name__ == "__main__":
    run_main(main)
