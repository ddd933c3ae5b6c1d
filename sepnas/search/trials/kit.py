"""The folder that a trial works from: everything that evaluation needs, independent of this machine.

``kit.json`` (space and settings), ``kit.safetensors`` (the supernet, calibration and validation images as uint8) and
a copy of this package, so that a remote machine runs the same code and needs no data set.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import ClassVar

import torch
from safetensors.torch import load_file, save_file

from sepnas.errors import StorageError
from sepnas.nets.supernet import Supernet
from sepnas.search.accuracy_evaluator import AccuracyEvaluator, calibration_data
from sepnas.separable.space import SearchSpace
from sepnas.spec.document import Document
from sepnas.train.images import ImageData, Split

KIT_FILE, TENSORS_FILE = "kit.json", "kit.safetensors"
WEIGHT = "weight."
PACKAGE = Path(__file__).parents[2]


class Kit(Document):
    """The evaluator's settings besides tensors. ``threads`` is torch's number; another one may change rounding."""

    format_name: ClassVar[str] = "sepnas.trial-kit"

    space: SearchSpace
    mean: tuple[float, ...]
    std: tuple[float, ...]
    device: str
    threads: int
    dropout: tuple[float, float] = (0.0, 0.0)


def write_kit(folder: Path, evaluator: AccuracyEvaluator, data: ImageData, seed: int) -> None:
    """Write the files for trials that evaluate exactly like ``evaluator``, which uses this data and seed.

    Raises :class:`StorageError` if the folder cannot be written.
    """
    network, device = evaluator.supernet, str(evaluator.labels_B.device)
    train, val = calibration_data(data, seed).train, data.val
    tensors = {WEIGHT + name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    tensors |= {"train.images": train.images, "train.labels": train.labels}
    tensors |= {"val.images": val.images, "val.labels": val.labels}
    threads = torch.get_num_threads()
    kit = Kit(
        space=network.space, mean=data.mean, std=data.std, device=device, threads=threads, dropout=evaluator.dropout
    )
    try:
        shutil.copytree(PACKAGE, folder / PACKAGE.name, ignore=shutil.ignore_patterns("__pycache__"))
        kit.save(folder / KIT_FILE)
        save_file({name: value.contiguous() for name, value in tensors.items()}, folder / TENSORS_FILE)
    except OSError as error:
        raise StorageError(f"{folder}: cannot be written: {error}") from error


def read_evaluator(folder: Path) -> AccuracyEvaluator:
    """The evaluator of a kit; sets torch's number of threads."""
    kit = Kit.load(folder / KIT_FILE)
    torch.set_num_threads(kit.threads)
    tensors = load_file(folder / TENSORS_FILE)
    network = Supernet(kit.space)
    network.load_state_dict({name[len(WEIGHT) :]: value for name, value in tensors.items() if name.startswith(WEIGHT)})
    train, val = (Split(tensors[f"{name}.images"], tensors[f"{name}.labels"]) for name in ("train", "val"))
    classes = tuple(str(number) for number in range(kit.space.network.num_classes))
    data = ImageData("kit", classes, train, val, val.take(torch.arange(0)), kit.mean, kit.std)
    return AccuracyEvaluator(network, data, None, torch.device(kit.device), dropout=kit.dropout)
