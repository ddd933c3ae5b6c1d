"""``sepnas separate``: group a trained network's channels over devices, thin what crosses, and fine-tune."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sepnas import api
from sepnas.cli.options import FILE, FOLDER, TEXT, AsJson, DataRoot, path_to, quantity
from sepnas.console import print_json, say, warn
from sepnas.partition.counts import count_partition
from sepnas.plan.wire import WIRE_FORMATS
from sepnas.separation.document import PLAN_NAME
from sepnas.separation.thinning import ANY, AUTO, Messages
from sepnas.separation.tiled_layers import AUTO_TILES
from sepnas.spec.arguments import MAX_COUNT, MAX_THREADS
from sepnas.spec.document import few
from sepnas.spec.figures import MAX_DEVICES
from sepnas.tables import DataColumn, DataTable, print_table
from sepnas.train.recipe import RecipeChanges
from sepnas.train.source import DataSource
from sepnas.units import format_count, format_names, number, parse_share

if TYPE_CHECKING:
    from sepnas.importing.separated import SeparationResult
    from sepnas.importing.tuned import TunedSeparation

_MANY_BYTES = 0.5
"""From this share of fixed bytes on, a separation is said to be held back by them."""
share = quantity(parse_share)


def separate(
    network: Annotated[
        Path, typer.Argument(help="The folder of an imported network.", metavar="NETWORK", parser=path_to("network"))
    ],
    out: Annotated[Path, typer.Option(help="The folder to write.", **FOLDER)],
    devices: Annotated[
        int | None,
        typer.Option("--devices", "-n", min=1, max=MAX_DEVICES, help="The number of devices [the cluster's]."),
    ] = None,
    cluster: Annotated[
        Path | None, typer.Option(help="A cluster file: fast devices get more channels [equal devices].", **FILE)
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(help="Images to measure and to train on: cifar100, folder:PATH, ... [weights alone].", **TEXT),
    ] = None,
    images: Annotated[
        int, typer.Option(min=1, max=MAX_COUNT, help="With --data: images on which activations are measured.")
    ] = 512,
    data_root: DataRoot = None,
    bytes_: Annotated[
        float,
        typer.Option(
            "--bytes", parser=share, metavar="SHARE",
            help="Bytes between devices, as a share of those of the exact split in fp32, such as 5%; 0 is silence.",
        ),
    ] = 1.0,
    points: Annotated[
        int | None,
        typer.Option(
            min=0, max=MAX_COUNT, metavar="N",
            help="Exchange points at most [any number]: each costs the latency of a message.",
        ),
    ] = None,
    tiles_until: Annotated[
        str,
        typer.Option(
            metavar="TENSOR",
            help="Keep the layers up to this tensor exact, in tiles of each map: auto, none, or its name ('?' lists "
            "them).",
        ),
    ] = AUTO_TILES,
    wire: Annotated[
        str,
        typer.Option(
            help=f"The format of messages between devices: {format_names((AUTO, *WIRE_FORMATS))}; {AUTO} is the best "
            "for each.",
            **TEXT,
        ),
    ] = AUTO,
    messages: Annotated[
        Messages,
        typer.Option(
            help="any: the accuracy that the bytes can buy. few: without messages that are worth less than the latency "
            "of a link."
        ),
    ] = ANY,
    read_out: Annotated[int, typer.Option(min=0, help="The device that computes and sends the answer.")] = 0,
    epochs: Annotated[
        int, typer.Option(min=0, max=MAX_COUNT, help="With --data: fine-tune, learning from the network.")
    ] = 0,
    recipe: Annotated[
        str | None, typer.Option(help="With --epochs: a recipe with distillation, or its file [separate].", **TEXT)
    ] = None,
    flip: Annotated[
        bool | None,
        typer.Option(help="With --epochs: mirror half of the images [the recipe's choice; not for folders]."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="With --epochs: go on with an interrupted run.")] = False,
    threads: Annotated[
        int | None, typer.Option(min=1, max=MAX_THREADS, help="With --epochs: threads of torch [all].")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of the grouping and the training.")] = 0,
    force: Annotated[bool, typer.Option("--force", help="Without --epochs: replace a network.")] = False,
    json_: AsJson = False,
) -> None:  # fmt: skip
    """Separate a trained network over devices: group its channels, and send only what matters between groups.

    Channels are grouped such that the weights between groups matter least. Before each layer that mixes channels,
    devices send mixtures of theirs, the ones whose absence would cost most; what is not sent is estimated from what a
    device has. With `--bytes 100%` answers are those of the network. With fewer, messages of little use are left out.
    `--data` lets images say what matters; without them only the weights do.

    The first layers, whose maps are large and have few channels, stay exact: each device computes a tile of each map,
    and messages begin behind them (`--tiles-until`). This costs some memory, and spares most bytes and exchange points.
    `--points` drops the points that matter least, for each costs a message's latency; `--messages few` drops messages.

    With `--epochs` the separated network is fine-tuned by distillation from the original, whose answers are kept once
    for each image and its mirror image; messages are rounded as on their way. The network must know the classes of the
    data: `sepnas train NETWORK --data ... --head new` makes it so.

    Writes a folder like that of an imported network, with the groups (`separation.json`) and the plan of the devices
    (`plan.json`). The network in it has a narrower layer for each device; `evaluate` computes it in one process.

    Examples: `sepnas separate mobilenet --devices 4 --data folder:images --bytes 5% --epochs 3 --out
    separated`, `sepnas separate mobilenet --cluster cluster.yaml --bytes 20% --out separated`
    """
    if not epochs:
        _refuse_without_epochs({"--recipe": recipe, "--flip": flip, "--resume": resume or None, "--threads": threads})
        found = api.separate(
            network, out, devices=devices, cluster=cluster, images=images, budget=bytes_,
            exchange_points=points, tiles_until=tiles_until, wire=wire, messages=messages, read_out=read_out, seed=seed,
            force=force,
            data=None if data is None else DataSource(data, root=data_root),
        )  # fmt: skip
        tuned = None
    else:
        if data is None:
            raise typer.BadParameter("fine-tuning needs images: give --data", param_hint="--epochs")
        if force:
            raise typer.BadParameter(
                "replaces no run, which --epochs makes: go on with it by --resume, or choose another --out",
                param_hint="--force",
            )
        tuned = api.separate_and_train(
            network, out, DataSource(data, root=data_root), devices=devices, cluster=cluster, images=images,
            budget=bytes_, exchange_points=points, tiles_until=tiles_until, wire=wire, messages=messages,
            read_out=read_out, recipe=recipe, changes=RecipeChanges(epochs, flip=flip), seed=seed,
            resume=resume, threads=threads,
        )  # fmt: skip
        found = tuned.separation
    if json_:
        print_json(_data(found) | ({} if tuned is None else _data_of(tuned)))
    else:
        _show(found)
        if tuned is not None:
            _show_tuned(tuned)
        _say_next(out, data is not None and tuned is None)


def _refuse_without_epochs(given: Mapping[str, object]) -> None:
    for name, value in given.items():
        if value is not None:
            raise typer.BadParameter("belongs to fine-tuning: give --epochs", param_hint=name)


def _data_of(tuned: TunedSeparation) -> dict[str, object]:
    return {
        "original_accuracy": tuned.original_accuracy, "start_accuracy": tuned.start_accuracy,
        "accuracy": tuned.accuracy, "best_epoch": tuned.training.best_epoch,
        "finished": tuned.training.finished,
    }  # fmt: skip


def _show_tuned(tuned: TunedSeparation) -> None:
    training = tuned.training
    say(
        f"validation accuracy: {tuned.original_accuracy:.2%} of the network, {tuned.start_accuracy:.2%} separated, "
        + (f"{training.best_accuracy:.2%} after epoch {training.best_epoch}" if training.history else "no epoch ended")
    )
    if tuned.keeps_start:
        warn(
            "training did not help, and the network is kept as it was before; more epochs may help, or a recipe with a "
            "lower learning rate"
        )
    if not training.finished:
        say(f"stopped after {training.reached}; repeat the command with --resume to continue")


def _data(found: SeparationResult) -> dict[str, object]:
    counts = count_partition(found.separated.graph, found.plan)
    return {
        "network": found.separation.network, "devices": found.separation.num_devices, "wires": _formats(found),
        "payload_bytes": found.payload_bytes, "exact_bytes": found.exact_bytes, "fixed_bytes": found.fixed_bytes,
        "messages": len(found.separation.crossings), "points": found.points, "silent_points": found.silent_points,
        "importance_within": found.within, "deviation": found.deviation, "macs": list(counts.macs),
        "weight_bytes": list(counts.weight_bytes), "read_out_nodes": list(found.read_out_nodes),
        "repeated_layers": list(found.repeated_layers),
    }  # fmt: skip


def _formats(found: SeparationResult) -> dict[str, int]:
    """The number of messages in each wire format."""
    counts = Counter(each.wire for each in found.separation.crossings)
    return {wire: counts[wire] for wire in WIRE_FORMATS if counts[wire]}


def _show(found: SeparationResult) -> None:
    counts, messages = count_partition(found.separated.graph, found.plan), found.plan.transfers()
    names = ("device", "MACs", "weights, bytes", "sends, bytes", "receives, bytes")
    table = DataTable(tuple(DataColumn(name) for name in names))
    for rank, (macs, stored) in enumerate(zip(counts.macs, counts.weight_bytes, strict=True)):
        sent, got = (
            sum(each.payload_bytes() for each in messages if getattr(each, end) == rank)
            for end in ("source", "destination")
        )
        table.add(str(rank), number(macs), number(stored), number(sent), number(got))
    print_table(table)
    chance, told = 1 / found.separation.num_devices, ", ".join(f"{n} {wire}" for wire, n in _formats(found).items())
    say(f"{found.within:.1%} of the importance of weights lies within groups, {chance:.1%} would by chance")
    say(
        f"{number(found.payload_bytes)} bytes between devices in {format_count(len(messages), 'message')}"
        f"{f' ({told})' if told else ''}, "
        f"{found.payload_bytes / max(1, found.exact_bytes):.2%} of the {number(found.exact_bytes)} of the exact split; "
        f"{number(found.fixed_bytes)} of them are always needed; {found.silent_points} of "
        f"{format_count(found.points, 'exchange point')} are silent"
    )
    say(f"on noise, its outputs differ from the network's by {found.deviation:.1e} of their largest value")
    if found.repeated_layers:
        warn(f"too few channels to be grouped, so that each device computes them: {few(found.repeated_layers)}")
    if found.read_out_nodes:
        read_out = found.separation.read_out
        warn(f"computed whole by device {read_out}, because they mix channels otherwise: {few(found.read_out_nodes)}")
    if found.fixed_bytes > _MANY_BYTES * found.exact_bytes:
        warn("most bytes are always needed, so that this network gains little; `sepnas partition` splits it as it is")


def _say_next(out: Path, may_train: bool) -> None:
    plan = shlex.quote(str(out / PLAN_NAME))
    say(f"written: {out}")
    if may_train:
        say("next: the same command with --epochs 3 and another --out fine-tunes it")
    say(f"next: sepnas simulate {plan}")
    say(f"next: sepnas export {shlex.quote(str(out))} {shlex.quote(str(out.parent / 'deployment'))} --plan {plan}")
