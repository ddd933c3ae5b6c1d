"""``sepnas import``: a network that exists already, as a graph and its weights."""

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
            metavar="NETWORK",
            help="timm:NAME, torchvision:NAME, MODULE:FACTORY, a .pt2 file, a run, or an architecture.",
        ),
    ],
    out: Annotated[Path, typer.Option(help="The folder to write.", **FOLDER)],
    input_shape: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SIZES",
            help="The sizes of one sample without the batch, such as 3x224x224; again for each input [the network's].",
        ),
    ] = None,
    weights: Annotated[
        str, typer.Option(help="random, pretrained (timm's or torchvision's own), or a file of tensors.", **TEXT)
    ] = "random",
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of random weights.")] = 0,
    force: Annotated[bool, typer.Option("--force", help="Replace a network that stands there.")] = False,
    json_: AsJson = False,
) -> None:
    """Import a network as it is: any module that torch can export, by name or from a file.

    Writes `graph.json`, the operators with their shapes and attributes, and `weights.safetensors`; both are read
    without torch. The graph is for one sample, and is compared with the network itself before anything is written. What
    does not depend on the input is computed in advance. Operators that sepnas does not know are kept whole, and named.

    MODULE:FACTORY runs that module's code, from here or from what is installed: a function or a class without
    arguments, or a module. Weights are read from safetensors, or from a checkpoint of torch that holds tensors only;
    nothing is unpickled.

    Example: `sepnas import timm:vit_tiny_patch16_224 --out vit`
    """
    from sepnas.importing.found import parse_shape

    shapes = [parse_shape(text) for text in input_shape or ()]
    imported = api.import_network(network, out, input_shapes=shapes, weights=weights, seed=seed, force=force)
    show_graph(imported.graph, json_)
    if not json_:
        say(f"written: {out}; on noise its outputs are within {imported.deviation:.0e} of the original's, relatively")
