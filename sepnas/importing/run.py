"""The whole import: find a network, trace it, check that the graph computes the same, write a folder."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import torch
from safetensors.torch import save_file
from torch import Tensor

from sepnas.errors import ImportFailedError
from sepnas.importing.folder import new_folder
from sepnas.importing.found import FoundNetwork, Shape
from sepnas.importing.source import PRETRAINED, RANDOM, find_network
from sepnas.importing.traits import UNCHANGED, changed_traits, check_classes
from sepnas.importing.weights import take_weights
from sepnas.nets.graph import GraphNetwork
from sepnas.partition.graph import GRAPH_NAME, WEIGHTS_NAME, Graph, NetworkTraits
from sepnas.partition.trace.program import Weights, graph_of, trace
from sepnas.partition.trace.refusals import first_line

MAX_DEVIATION = 1e-4
"""Largest difference of an output from the module's, relative to the output's largest value."""
Progress: TypeAlias = Callable[[int, int, str], None]
_STEPS = ("the network", "tracing", "comparing", "writing")


@dataclass(frozen=True)
class ImportedNetwork:
    """What was imported. ``deviation`` is the largest relative difference from the original's outputs, on noise."""

    graph: Graph
    weights: Weights
    deviation: float


def import_network(
    network: str,
    out: Path,
    *,
    input_shapes: Sequence[Shape] = (),
    weights: str = RANDOM,
    match: str = "name",
    traits: Mapping[str, object] = UNCHANGED,
    seed: int = 0,
    force: bool = False,
    progress: Progress | None = None,
) -> ImportedNetwork:
    """Import a network into the folder ``out``, which is complete or absent.

    ``traits`` replace what the network's own configuration says of images and classes.
    """
    show = progress or _silent
    if match != "name" and weights in (RANDOM, PRETRAINED):
        raise ImportFailedError(f"{network}: only tensors of a file are matched by {match}; name it as the weights")
    with new_folder(out, force) as folder:
        show(0, len(_STEPS), _STEPS[0])
        found = find_network(network, weights == PRETRAINED, seed)
        if weights not in (RANDOM, PRETRAINED):
            if found.module is None or found.has_weights:
                raise ImportFailedError(f"{network}: brings its own weights; leave --weights out")
            take_weights(found.module, Path(weights), network, match)
        found = replace(found, traits=changed_traits(found, traits))
        imported = trace_found(found, input_shapes, seed, show)
        check_classes(imported.graph, traits)
        show(3, len(_STEPS), _STEPS[3])
        _write(folder, imported)
    show(4, len(_STEPS), "done")
    return imported


def trace_found(
    found: FoundNetwork, input_shapes: Sequence[Shape] = (), seed: int = 0, progress: Progress | None = None
) -> ImportedNetwork:
    """The graph of a network, compared with the network itself on noise.

    Raises :class:`ImportFailedError` if it cannot be traced, or if its graph computes something else.
    """
    show = progress or _silent
    show(1, len(_STEPS), _STEPS[1])
    if found.program is not None:
        if input_shapes:
            raise ImportFailedError(f"{found.source}: was exported for its own input shapes; leave --input-shape out")
        graph, weights = graph_of(found.program, name=found.name, source=found.source, traits=found.traits)
        original: Callable[..., object] = found.program.module()
    else:
        assert found.module is not None
        shapes = tuple(input_shapes) or found.shapes
        if not shapes:
            raise ImportFailedError(f"{found.source}: give the shape of each input, such as --input-shape 3x224x224")
        traits = found.traits if shapes == found.shapes else _resized(found, shapes)
        examples = [torch.zeros(1, *shape) for shape in shapes]
        graph, weights = trace(found.module, examples, name=found.name, source=found.source, traits=traits)
        original = found.reference or found.module
    show(2, len(_STEPS), _STEPS[2])
    return ImportedNetwork(graph, weights, _deviation(graph, weights, original, seed))


def _resized(found: FoundNetwork, shapes: Sequence[Shape]) -> NetworkTraits:
    traits = found.traits
    if traits.size is None or len(shapes[0]) < 2:
        return traits
    return traits.model_copy(update={"size": (shapes[0][-2], shapes[0][-1])})


def _deviation(graph: Graph, weights: Weights, original: Callable[..., object], seed: int) -> float:
    generator = torch.Generator().manual_seed(seed)
    inputs = [_noise(graph, name, generator) for name in graph.inputs]
    with torch.no_grad():
        try:
            wanted = _tensors(original(*[x.clone() for x in inputs]))
        except (Exception, SystemExit) as error:  # the code of others raises whatever it likes
            raise ImportFailedError(
                f"{graph.source}: fails on noise of shape {tuple(inputs[0].shape)}: {first_line(error)}"
            ) from error
        found = _tensors(GraphNetwork(graph, weights).eval()(*inputs))
    if [x.shape for x in wanted] != [x.shape for x in found]:
        raise ImportFailedError(f"{graph.source}: its graph computes outputs of other shapes than the network itself")
    distances = [_distance(a, b) for a, b in zip(wanted, found, strict=True)]
    worst = next((each for each in distances if math.isnan(each)), max(distances, default=0.0))
    if math.isnan(worst):
        raise ImportFailedError(
            f"{graph.source}: output {distances.index(worst)} is not finite (NaN or infinite) on noise"
        )
    if worst > MAX_DEVIATION:
        raise ImportFailedError(
            f"{graph.source}: its graph computes something else: outputs differ by {worst:.1e} of their largest value; "
            f"at most {MAX_DEVIATION:.0e} is rounding. Is the network random, or does it keep a state?"
        )
    return worst


def _noise(graph: Graph, name: str, generator: torch.Generator) -> Tensor:
    tensor = graph.tensors[name]
    if not tensor.dtype.startswith("float"):
        return torch.zeros(tensor.dims, dtype=getattr(torch, tensor.dtype))
    return torch.randn(tensor.dims, generator=generator).to(getattr(torch, tensor.dtype))


def _tensors(outputs: object) -> list[Tensor]:
    return [x for x in torch.utils._pytree.tree_leaves(outputs) if isinstance(x, Tensor)]


def _distance(wanted: Tensor, found: Tensor) -> float:
    precise = torch.complex128 if wanted.is_complex() or found.is_complex() else torch.float64
    wanted, found = wanted.to(precise), found.to(precise)
    return float((wanted - found).abs().max() / wanted.abs().max().clamp_min(1e-30))


def _write(folder: Path, imported: ImportedNetwork) -> None:
    plain = {name: x.detach().clone(memory_format=torch.contiguous_format) for name, x in imported.weights.items()}
    save_file(plain, folder / WEIGHTS_NAME)
    (folder / WEIGHTS_NAME).chmod(0o644)
    imported.graph.save(folder / GRAPH_NAME)


def _silent(done: int, total: int, what: str) -> None:
    """Show no progress."""
