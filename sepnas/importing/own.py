"""Networks that are people's own: a factory in a module of theirs, and runs and architectures of sepnas."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from sepnas.errors import ImportFailedError
from sepnas.importing.found import FoundNetwork
from sepnas.importing.libraries import unknown_name
from sepnas.partition.graph import NetworkTraits
from sepnas.partition.trace.refusals import first_line, place_of
from sepnas.separable.architecture import Architecture
from sepnas.separable.read import read_architecture
from sepnas.spec.dataset import DataFacts


def from_factory(text: str) -> FoundNetwork:
    """The module that ``module:factory`` makes; ``factory`` is a function or a class without arguments, or a module.

    The module's code is run, as by Python's ``import``. Raises :class:`ImportFailedError`.
    """
    module_name, _, attribute = text.partition(":")
    code = _imported(text, module_name)
    made: Any = code
    for part in attribute.split("."):
        with _their_code(text):
            if not hasattr(made, part):
                raise unknown_name(text, part, [each for each in dir(made) if not each.startswith("_")])
            made = getattr(made, part)
    if not isinstance(made, nn.Module):
        with _their_code(text):
            made = made()
    if not isinstance(made, nn.Module):
        raise ImportFailedError(f"{text}: makes {type(made).__name__}, not a torch.nn.Module")
    return FoundNetwork(attribute, text, made)


def _imported(text: str, name: str) -> Any:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    with _their_code(text):
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is not None and name.startswith(error.name):
                raise ImportFailedError(
                    f"{text}: there is no module '{error.name}' here or among those installed"
                ) from None
            raise ImportFailedError(f"{text}: needs module '{error.name}', which is not installed") from error


@contextmanager
def _their_code(text: str) -> Iterator[None]:
    """Name the line at which the code of others fails, whatever it raises, or ends the process."""
    try:
        yield
    except ImportFailedError:
        raise
    except (Exception, SystemExit) as error:
        raise ImportFailedError(f"{text}: fails ({place_of(error)}): {first_line(error)}") from error


def from_run(folder: Path) -> FoundNetwork:
    """The trained network of a run of sepnas."""
    from sepnas.train.checkpoint import DATA, load_network

    network = load_network(folder)
    architecture, facts = network.architecture, DataFacts.load(folder / DATA)
    traits = NetworkTraits(
        classes=facts.classes,
        mean=facts.mean,
        std=facts.std,
        size=(architecture.image_size,) * 2,
        resize=facts.resize,
    )
    name = folder.resolve().name
    return FoundNetwork(name, str(folder), network, shapes=(_image(architecture),), traits=traits)


def from_architecture(text: str, seed: int) -> FoundNetwork:
    """A network of sepnas by name or by file, with random weights."""
    from sepnas.train.checkpoint import new_network

    architecture = read_architecture(text)
    network = new_network(architecture, seed)
    return FoundNetwork(architecture.name, text, network, shapes=(_image(architecture),))


def _image(architecture: Architecture) -> tuple[int, ...]:
    return (architecture.in_channels, architecture.image_size, architecture.image_size)
