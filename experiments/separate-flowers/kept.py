"""A fine-tuned network as a small file: its differences from the network that it was made of, in eight bits.

The file is a checkpoint, compressed (xz). A tensor of two or more dimensions is rounded by the channels of its first
axis: ``level/NAME`` (int8) and ``scale/NAME`` (per channel). A tensor that the other network has not, or in another
shape, such as a new head, differs from zeros. All other tensors are kept as they are.
"""

from __future__ import annotations

import lzma
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sepnas.errors import CheckpointError
from sepnas.nets.graph import load_graph_network
from sepnas.partition.graph import GRAPH_NAME, WEIGHTS_NAME
from sepnas.spec.document import write_text
from sepnas.spec.files import read_regular, why
from sepnas.spec.writing import write_bytes
from sepnas.train.checkpoint import DATA, read_checkpoint, tensors_sha256, write_checkpoint

SUFFIX = ".safetensors.xz"
VERSION = 1
LARGEST = 127
"""The largest level of a rounded difference."""
LEVEL, SCALE = "level/", "scale/"
MAX_BYTES = 1 << 30
"""Of a file, and of what it holds."""
Weights = Mapping[str, Tensor]


def keep(run: Path, start: Path, file: Path, seed: int) -> None:
    """Write the network of a run into ``file``, as differences from that of the folder ``start``.

    Raises :class:`SpecError` for a folder that holds no network, :class:`StorageError`.
    """
    trained = load_graph_network(run).weights_by_name
    first = _first(start, {name: x.shape for name, x in trained.items() if _is_rounded(x)})
    kept = _rounded(trained, first)
    about = {
        "kept": VERSION, "seed": seed,
        "start": tensors_sha256(first), "weights": tensors_sha256(_restored(kept, first)),
        "documents": {name: (run / name).read_text(encoding="utf-8") for name in (GRAPH_NAME, DATA)},
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder, "kept.safetensors")
        write_checkpoint(plain, kept, about)
        write_bytes(file, lzma.compress(plain.read_bytes(), preset=9))


def make(file: Path, start: Path, run: Path) -> None:
    """Write the network of ``file`` into the folder of a run, in place of its own.

    Raises :class:`CheckpointError` for a file that is damaged, or differs from another network than ``start``.
    """
    kept, about = _read(file)
    first = _first(start, {name.removeprefix(LEVEL): x.shape for name, x in kept.items() if name.startswith(LEVEL)})
    found = tensors_sha256(first)
    if found != about["start"]:
        raise CheckpointError(
            f"{file}: holds differences from the weights of digest {about['start'][:16]}, but those of {start} have "
            f"{found[:16]}; import the network that it was fine-tuned from"
        )
    weights = _restored(kept, first)
    if tensors_sha256(weights) != about["weights"]:
        raise CheckpointError(f"{file}: gives other weights here than those that were kept")
    for name in (GRAPH_NAME, DATA):
        write_text(run / name, about["documents"][name])
    write_checkpoint(run / WEIGHTS_NAME, weights, {"kept": file.name})


def is_made(file: Path, run: Path) -> bool:
    """Whether the run has weights; raises :class:`CheckpointError` if they are not those of ``file``."""
    if not (run / WEIGHTS_NAME).is_file():
        return False
    weights, _ = read_checkpoint(run / WEIGHTS_NAME)
    if tensors_sha256(weights) != _read(file)[1]["weights"]:
        raise CheckpointError(f"{run / WEIGHTS_NAME}: are not the weights that {file} holds; move one of them away")
    return True


def _first(start: Path, shapes: Mapping[str, torch.Size]) -> dict[str, Tensor]:
    """The tensors of ``start`` that others of these names and shapes differ from."""
    known = load_graph_network(start).weights_by_name
    return {name: known[name] for name, shape in shapes.items() if name in known and known[name].shape == shape}


def _is_rounded(x: Tensor) -> bool:
    return x.dim() > 1 and x.is_floating_point()


def _rounded(weights: Weights, first: Weights) -> dict[str, Tensor]:
    kept = {}
    for name, x in weights.items():
        if not _is_rounded(x):
            kept[name] = x
            continue
        difference = x - first.get(name, torch.zeros_like(x))
        scale = difference.flatten(1).abs().amax(1) / LARGEST
        shaped = _along_first(scale, x).clamp(min=torch.finfo(x.dtype).tiny)
        kept[LEVEL + name] = (difference / shaped).round().clamp(-LARGEST, LARGEST).to(torch.int8)
        kept[SCALE + name] = scale
    return kept


def _restored(kept: Weights, first: Weights) -> dict[str, Tensor]:
    weights = {}
    for name, x in kept.items():
        if name.startswith(LEVEL):
            own = name.removeprefix(LEVEL)
            scale = kept[SCALE + own]
            difference = x.to(scale.dtype) * _along_first(scale, x)
            weights[own] = first[own] + difference if own in first else difference
        elif not name.startswith(SCALE):
            weights[name] = x
    return weights


def _along_first(scale: Tensor, x: Tensor) -> Tensor:
    return scale.reshape(-1, *[1] * (x.dim() - 1))


def _read(file: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of a file, and what is said of them."""
    try:
        content = lzma.LZMADecompressor()
        data = content.decompress(read_regular(file, MAX_BYTES), MAX_BYTES)
        if not content.eof:
            raise EOFError(f"it is cut off, or holds more than {MAX_BYTES:,} bytes")
        with tempfile.TemporaryDirectory() as folder:
            plain = Path(folder, "kept.safetensors")
            plain.write_bytes(data)
            kept, about = read_checkpoint(plain)
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read: {why(error, file)}") from None
    except (lzma.LZMAError, EOFError) as error:
        raise CheckpointError(f"{file}: damaged, or no file of xz: {error}") from None
    except CheckpointError:  # names a file that is gone
        raise CheckpointError(f"{file}: damaged, or no checkpoint of sepnas") from None
    if about.get("kept") != VERSION:
        raise CheckpointError(f"{file}: `kept` must be {VERSION}, got {about.get('kept')}; it holds no kept network")
    return kept, about
