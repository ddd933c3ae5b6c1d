"""What a person says of a network's images and classes, in place of the network's own configuration."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from pydantic import ValidationError

from sepnas.errors import ImportFailedError
from sepnas.importing.found import FoundNetwork
from sepnas.partition.graph import Graph, NetworkTraits
from sepnas.spec.document import explain, few
from sepnas.spec.files import read_regular, why

UNCHANGED: Mapping[str, object] = MappingProxyType({})
MAX_NAMES_BYTES = 16 << 20
GIVEN = ("classes", "mean", "std", "crop", "interpolation")
"""The traits that a person may give."""


def read_class_names(path: Path) -> tuple[str, ...]:
    """The lines of a text file that are not empty; raises :class:`ImportFailedError`."""
    try:
        lines = read_regular(path, MAX_NAMES_BYTES).decode().splitlines()
    except OSError as error:
        raise ImportFailedError(f"{path}: cannot be read: {why(error, path)}") from None
    except UnicodeDecodeError:
        raise ImportFailedError(f"{path}: is no text in UTF-8; expected a class name on each line") from None
    return tuple(" ".join(line.split()) for line in lines if line.strip())


def changed_traits(found: FoundNetwork, given: Mapping[str, object]) -> NetworkTraits:
    """The network's traits with those that were given; raises :class:`ImportFailedError`.

    A crop without an interpolation is bilinear.
    """
    if unknown := sorted(given.keys() - set(GIVEN)):
        raise ImportFailedError(f"{found.source}: unknown traits {few(unknown)}; allowed are {', '.join(GIVEN)}")
    data = {**found.traits.model_dump(), **given}
    if given.keys() & {"crop", "interpolation"}:
        data = {**data, "resize": None, "interpolation": data.get("interpolation") or "bilinear"}
    try:
        traits = NetworkTraits.model_validate(data)
    except ValidationError as error:
        raise ImportFailedError(explain(NetworkTraits, error, found.source, data)) from None
    if len(traits.mean) != len(traits.std) or min(traits.std, default=1.0) <= 0:
        raise ImportFailedError(
            f"{found.source}: `mean` and `std` must hold one number for each channel, those of `std` above 0; got "
            f"{list(traits.mean)} and {list(traits.std)}"
        )
    return traits


def check_classes(graph: Graph, given: Mapping[str, object]) -> None:
    """Raise :class:`ImportFailedError` if class names or numbers of channels were given that fit no output or input."""
    names, outputs = graph.traits.classes, {each.name: graph.tensors[each.tensor].dims for each in graph.outputs}
    if "classes" in given and (1, len(names)) not in outputs.values():
        found = ", ".join(f"'{name}' is {dims}" for name, dims in outputs.items())
        raise ImportFailedError(f"{graph.source}: {len(names)} class names fit no output: {found}")
    if given.keys() & {"mean", "std"} and graph.image_input is None:
        found = ", ".join(f"'{name}' is {graph.tensors[name].dims}" for name in graph.inputs)
        raise ImportFailedError(
            f"{graph.source}: `mean` and `std` of {len(graph.traits.mean)} channels fit no image, which is the only "
            f"input, of 1 x channels x height x width: {found}"
        )
