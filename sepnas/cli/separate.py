"""``sepnas separate``: group a trained network's channels over devices, and thin what crosses."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sepnas import api
from sepnas.cli.options import FILE, FOLDER, TEXT, AsJson, DataRoot, path_to, quantity
from sepnas.console import print_json, say, warn
from sepnas.partition.counts import count_partition
from sepnas.plan.wire import UNCONVERTED, WIRE_FORMATS
from sepnas.separation.document import PLAN_NAME
from sepnas.spec.arguments import MAX_COUNT
from sepnas.spec.document import few
from sepnas.spec.figures import MAX_DEVICES
from sepnas.tables import DataColumn, DataTable, print_table
from sepnas.train.source import DataSource
from sepnas.units import format_count, format_names, number, parse_share

if TYPE_CHECKING:
    from sepnas.importing.separated import SeparationResult

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
        typer.Option(help="Images to measure activations on: cifar100, folder:PATH, ... [weights alone].", **TEXT),
    ] = None,
    images: Annotated[int, typer.Option(min=1, max=MAX_COUNT, help="With --data: at most this number of images.")] = 64,
    data_root: DataRoot = None,
    bytes_: Annotated[
        float,
        typer.Option(
            "--bytes", parser=share, metavar="SHARE",
            help="Bytes between devices, as a share of those of the exact split in fp32, such as 5%; 0 is silence.",
        ),
    ] = 1.0,
    wire: Annotated[
        str, typer.Option(help=f"The format of messages between devices: {format_names(WIRE_FORMATS)}.", **TEXT)
    ] = UNCONVERTED,
    read_out: Annotated[int, typer.Option(min=0, help="The device that computes and sends the answer.")] = 0,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of the grouping.")] = 0,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing network.")] = False,
    json_: AsJson = False,
) -> None:  # fmt: skip
    """Separate a trained network over devices: group its channels, and send only what matters between groups.

    Channels are grouped such that the weights between groups matter least. With `--bytes 100%` all channels are sent
    before each layer that mixes them, and answers are those of the network. With fewer bytes, the channels that matter
    most are sent, and messages of little use are left out. Nothing is fine-tuned: accuracy falls with the bytes until
    the network is trained again.

    Writes a folder like that of an imported network, with the groups (`separation.json`) and the plan of the devices
    (`plan.json`). The network in it has a narrower layer for each device; `evaluate` computes it in one process.

    Examples: `sepnas separate mobilenet --devices 4 --bytes 5% --wire int8 --out separated`,
    `sepnas separate mobilenet --cluster cluster.yaml --data folder:images --bytes 2% --out separated`
    """
    found = api.separate(
        network, out, devices=devices, cluster=cluster, images=images, budget=bytes_, wire=wire, read_out=read_out,
        seed=seed, force=force, data=None if data is None else DataSource(data, root=data_root),
    )  # fmt: skip
    if json_:
        print_json(_data(found))
    else:
        _show(found)
        _say_next(out)


def _data(found: SeparationResult) -> dict[str, object]:
    counts = count_partition(found.separated.graph, found.plan)
    return {
        "network": found.separation.network, "devices": found.separation.num_devices, "wire": found.separation.wire,
        "payload_bytes": found.payload_bytes, "exact_bytes": found.exact_bytes, "fixed_bytes": found.fixed_bytes,
        "messages": len(found.separation.crossings), "points": found.points, "silent_points": found.silent_points,
        "importance_within": found.within, "deviation": found.deviation, "macs": list(counts.macs),
        "weight_bytes": list(counts.weight_bytes), "read_out_nodes": list(found.read_out_nodes),
        "repeated_layers": list(found.repeated_layers),
    }  # fmt: skip


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
    chance = 1 / found.separation.num_devices
    say(f"{found.within:.1%} of the importance of weights lies within groups, {chance:.1%} would by chance")
    say(
        f"{number(found.payload_bytes)} bytes between devices in {format_count(len(messages), 'message')}, "
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


def _say_next(out: Path) -> None:
    plan = shlex.quote(str(out / PLAN_NAME))
    say(f"written: {out}")
    say(f"next: sepnas simulate {plan}")
    say(f"next: sepnas export {shlex.quote(str(out))} {shlex.quote(str(out.parent / 'deployment'))} --plan {plan}")
