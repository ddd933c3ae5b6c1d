"""Finds the network that a text names: a library's, a module's, a file's, or one of sepnas."""

from __future__ import annotations

import re
from pathlib import Path

import torch

from sepnas.errors import ImportFailedError, SpecError
from sepnas.importing.exported import from_exported
from sepnas.importing.found import FoundNetwork
from sepnas.importing.libraries import from_timm, from_torchvision
from sepnas.importing.onnx_file import from_onnx
from sepnas.importing.own import from_architecture, from_factory, from_run
from sepnas.separable.backbones.registry import BACKBONES
from sepnas.spec.document import FILE_SUFFIXES
from sepnas.spec.recognise import recognise

RANDOM, PRETRAINED = "random", "pretrained"
FORMS = "timm:NAME, torchvision:NAME, MODULE:FACTORY, a .pt2 or .onnx file, a run of sepnas, or an architecture"
LIBRARIES = {"timm": from_timm, "torchvision": from_torchvision}
_PICKLED = (".pt", ".pth", ".pkl", ".pickle", ".bin", ".ckpt", ".tar")
_FACTORY = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")


def find_network(text: str, pretrained: bool = False, seed: int = 0) -> FoundNetwork:
    """The network that ``text`` names, with random weights that depend on ``seed`` alone, or the library's own.

    Raises :class:`ImportFailedError` for an unknown name, or for a file that would have to be unpickled.
    """
    library, _, name = text.partition(":")
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        if library in LIBRARIES:
            return LIBRARIES[library](name, pretrained)
        if pretrained:
            known = " and ".join(LIBRARIES)
            raise ImportFailedError(f"{text}: only {known} have pretrained weights; name a file of them")
        return _found_file(text) or (from_factory(text) if _FACTORY.fullmatch(text) else _named(text, seed))


def _found_file(text: str) -> FoundNetwork | None:
    """The network in a file or folder; None if the text names no file that could hold one."""
    path = Path(text)
    known = recognise(path)
    if known and known[0] == "run":
        return from_run(path)
    if path.suffix == ".pt2":
        return from_exported(path)
    if path.suffix == ".onnx":
        return from_onnx(path)
    if path.suffix in _PICKLED:
        raise ImportFailedError(
            f"{text}: a network in such a file would have to be unpickled, which can run any code. Name the network "
            f"({FORMS}), and give its weights with --weights {text}"
        )
    if known and known[0] != "file":
        raise ImportFailedError(f"{text}: is {known[1]}; a network is {FORMS}")
    return None


def _named(text: str, seed: int) -> FoundNetwork:
    """An architecture of sepnas by name or by file."""
    try:
        return from_architecture(text, seed)
    except SpecError as error:
        if Path(text).suffix in FILE_SUFFIXES:
            raise
        why = f"{error}" if any(family.match(text) for family in BACKBONES.values()) else f"expected {FORMS}"
        raise ImportFailedError(f"{text}: unknown network; {why}") from None
