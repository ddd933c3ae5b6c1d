"""``sepnas plan``: the plan of an architecture as a file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sepnas.cli.grouped import grouped
from sepnas.cli.options import FILE, NameOrFile, NetworkOptions
from sepnas.console import say
from sepnas.plan.document import save_plan
from sepnas.units import format_count, number


@grouped
def plan(
    name: NameOrFile,
    *,
    network: NetworkOptions,
    out: Annotated[Path, typer.Option(help="The plan file to write.", **FILE)] = Path("plan.json"),
) -> None:
    """Write the plan of a network and its transmission policy: what each device computes, sends and waits for.

    The file names no family of networks. `describe`, `simulate`, `calibrate`, `trace` and `report` take it in place of
    the architecture, and `export --plan` cuts a trained network by it. A plan file is checked when it is read: one that
    could deadlock, uses what is not there or sends what nobody takes is refused with the device and the step.

    Example: `sepnas plan resnext56_4x16d --devices 4 --policy hand-made --out plan.json`
    """
    found = network.plan(name)
    save_plan(found, out)
    say(
        f"written: {out}: {format_count(found.num_devices, 'device')}, "
        f"{format_count(sum(map(len, found.programs)), 'step')}, {format_count(len(found.transfers()), 'transfer')}, "
        f"{number(found.payload_bytes())} bytes between devices"
    )
