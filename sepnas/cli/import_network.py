"""``sepnas import``: an existing network as a graph and its weights."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, get_args

import typer

from sepnas import api
from sepnas.cli.graph_table import show_graph
from sepnas.cli.grouped import grouped
from sepnas.cli.options import FILE, FOLDER, TEXT, AsJson, text_of
from sepnas.console import say
from sepnas.spec.preparation import Interpolation


@dataclass(frozen=True)
class TraitOptions:
    """What replaces the network's own configuration of images and classes."""

    mean: Annotated[
        str | None,
        typer.Option(
            help="Mean of each channel, of values in 0..1, such as 0.485,0.456,0.406 [the network's].", **TEXT
        ),
    ] = None
    std: Annotated[str | None, typer.Option(help="Standard deviation of each channel [the network's].", **TEXT)] = None
    crop: Annotated[
        float | None,
        typer.Option(help="Share of the scaled image's shorter side that is cut out, such as 0.875 [the network's]."),
    ] = None
    interpolation: Annotated[
        str | None, typer.Option(help=f"{', '.join(get_args(Interpolation))} [the network's].", **TEXT)
    ] = None
    classes: Annotated[
        Path | None, typer.Option(help="A text file with a class name on each line [the network's].", **FILE)
    ] = None

    def given(self) -> dict[str, object]:
        """The traits that were given."""
        from sepnas.importing.traits import read_class_names

        found = {
            "mean": _numbers("--mean", self.mean), "std": _numbers("--std", self.std), "crop": self.crop,
            "interpolation": self.interpolation, "classes": read_class_names(self.classes) if self.classes else None,
        }  # fmt: skip
        return {name: value for name, value in found.items() if value is not None}


def _numbers(flag: str, text: str | None) -> tuple[float, ...] | None:
    try:
        return None if text is None else tuple(float(each) for each in text.split(","))
    except ValueError:
        raise typer.BadParameter(f"is no list of numbers: {text!r}", param_hint=flag) from None


@grouped
def import_network(
    network: Annotated[
        str,
        typer.Argument(
            parser=text_of,
            help="timm:NAME, torchvision:NAME, MODULE:FACTORY, a .pt2 or .onnx file, a run, or an architecture.",
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
    match: Annotated[
        Literal["name", "order"],
        typer.Option(help="With a file of tensors: match them by name, or by their order if their names differ."),
    ] = "name",
    *,
    traits: TraitOptions,
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
    tensors; nothing is unpickled. `--match order` takes tensors whose names differ in the order of the file, if all
    shapes have the network's order; it cannot tell apart tensors of one shape, so compare some answers.

    Image files are prepared as the network's own configuration says, in `infer` and `serve` too: scaled, cut,
    normalised. `--mean`, `--std`, `--crop`, `--interpolation` and `--classes` replace it, or stand for it where a
    network has none.

    Examples: `sepnas import timm:vit_tiny_patch16_224 --weights pretrained --out vit`, `sepnas import
    networks:Small --input-shape 3x64x64 --weights small.pth --mean 0.5,0.5,0.5 --std 0.25,0.25,0.25 --classes names.txt
    --out small`
    """
    from sepnas.importing.found import parse_shape

    shapes = [parse_shape(text) for text in input_shape or ()]
    imported = api.import_network(
        network, out, input_shapes=shapes, weights=weights, match=match, traits=traits.given(), seed=seed, force=force
    )
    show_graph(imported.graph, json_)
    if not json_:
        if match == "order":
            say(f"{weights}: its tensors are taken in their order, in which all shapes fit")
        _say_if_random(network, weights)
        say(f"written: {out}; {_compared(imported.deviation)}")
        say(f"next: sepnas partition {shlex.quote(str(out))} --cluster cluster.yaml  # sepnas cluster writes it")


def _say_if_random(network: str, weights: str) -> None:
    """A network of a library is untrained unless its weights were asked for."""
    from sepnas.importing.source import LIBRARIES, RANDOM

    if weights == RANDOM and network.partition(":")[0] in LIBRARIES:
        say("its weights are random: costs are right, answers mean nothing; --weights pretrained takes trained ones")


def _compared(deviation: float) -> str:
    """How near the graph's outputs are to those of the original network, for random inputs."""
    if deviation == 0:
        return "for random inputs, its outputs equal those of the original"
    return f"for random inputs, its outputs differ from those of the original by at most {deviation:.0e} (relative)"
