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

Run it where `sepnas export` ran: the deployment's `authority/` signs the certificates.

Example: `sepnas certs show deployment`
"""


def show(
    deployment: Deployment,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Show each valid certificate: its validity and the start of its fingerprint (sha256).

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
    device: Annotated[list[int] | None, typer.Option(min=0, help="Rank of a device to renew; repeat for more.")] = None,
    client: Annotated[
        bool, typer.Option("--client", help="Renew only the client, or the client besides --device.")
    ] = False,
    authority: Annotated[
        bool, typer.Option("--authority", help="Also make a new authority; renews all certificates.")
    ] = False,
    days: Annotated[float | None, typer.Option(help="Validity in days [3650, or as long as the authority].")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Write them to this folder instead, laid out like the deployment.", **PATH)
    ] = None,
) -> None:
    """Make new keys and certificates for all devices and the client, signed by the deployment's authority.

    Each folder has either its old pair or its new one, never a mixture. Copy the folders listed at the end to the
    devices (`scp -rp` keeps the keys private). A worker uses its new certificate for the next connection, without a
    restart; open sessions continue. Old pairs stay valid until they expire: if a key was stolen, run `sepnas export
    --force`, which creates another authority that trusts none of them.

    `--authority` renews an authority that is about to expire. Devices trust the new one beside the old one, which signs
    one last time, so that the devices can be updated one after the other. Then renew once more.

    Example: `sepnas certs renew deployment --device 2 --days 365`
    """
    from sepnas.deploy.renew import renew as renew_certificates
    from sepnas.deployment.verify import load_manifest

    if authority and (device or client):
        raise typer.BadParameter(
            "applies to all devices and the client: no --device, no --client", param_hint="--authority"
        )
    ranks = sorted(set(device or ())) + ([CLIENT] if client else [])
    chosen = ranks or [*range(load_manifest(deployment).num_devices), CLIENT]
    renewed = renew_certificates(deployment, chosen, days, out, authority)
    _say(renewed, deployment, out or deployment, authority)


def _say(renewed: Sequence[Certificate], deployment: Path, target: Path, authority: bool) -> None:
    for each in renewed:
        say(f"{each.holder}: renewed, valid to {each.valid_to:%Y-%m-%d} ({each.days_left:.0f} days)")
    say("next, copy each folder to its device, and the client's to the clients:")
    for each in renewed:
        tls = target / each.holder / "tls"
        say(f"  scp -rp {shlex.quote(str(tls))} {each.holder.upper()}:PATH/TO/{each.holder}/")
    if authority:
        say(f"once all are copied: sepnas certs renew {shlex.quote(str(deployment))}, and copy once more")


def _data(each: Certificate) -> dict[str, object]:
    return {
        "certificate": each.holder,
        "file": str(each.file),
        "valid_from": each.valid_from.isoformat(),
        "valid_to": each.valid_to.isoformat(),
        "days_left": round(each.days_left, 2),
        "fingerprint_sha256": each.fingerprint,
    }
