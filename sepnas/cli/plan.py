"""``sepnas plan``: the plan of an architecture as a file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sepnas.cli.grouped import grouped
from sepnas.cli.options import FILE, PLAN_CONTENT, NameOrFile, NetworkOptions, ReplacePlan
from sepnas.console import say
from sepnas.plan.document import save_plan
from sepnas.spec.writing import refuse_existing
from sepnas.units import format_count, number


@grouped
def plan(
    name: NameOrFile,
    *,
    network: NetworkOptions,
    out: Annotated[Path, typer.Option(help="The plan file to write.", **FILE)] = Path("plan.json"),
    force: ReplacePlan = False,
) -> None:
    """Write the plan of a network and its transmission policy: what each device computes, sends and receives.

    The file does not depend on a family of networks. `describe`, `simulate`, `calibrate`, `trace` and `report` take it
    in place of an architecture, and `export --plan` cuts a trained network by it. Plan files are checked when they are
    read: a plan that could deadlock, uses a missing tensor or sends a message that nobody receives is refused with the
    device and the step.

    Example: `sepnas plan resnext56_4x16d --devices 4 --policy hand-made --out plan.json`
    """
    refuse_existing(out, force, PLAN_CONTENT)
    found = network.plan(name)
    save_plan(found, out)
    say(
        f"written: {out}: {format_count(found.num_devices, 'device')}, "
        f"{format_count(sum(map(len, found.programs)), 'step')}, {format_count(len(found.transfers()), 'transfer')}, "
        f"{number(found.payload_bytes())} bytes between devices, {number(found.input_bytes())} of input"
    )
