"""``sepnas schema``, ``describe`` and ``simulate``: look at a description without running anything."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from sepnas.cli.grouped import grouped
from sepnas.cli.options import (
    FILE,
    AsJson,
    NameOrFile,
    NetworkOptions,
)
from sepnas.console import print_json, say, warn
from sepnas.cost.memory import peak_memory_bytes
from sepnas.plan.liveness import devices_used
from sepnas.separable.architecture import Architecture
from sepnas.separable.build import build_plan
from sepnas.separable.layers import count_macs, count_parameters, device_layers
from sepnas.separable.lower import lower
from sepnas.tables import DataColumn, DataTable, print_table, text_column
from sepnas.units import format_count, format_idle, number


def facts(architecture: Architecture) -> dict[str, Any]:
    """What ``describe`` prints: counts of the network and of its plan."""
    everything, plan = lower(architecture), build_plan(architecture)
    ranks = range(architecture.num_devices)
    per_device = [count_macs(architecture, rank) for rank in ranks]
    # the stem is one layer of the network, computed by every device
    repeated_stems = (architecture.num_devices - 1) * device_layers(architecture, 0)[0].macs
    return {
        "name": architecture.name,
        "devices": architecture.num_devices,
        "policy": architecture.policy.name,
        "parameters": count_parameters(architecture),
        "macs": sum(per_device) - repeated_stems,
        "macs_per_device": per_device,
        "payload_bytes": plan.payload_bytes(),
        "payload_bytes_before_liveness": everything.payload_bytes(),
        "wire_bytes": plan.wire_bytes(),
        "num_transfers": len(plan.transfers()),
        "segments": plan.num_segments(),
        "devices_used": list(devices_used(plan)),
        "peak_memory_bytes": [peak_memory_bytes(plan, rank) for rank in ranks],
    }


@grouped
def describe(
    name: NameOrFile,
    *,
    network: NetworkOptions,
    json_: AsJson = False,
    save: Annotated[Path | None, typer.Option(**FILE, help="Write the architecture to this file.")] = None,
) -> None:
    """Count what a network and its transmission policy cost: parameters, MACs, bytes, transfers.

    MACs and bytes are for one image. `payload_bytes` is what really crosses: transfers that cannot reach the
    answer are dropped first; `payload_bytes_before_liveness` counts them too. `devices_used` are the ranks that do any
    work that the answer needs.

    Example: `sepnas describe resnext56_4x16d --devices 4 --policy hand-made`
    """
    architecture = network.architecture(name)
    if save is not None:
        architecture.save(save)
    found = facts(architecture)
    if json_:
        print_json(found)
        return
    say(f"{architecture.name} on {format_count(architecture.num_devices, 'device')}, policy {found['policy']}")
    table = DataTable((text_column(""), DataColumn("")), show_header=False)
    for key, value in found.items():
        if key not in ("name", "policy", "devices_used"):
            values = value if isinstance(value, list) else [value]
            table.add(key, Text("\n".join(number(each) for each in values)))
    table.add("devices_used", ", ".join(map(str, found["devices_used"])))
    print_table(table)
    if idle := format_idle(found["devices_used"], architecture.num_devices):
        warn(idle)
