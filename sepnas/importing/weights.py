"""Weights of a network from a file: safetensors, or a checkpoint of torch with tensors only. Nothing is unpickled."""

from __future__ import annotations

import pickle
import re
import warnings
from collections.abc import Mapping
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from sepnas.errors import ImportFailedError
from sepnas.options import option
from sepnas.spec.document import few
from sepnas.spec.files import name_of, open_regular, why

MAX_CHECKPOINT_BYTES = 16 << 30
MATCHES = ("name", "order")
"""How a file's tensors find their places in a network."""
_NESTED = ("state_dict", "model_state_dict", "model", "module", "params", "net", "network")
"""Where training programs keep the weights within a checkpoint."""
_WRAPPED = "module."
"""The prefix of all names in a network that was trained by torch's DistributedDataParallel."""
_UNUSED = "num_batches_tracked"
"""Counters of batch norms, which only training reads."""


def take_weights(module: nn.Module, path: Path, source: str, match: str = "name") -> None:
    """Load a file's tensors into a module, matched by name, or by their order in the file.

    Raises :class:`ImportFailedError` with the tensors that are missing, left over or of another shape.
    """
    wanted = module.state_dict()
    found = {name: x for name, x in read_weights(path).items() if not name.endswith(_UNUSED)}
    kept = {name: x for name, x in wanted.items() if not name.endswith(_UNUSED)}
    if all(name.startswith(_WRAPPED) for name in found) and not all(name.startswith(_WRAPPED) for name in kept):
        found = {name.removeprefix(_WRAPPED): x for name, x in found.items()}
    if match == "order":
        _check_order(path, source, found, kept)
        found = dict(zip(kept, found.values(), strict=True))
    _check_fit(path, source, found, kept)
    module.load_state_dict({name: found.get(name, wanted[name]) for name in wanted})
    for name, parameter in module.named_parameters():  # buffers may hold infinity, as masks do
        if not bool(torch.isfinite(parameter).all()):
            raise ImportFailedError(f"{path}: '{name}' has numbers that are not finite (NaN or infinite)")


def _check_order(path: Path, source: str, found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    """Raise :class:`ImportFailedError` with the first place at which the order of the shapes differs."""
    for place, (own, theirs) in enumerate(zip_longest(wanted.items(), found.items()), start=1):
        if own is None or theirs is None or own[1].shape != theirs[1].shape:
            raise ImportFailedError(
                f"{path}: its tensors do not have the order of {source}: number {place} is {_told(theirs)}, where the "
                f"network has {_told(own)}"
            )


def _told(item: tuple[str, Tensor] | None) -> str:
    return "none" if item is None else f"'{item[0]}' of shape {tuple(item[1].shape)}"


def _fit_in_order(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> bool:
    return [x.shape for x in found.values()] == [x.shape for x in wanted.values()]


def _check_fit(path: Path, source: str, found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    problems = [
        *(f"'{name}' is missing" for name in wanted.keys() - found.keys()),
        *(f"'{name}' is left over" for name in found.keys() - wanted.keys()),
        *(
            f"'{name}' has shape {tuple(found[name].shape)} instead of {tuple(x.shape)}"
            for name, x in wanted.items()
            if name in found and found[name].shape != x.shape
        ),
        *(
            f"'{name}' has complex numbers instead of {x.dtype}"
            for name, x in wanted.items()
            if name in found and found[name].is_complex() > x.is_complex()
        ),
    ]
    if problems and not found.keys() & wanted.keys() and _fit_in_order(found, wanted):
        raise ImportFailedError(
            f"{path}: has none of the names of {source}, but all {len(found)} shapes in its order; if these are its "
            "weights, add " + option("--match order", "match='order'")
        )
    if problems:
        raise ImportFailedError(f"{path}: are the weights of another network than {source}: {few(sorted(problems), 4)}")


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file or of a torch checkpoint, by name."""
    try:
        with open_regular(path) as opened:
            if path.stat().st_size > MAX_CHECKPOINT_BYTES:
                raise ImportFailedError(f"{path}: has more than {MAX_CHECKPOINT_BYTES >> 30} GiB")
            if path.suffix == ".safetensors":
                return load_file(name_of(opened, path))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return _tensors_in(path, torch.load(opened, map_location="cpu", weights_only=True))
    except FileNotFoundError:
        raise ImportFailedError(f"{path}: no such file") from None
    except OSError as error:
        raise ImportFailedError(f"{path}: cannot be read: {why(error, path)}") from None
    except SafetensorError as error:
        raise ImportFailedError(f"{path}: no safetensors file, or a damaged one: {error}") from None
    except pickle.UnpicklingError as error:
        raise ImportFailedError(f"{path}: {_why_refused(str(error))}") from None
    except (RuntimeError, EOFError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        first = " ".join(str(error).split())[:200]
        raise ImportFailedError(f"{path}: no torch checkpoint, or a damaged one: {first}") from None


def _why_refused(text: str) -> str:
    named = re.search(r"GLOBAL ([\w.]+)|Unsupported (?:global|class)[: ]+(?:GLOBAL )?([\w.]+)", text)
    what = f" ('{named[1] or named[2]}')" if named else ""
    return (
        f"holds Python objects{what}, which would have to be unpickled; that can run any code, so it is refused. Save "
        "the tensors alone: torch.save(module.state_dict(), FILE), or a safetensors file"
    )


def _tensors_in(path: Path, loaded: Any) -> dict[str, Tensor]:
    for _ in range(3):
        if isinstance(loaded, Mapping) and not any(isinstance(each, Tensor) for each in loaded.values()):
            loaded = next((loaded[name] for name in _NESTED if name in loaded), loaded)
    if not isinstance(loaded, Mapping):
        raise ImportFailedError(f"{path}: holds {type(loaded).__name__}, not tensors by name")
    found = {str(name): x.detach() for name, x in loaded.items() if isinstance(x, Tensor)}
    for name, x in found.items():
        if x.is_nested or x.layout is not torch.strided or x.is_quantized or x.is_meta:
            raise ImportFailedError(
                f"{path}: '{name}' is a sparse, quantised, nested or empty tensor; save it as a plain one"
            )
    if not found:
        raise ImportFailedError(f"{path}: holds no tensors; it has {few(list(map(str, loaded))) or 'nothing'}")
    return found
