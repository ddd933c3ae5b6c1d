"""A network with real weights over two to six worker processes: does each split give the whole network's classes?"""

from __future__ import annotations

import argparse
import importlib
import io
import itertools
import json
import tarfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from sepnas import api
from sepnas.deploy.graph_export import graph_facts
from sepnas.deployment.network_facts import ImageInput
from sepnas.errors import PlanError
from sepnas.importing.weights import read_weights
from sepnas.local.processes import Launch, LocalWorkers
from sepnas.nets.graph import load_graph_network
from sepnas.partition.graph import Graph, load_graph
from sepnas.partition.schemes.registry import SCHEMES
from sepnas.plan.plan import Plan
from sepnas.results.recorder import Recorder
from sepnas.runtime.client.images import normalise, read_image
from sepnas.runtime.client.session import Session
from sepnas.train.vision import import_timm

HERE = Path(__file__).resolve().parent
NAME = "tf_efficientnet_lite0"
MEAN, STD = (127 / 255,) * 3, (128 / 255,) * 3
"""What the weights were trained with: (x - 127) / 128."""
DEVICES = (2, 3, 4, 5, 6)
ENGINE = "onnxruntime"
Row = dict[str, Any]


@dataclass(frozen=True)
class Pictures:
    """Image files, and the class of each among ImageNet's 1,000."""

    names: tuple[str, ...]
    files: tuple[bytes, ...]
    classes: np.ndarray

    @classmethod
    def load(cls, path: Path) -> Pictures:
        """The files of a tar archive; the folder of each is the number of its class."""
        with tarfile.open(path) as archive:
            found = {each.name: archive.extractfile(each).read() for each in archive if each.isfile()}  # type: ignore[union-attr]
        names = tuple(sorted(found))
        classes = np.array([int(Path(name).parent.name) for name in names])
        return cls(names, tuple(found[name] for name in names), classes)

    def prepared(self, image: ImageInput) -> np.ndarray:
        """The images as sepnas prepares them for a network, (images, 3, height, width) uint8."""
        return np.stack([read_image(io.BytesIO(f), n, image) for n, f in zip(self.names, self.files, strict=True)])


def import_whole(folder: Path, weights: Path) -> Graph:
    api.import_network(
        f"timm:{NAME}", folder, weights=weights, match="order", traits={"mean": MEAN, "std": STD}, force=True
    )
    return load_graph(folder)


@torch.no_grad()
def scores_of_whole(folder: Path, images: np.ndarray, image: ImageInput) -> np.ndarray:
    network = load_graph_network(folder)
    return np.concatenate([network(torch.from_numpy(normalise(x[None], image))).numpy() for x in images])


@torch.no_grad()
def by_timm(weights: Path, pictures: Pictures) -> tuple[np.ndarray, np.ndarray]:
    """Pixels and scores by timm's own transform and network."""
    import_timm("data")
    timm: Any = importlib.import_module("timm")
    model = timm.create_model(NAME).eval()
    names = [name for name in model.state_dict() if not name.endswith("num_batches_tracked")]
    tensors = [x for name, x in read_weights(weights).items() if not name.endswith("num_batches_tracked")]
    model.load_state_dict(dict(zip(names, tensors, strict=True)), strict=False)
    config = timm.data.resolve_model_data_config(model) | {"mean": MEAN, "std": STD}
    opened = [Image.open(io.BytesIO(file)).convert("RGB") for file in pictures.files]
    plain = timm.data.create_transform(**config, normalize=False)
    whole = timm.data.create_transform(**config)
    pixels = np.stack([plain(each).numpy() for each in opened])
    return pixels, np.concatenate([model(whole(each)[None]).numpy() for each in opened])


def by_workers(plan: Plan, folder: Path, deployment: Path, images: np.ndarray) -> tuple[np.ndarray, Row]:
    """Scores of real worker processes, one image a request, with what was counted on the sockets."""
    begun = time.monotonic()
    api.export(folder, deployment, plan=plan, engines=(ENGINE,), force=True)
    exported_s = time.monotonic() - begun
    launches = [Launch(options=("--engine", ENGINE, "--threads", "1"))] * plan.num_devices
    scores, took_s = [], []
    with (
        LocalWorkers(deployment, plan.num_devices, launches) as workers,
        Session(deployment, workers.hosts, timeout_s=120) as session,
    ):
        for image in images:
            begun = time.monotonic()
            scores.append(session.infer(image[None]))
            took_s.append(time.monotonic() - begun)
        counters = session.counters()
    predicted = (plan.payload_bytes(), plan.input_bytes(), plan.total_bytes())
    counted = (counters.payload_bytes, counters.input_bytes, counters.total_bytes)
    return np.concatenate(scores), {
        "payload_bytes": predicted[0], "input_bytes": predicted[1],
        "bytes_counted_minus_predicted": sum(abs(a - b * len(images)) for a, b in zip(counted, predicted, strict=True)),
        "segments": plan.num_segments(), "export_s": round(exported_s, 1), "median_ms": 1e3 * float(np.median(took_s)),
    }  # fmt: skip


