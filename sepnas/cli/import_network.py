"""``sepnas import``: an existing network as a graph and its weights."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sepnas import api
from sepnas.cli.graph_table import show_graph
from sepnas.cli.options import FOLDER, TEXT, AsJson, text_of
from sepnas.console import say


def import_network(
    network: Annotated[
        str,
        typer.Argument(
            parser=text_of,
            help="timm:NAME, torchvision:NAME, MODULE:FACTORY, a .pt2 file, a run, or an architecture.",
        ),
    ],
    out: Annotated[Path, typer.Option(help="The folder to write.", **FOLDER)],
    input_shape: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SIZES",
            help="Shape of one sample without the batch, such as 3x224x224; repeat for each input [the network's].",
        ),
    ] = None,
    weights: Annotated[
        str, typer.Option(help="random, pretrained (timm's or torchvision's own), or a file of tensors.", **TEXT)
    ] = "random",
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of random weights.")] = 0,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing network.")] = False,
    json_: AsJson = False,
) -> None:
    """Import an existing network, given by name or from a file: any module that torch can export.

    Writes `graph.json`, the operators with their shapes and attributes, and `weights.safetensors`; both are read
    without torch. The graph is for one sample, and is compared with the original network before anything is written.
    Values that do not depend on the input are computed in advance. Operators unknown to sepnas are kept whole, and
    named.

    MODULE:FACTORY runs the code of that module, from the current folder or from an installed package: a function or a
    class without arguments, or a module. Weights are read from safetensors, or from a torch checkpoint that holds only
    tensors; nothing is unpickled.

    Example: `sepnas import timm:vit_tiny_patch16_224 --out vit`
    """
    from sepnas.importing.found import parse_shape

    shapes = [parse_shape(text) for text in input_shape or ()]
    imported = api.import_network(network, out, input_shapes=shapes, weights=weights, seed=seed, force=force)
    show_graph(imported.graph, json_)
    if not json_:
        say(f"written: {out}; {_compared(imported.deviation)}")


def _compared(deviation: float) -> str:
    """How near the graph's outputs are to those of the original network, for random inputs."""
    if deviation == 0:
        return "for random inputs, its outputs equal those of the original"
    return f"for random inputs, its outputs differ from those of the original by at most {deviation:.0e} (relative)"
