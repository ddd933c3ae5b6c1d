"""Checkpoints: safetensors files with the architecture beside them. Nothing is pickled.

``last.safetensors`` holds the network's tensors under their own names, optimizer state under names such as
``momentum_buffer/NAME``, the weight average under ``ema/NAME``, the losses of an unfinished epoch under
``epoch/losses``, and, as JSON in its header, all other state needed to resume. ``best.safetensors`` holds the
network's tensors (or their average, if there is one) from the epoch of highest validation accuracy. Each header
contains a digest of the tensors.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from sepnas.errors import CheckpointError, SpecError
from sepnas.nets.separable import SeparableNetwork
from sepnas.separable.architecture import Architecture
from sepnas.spec.document import replacing
from sepnas.spec.files import exists, name_of, open_regular, why
from sepnas.spec.reading import parse_json
from sepnas.train.seeds import check_seed

FORMAT, VERSION = "sepnas.checkpoint", 2
LAST, BEST, ARCHITECTURE, DATA = "last.safetensors", "best.safetensors", "architecture.json", "data.json"


def new_network(architecture: Architecture, seed: int = 0) -> SeparableNetwork:
    """A network with initial weights that depend only on ``seed``; torch's global generator is unchanged.

    Raises :class:`TrainingError` unless the seed is in 0..2**32-1.
    """
    check_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return SeparableNetwork(architecture)


def load_network(path: str | os.PathLike[str]) -> SeparableNetwork:
    """The trained network of a run's folder (best epoch) or of one checkpoint file, on the CPU, in eval mode.

    Raises :class:`CheckpointError` if a file is missing or damaged, or does not hold this architecture's weights.
    """
    path = Path(path)
    file = path / BEST if _is_folder(path) else path
    try:
        architecture = Architecture.load(file.parent / ARCHITECTURE)
    except SpecError as error:
        raise CheckpointError(f"{error}; a trained network has its architecture beside its weights") from None
    network = SeparableNetwork(architecture)
    tensors, _ = read_checkpoint(file)
    restore_network(network, tensors, file)
    return network.eval()


def is_there(path: Path) -> bool:
    """Whether the checkpoint exists; raises :class:`CheckpointError` if this cannot be determined."""
    try:
        return exists(path)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {why(error, path)}") from None


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {why(error, path)}") from None


def write_checkpoint(path: Path, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
    """Write a temporary file next to ``path``, flush it to disk, rename it; raises :class:`StorageError`."""
    plain = {name: x.detach().cpu().clone(memory_format=torch.contiguous_format) for name, x in tensors.items()}
    head = {"format": FORMAT, "version": str(VERSION), "sha256": tensors_sha256(plain), "run": json.dumps(meta)}
    data = save(plain, head)
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors (on the CPU) and the JSON of the header; raises :class:`CheckpointError`."""
    try:
        with open_regular(path) as opened, safe_open(name_of(opened, path), framework="pt") as file:
            head = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        _check_head(path, head)
        meta = parse_json(head["run"])
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such checkpoint") from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {why(error, path)}") from None
    except (SafetensorError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path}: damaged, or no checkpoint of sepnas: {error}; {_ADVICE}") from None
    if tensors_sha256(tensors) != head.get("sha256"):
        raise CheckpointError(f"{path}: damaged: its tensors are not those that were written; {_ADVICE}")
    return tensors, meta


_ADVICE = "train again in another folder, or remove it to start afresh"


def _check_head(path: Path, head: Mapping[str, str]) -> None:
    if head.get("format") != FORMAT:
        raise ValueError(f"its header does not say format '{FORMAT}'")
    if int(head["version"]) > VERSION:
        raise CheckpointError(
            f"{path}: this sepnas reads {FORMAT} up to version {VERSION}, got {head['version']}; "
            "update sepnas to read it"
        )


def tensors_sha256(tensors: Mapping[str, Tensor]) -> str:
    """A digest of names, types, shapes and values, independent of order; tensors must be on the CPU."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        x = tensors[name]
        digest.update(f"{name} {x.dtype} {tuple(x.shape)}\n".encode())
        digest.update(x.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def text_sha256(text: str) -> str:
    """A digest of a document's text."""
    return hashlib.sha256(text.encode()).hexdigest()


def restore_network(network: nn.Module, tensors: Mapping[str, Tensor], where: Path) -> None:
    """Load the network's tensors strictly; raises :class:`CheckpointError` that names the first mismatch.

    Other tensors of a checkpoint have a slash in their names and are ignored.
    """
    wanted = network.state_dict()
    found = {name: x for name, x in tensors.items() if "/" not in name or name in wanted}
    for name in sorted(set(wanted) ^ set(found)):
        has, lacks = ("network", "checkpoint") if name in wanted else ("checkpoint", "network")
        raise CheckpointError(
            f"{where}: belongs to another network: tensor {name!r} is in the {has}, not in the {lacks}"
        )
    for name, x in found.items():
        if x.shape != wanted[name].shape:
            raise CheckpointError(
                f"{where}: belongs to another network: tensor {name!r} has shape {tuple(x.shape)} in the checkpoint, "
                f"{tuple(wanted[name].shape)} in the network"
            )
    network.load_state_dict(found)


def epochs_of(run: Path) -> tuple[int, int]:
    """The number of epochs that a run has finished, and the number in its recipe; raises :class:`CheckpointError`."""
    _, meta = read_checkpoint(run / LAST)
    if "identity" not in meta:
        raise CheckpointError(f"{run / LAST}: holds weights only, no run")
    return len(meta["history"]), int(meta["identity"]["recipe"]["epochs"])


def check_identity(saved: Mapping[str, Any], wanted: Mapping[str, Any], where: Path) -> None:
    """Raise :class:`CheckpointError` with the first differences between the saved run and this one, if any."""
    found = list(differences(saved, json.loads(json.dumps(wanted))))
    if found:
        more = f" (and {len(found) - 3} more)" if len(found) > 3 else ""
        raise CheckpointError(
            f"{where}: belongs to another run: {'; '.join(found[:3])}{more}; resume with the same values, choose "
            f"another folder, or remove {where.parent} to start again"
        )


def differences(saved: Any, wanted: Any, place: str = "") -> Iterator[str]:
    """A description of each differing leaf of two JSON values."""
    if isinstance(saved, dict) and isinstance(wanted, dict):
        for key in sorted(set(saved) | set(wanted)):
            yield from differences(saved.get(key), wanted.get(key), f"{place}.{key}" if place else key)
    elif isinstance(saved, list) and isinstance(wanted, list) and len(saved) == len(wanted):
        for index, (a, b) in enumerate(zip(saved, wanted, strict=True)):
            yield from differences(a, b, f"{place}.{index}")
    elif saved != wanted:
        yield f"`{place}` is {_short(saved)} there, {_short(wanted)} here"


def _short(value: Any) -> str:
    text = f"a list of {len(value)}" if isinstance(value, list) and len(value) > 4 else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
