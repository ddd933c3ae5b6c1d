"""``sepnas describe``: count what a network and its transmission policy cost, without running anything."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from sepnas import api
from sepnas.cli.graph_table import show_graph
from sepnas.cli.grouped import grouped
from sepnas.cli.options import (
    FILE,
    AsJson,
    NameOrAny,
    NetworkOptions,
)
from sepnas.console import print_json, say, warn
from sepnas.cost.counts import PlanCounts, count_plan
from sepnas.deployment.summary import plans_of
from sepnas.deployment.verify import load_manifest
from sepnas.partition.graph import is_graph, load_graph
from sepnas.separable.read import is_plan_file
from sepnas.spec.recognise import recognise
from sepnas.tables import DataColumn, DataTable, print_table, text_column
from sepnas.units import format_count, format_idle, number


@grouped
def describe(
    name: NameOrAny,
    *,
    network: NetworkOptions,
    json_: AsJson = False,
    save: Annotated[Path | None, typer.Option(**FILE, help="Write the architecture to this file.")] = None,
) -> None:
    """Count what a network and its transmission policy cost: parameters, MACs, bytes, transfers.

    All counts are for one image. `macs_per_device` and `payload_bytes` count what the devices compute and send each
    other: work and transfers that cannot affect the answer are left out, and only `payload_bytes_before_liveness`
    includes them. `input_bytes` is what the client sends to the devices, `output_bytes` what it gets, and `total_bytes`
    the payload of all messages: between devices, input and output. `macs` and `parameters` are those of the network
    itself, each layer once. `devices_used` are the ranks whose work the answer needs.

    A plan file (`sepnas plan`) may take the place of the network. For an imported network (`sepnas import`), operators
    are counted; for a deployment, plans are listed.

    Example: `sepnas describe resnext56_4x16d --devices 4 --policy hand-made`
    """
    if (recognised := recognise(Path(name))) and recognised[0] == "deployment":
        _describe_deployment(Path(name), network, json_, save)
        return
    found: PlanCounts
    if is_graph(name):
        _describe_graph(name, network, json_, save)
        return
    if is_plan_file(name):
        if save is not None:
            raise typer.BadParameter("a plan does not contain its architecture", param_hint="--save")
        found, title = count_plan(name, network.plan(name)), f"plan {name}"
    else:
        architecture = network.architecture(name)
        if save is not None:
            architecture.save(save)
        found = api.describe(architecture)
        title = f"{architecture.name}, policy {found.policy}"
    _show(found, title, json_)


def _describe_graph(name: str, network: NetworkOptions, as_json: bool, save: Path | None) -> None:
    network.refuse_for("an imported network")
    if save is not None:
        raise typer.BadParameter("an imported network has no architecture", param_hint="--save")
    show_graph(load_graph(Path(name)), as_json)


def _show(found: PlanCounts, title: str, as_json: bool) -> None:
    if as_json:
        print_json(asdict(found))
        return
    say(f"{title}, on {format_count(found.devices, 'device')}")
    table = DataTable((text_column(""), DataColumn("")), show_header=False)
    for key, value in asdict(found).items():
        if key not in ("name", "policy", "devices_used"):
            values = value if isinstance(value, list) else [value]
            table.add(key, Text("\n".join(number(each) for each in values)))
    table.add("devices_used", ", ".join(map(str, found.devices_used)))
    print_table(table)
    if idle := format_idle(found.devices_used, found.devices):
        warn(idle)


def _describe_deployment(folder: Path, network: NetworkOptions, json_: bool, save: Path | None) -> None:
    """The plans of a deployment that requests may name, the default one first."""
    network.refuse_for("a deployment")
    if save is not None:
        raise typer.BadParameter("a deployment does not contain its architecture", param_hint="--save")
    manifest = load_manifest(folder)
    plans = plans_of(manifest)
    if json_:
        print_json({"name": manifest.name, "deployment_id": manifest.deployment_id, "plans": list(map(asdict, plans))})
        return
    say(
        f"deployment {manifest.name} ({manifest.deployment_id[:16]}), on {format_count(manifest.num_devices, 'device')}"
    )
    headings = (
        "payload,\nbytes",
        "input,\nbytes",
        "output,\nbytes",
        "total,\nbytes",
        "transfers",
        "devices\nused",
        "files of its\nown, bytes",
    )
    table = DataTable((text_column("plan"), *map(DataColumn, headings)))
    for plan in plans:
        name = f"{plan.name} (default)" if plan.is_default else plan.name
        used = ", ".join(map(str, plan.devices_used))
        counts = (plan.payload_bytes, plan.input_bytes, plan.output_bytes, plan.total_bytes, plan.num_transfers)
        table.add(name, *map(number, counts), used, number(plan.own_bytes))
    print_table(table)
