"""``sepnas describe``: count what a network and its transmission policy cost, without running anything."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from sepnas import api
from sepnas.cli.grouped import grouped
from sepnas.cli.options import (
    FILE,
    AsJson,
    NameOrFile,
    NetworkOptions,
)
from sepnas.console import print_json, say, warn
from sepnas.tables import DataColumn, DataTable, print_table, text_column
from sepnas.units import format_count, format_idle, number


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
    found = api.describe(architecture)
    if json_:
        print_json(asdict(found))
        return
    say(f"{architecture.name} on {format_count(architecture.num_devices, 'device')}, policy {found.policy}")
    table = DataTable((text_column(""), DataColumn("")), show_header=False)
    for key, value in asdict(found).items():
        if key not in ("name", "policy", "devices_used"):
            values = value if isinstance(value, list) else [value]
            table.add(key, Text("\n".join(number(each) for each in values)))
    table.add("devices_used", ", ".join(map(str, found.devices_used)))
    print_table(table)
    if idle := format_idle(found.devices_used, architecture.num_devices):
        warn(idle)