def cell(scheme: str, devices: int, work: Path, images: np.ndarray, whole: np.ndarray) -> Row:
    """One scheme over one number of equal devices."""
    row: Row = {"scheme": scheme, "devices": devices}
    try:
        plan = api.partition(work / "network", scheme, devices)
    except PlanError as error:
        return {**row, "refused": str(error)}
    scores, counted = by_workers(plan, work / "network", work / "deployment", images)
    same = scores.argmax(1) == whole.argmax(1)
    error = np.abs(scores - whole).max(1) / np.abs(whole).max(1)
    return {**row, "same_classes": int(same.sum()), "worst_relative_error": float(error.max()), **counted}


def kept_rows(path: Path) -> dict[tuple[str, int], Row]:
    """The cells that were measured before."""
    lines = path.read_text().splitlines() if path.exists() else []
    return {(row["scheme"], row["devices"]): row for row in map(json.loads, lines)}


def cells(args: argparse.Namespace, images: np.ndarray, whole: np.ndarray) -> Iterator[Row]:
    """All cells; those that stand in the file are not measured again, and none is begun late."""
    path, started = HERE / "cells.jsonl", time.monotonic()
    done = kept_rows(path)
    for devices, scheme in itertools.product(args.devices, args.schemes):
        late = args.stop_after_s is not None and time.monotonic() - started > args.stop_after_s
        if (scheme, devices) not in done and not late:
            row = done[scheme, devices] = cell(scheme, devices, args.work, images, whole)
            with path.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(row, flush=True)
        yield done.get((scheme, devices), {"scheme": scheme, "devices": devices, "left": True})


def record(result: Recorder, rows: list[Row], count: int) -> None:
    run = [row for row in rows if "same_classes" in row]
    asked, same = count * len(run), sum(row["same_classes"] for row in run)
    result.measure("same_class_fraction", same / asked, n=asked, goal="== 1")
    worst = max(row["worst_relative_error"] for row in run)
    result.measure("exactness_worst_relative_error", worst, n=len(run), goal="<= 0.0001")
    bytes_off = sum(row["bytes_counted_minus_predicted"] for row in run)
    result.measure("bytes_counted_minus_predicted", bytes_off, "B", n=len(run), goal="== 0")
    result.measure("splits_not_measured", sum("left" in row for row in rows), n=len(rows), goal="== 0")
    result.table("splits", run)
    result.table("refused", [row for row in rows if "refused" in row])
    result.table("not_measured", [{k: row[k] for k in ("scheme", "devices")} for row in rows if "left" in row])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path, required=True, help="efficientnet-lite0-57934424.pth of the package")
    parser.add_argument("--images", type=Path, default=HERE.parents[1].parent / "shared/data/imagenette-200.tar")
    parser.add_argument("--work", type=Path, default=Path("runs/partition-pretrained"))
    parser.add_argument("--devices", type=lambda text: tuple(map(int, text.split(","))), default=DEVICES)
    parser.add_argument("--schemes", type=lambda text: tuple(text.split(",")), default=tuple(SCHEMES))
    parser.add_argument("--stop-after-s", type=float, help="begin no split later; run again to go on")
    parser.add_argument("--out", type=Path, default=HERE / "result.json")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    with Recorder(args.out, root=HERE) as result:
        pictures = Pictures.load(args.images)
        image = graph_facts(import_whole(args.work / "network", args.weights)).image
        assert image is not None
        images = pictures.prepared(image)
        whole = scores_of_whole(args.work / "network", images, image)
        pixels, theirs = by_timm(args.weights, pictures)
        count = len(images)
        result.measure("pixel_levels_off_timm", int(np.abs(images.astype(int) - pixels).max()), n=count, goal="<= 1")
        result.measure(
            "same_class_as_timm_fraction", float((whole.argmax(1) == theirs.argmax(1)).mean()), n=count, goal="== 1"
        )
        for name, scores in (("top1_whole", whole), ("top1_timm", theirs)):
            result.measure(name, float((scores.argmax(1) == pictures.classes).mean()), n=count)
        record(result, list(cells(args, images, whole)), count)


if __name__ == "__main__":
    main()
