"""``sepnas certs``: show and renew the certificates of a deployment."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from sepnas.cli.options import PATH, SOON_DAYS, Deployment
from sepnas.console import print_json, say
from sepnas.plan.steps import CLIENT
from sepnas.tables import DataColumn, DataTable, print_table, text_column

if TYPE_CHECKING:
    from sepnas.deploy.renew import Certificate

HELP = """Show and renew the certificates by which devices and the client know each other.

Do it where `sepnas export` was run: there is the deployment's `authority/`, which signs them.

Example: `sepnas certs show deployment`
"""


def show(
    deployment: Deployment,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Show each certificate in force: from when to when it is valid, and how its fingerprint (sha256) begins.

    Certificates of devices whose folder is not in the deployment are left out.

    Example: `sepnas certs show deployment --json`
    """
    from sepnas.deploy.renew import certificates

    found = certificates(deployment)
    if json_:
        print_json([_data(each) for each in found])
        return
    dates = DataColumn("valid from", drop=2), DataColumn("to"), DataColumn("days left")
    table = DataTable((text_column("certificate"), *dates, text_column("fingerprint", drop=1)))
    for each in found:
        left = Text("expired" if each.days_left <= 0 else f"{each.days_left:.0f}")
        if each.days_left <= SOON_DAYS:
            left.stylize("bold red")
        days = (f"{moment:%Y-%m-%d}" for moment in (each.valid_from, each.valid_to))
        table.add(each.holder, *days, left, each.fingerprint[:16])
    print_table(table)


def renew(
    deployment: Deployment,
    device: Annotated[
        list[int] | None, typer.Option(min=0, help="This device only (its rank); again for more.")
    ] = None,
    client: Annotated[bool, typer.Option("--client", help="Those of the client only, or beside --device.")] = False,
    authority: Annotated[
        bool, typer.Option("--authority", help="A new authority, too; then all certificates are renewed.")
    ] = False,
    days: Annotated[
        float | None, typer.Option(help="Days that they are valid [3650, or as long as the authority].")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Write them there instead, laid out as the deployment.", **PATH)
    ] = None,
) -> None:
    """Make new certificates and keys, signed by the deployment's authority: of all devices and of the client.

    Each folder has its old pair or its new one, never a mixture. Copy the folders that are named at the end over those
    on the devices (`scp -rp` keeps the keys private); a worker takes what it is given for the next connection, without
    a restart, and a session that is open goes on. The old pairs are valid until their own end: if a key was stolen, run
    `sepnas export --force`, which makes another authority that trusts none of them.

    An authority that is near its end is renewed with `--authority`: the new one is trusted beside the old one, which
    signs this once more, so that devices can get their folders one after the other. Then renew once more.

    Example: `sepnas certs renew deployment --device 2 --days 365`
    """
    from sepnas.deploy.renew import renew as renew_certificates
    from sepnas.deployment.verify import load_manifest

    if authority and (device or client):
        raise typer.BadParameter("all must learn of it: no --device, no --client", param_hint="--authority")
    ranks = sorted(set(device or ())) + ([CLIENT] if client else [])
    chosen = ranks or [*range(load_manifest(deployment).num_devices), CLIENT]
    renewed = renew_certificates(deployment, chosen, days, out, authority)
    _say(renewed, deployment, out or deployment, authority)


def _say(renewed: Sequence[Certificate], deployment: Path, target: Path, authority: bool) -> None:
    for each in renewed:
        say(f"{each.holder}: renewed, valid to {each.valid_to:%Y-%m-%d} ({each.days_left:.0f} days)")
    say("next, copy each folder into that of the device (and the client's to whoever asks the devices):")
    for each in renewed:
        tls = target / each.holder / "tls"
        say(f"  scp -rp {shlex.quote(str(tls))} {each.holder.upper()}:PATH/TO/{each.holder}/")
    if authority:
        say(f"when all of them are there: sepnas certs renew {shlex.quote(str(deployment))}, and copy once more")


def _data(each: Certificate) -> dict[str, object]:
    return {
        "certificate": each.holder,
        "file": str(each.file),
        "valid_from": each.valid_from.isoformat(),
        "valid_to": each.valid_to.isoformat(),
        "days_left": round(each.days_left, 2),
        "fingerprint_sha256": each.fingerprint,
    }
