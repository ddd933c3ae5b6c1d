"""``sepnas status``: the state of a deployment's devices, as a table."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime, timedelta, timezone
from typing import Annotated, Any

import typer
from rich.console import Group
from rich.live import Live
from rich.text import Text

from sepnas.cli.options import SOON_DAYS, Deployment, HostsFile, Insecure
from sepnas.console import DataConsole, console, print_json
from sepnas.runtime.client.status import DeviceStatus, Inspector
from sepnas.tables import DataColumn, DataTable, text_column
from sepnas.terminal import one_line
from sepnas.units import format_bytes, seconds

LOOK_EVERY_S = 1.0
_WIDE = 150
"""On a narrower terminal, activity and identity of the devices are two tables."""
_DOES = ("is", "trip", "up", "served", "failed", "missed", "session")
_IS = ("engine", "°C", "load", "memory", "certificate", "sepnas")
_NUMBERS = frozenset({"trip", "up", "served", "failed", "missed", "°C", "load", "memory"})
_DROPS = {"sepnas": 8, "load": 7, "trip": 6, "up": 5, "session": 4, "°C": 3, "certificate": 2, "missed": 1}
"""Columns that are left out if even two tables do not fit, the highest number first."""
_PIPE = 10_000
_STYLES = {"not needed": "dim", "ready": "green", "serving": "bold green"}


def status(
    deployment: Deployment,
    devices: HostsFile = None,
    watch: Annotated[bool, typer.Option("--watch", help="Repeat every second until Ctrl-C.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    insecure: Insecure = False,
) -> None:
    """Show the state of each device: readiness, work since its worker started, and its machine.

    All devices are queried at once and beside their current session, which is not disturbed. A device that does not
    answer within two seconds is frozen, hung or unreachable. `failed` counts requests that a device could not complete
    or whose client stopped waiting; `missed` counts messages that a degrading session went on without. Figures that a
    device's system does not provide are empty. `--json` has all figures, and failures by code.

    Devices that the network does not need are not queried. Exit code: 0 if all others are ready, 1 otherwise; with
    `--watch`, the state when Ctrl-C ended it.

    Example: `sepnas status deployment --devices hosts.yaml --watch`
    """
    if watch and json_:
        raise typer.BadParameter("prints one state: no --watch", param_hint="--json")
    with Inspector(deployment, devices, insecure) as inspector:
        rows = inspector.look()
        if watch:
            rows = _watch(inspector, rows)
        elif json_:
            print_json([_to_data(row) for row in rows])
        else:
            _print(rows)
    if not all(row.is_there for row in rows):
        raise typer.Exit(1)


def _print(rows: list[DeviceStatus]) -> None:
    """Print the table; in full if the output is not a terminal."""
    if console.is_terminal:
        console.print(_page(rows, console.width))
    else:
        DataConsole(width=_PIPE).print(_page(rows, None))


def _watch(inspector: Inspector, rows: list[DeviceStatus]) -> list[DeviceStatus]:
    with Live(console=console, auto_refresh=False) as live:
        try:
            while True:
                next_look = time.monotonic() + LOOK_EVERY_S
                live.update(_page(rows, console.width), refresh=True)
                time.sleep(max(0.0, next_look - time.monotonic()))
                rows = inspector.look()
        except KeyboardInterrupt:
            return rows  # the regular end of --watch


def _page(rows: Sequence[DeviceStatus], width: int | None) -> Group:
    """The table, or two on a narrow terminal, followed by the problems of each device."""
    cells = [_cells(row) for row in rows]
    wide = width is None or width >= _WIDE
    tables = [_table(heads, cells).fitted(width) for heads in ([(*_DOES, *_IS)] if wide else [_DOES, _IS])]
    notes = [Text(one_line(_note(row))) for row in rows if row.why]
    notes += [_certificate_note(row) for row in rows if _days_left(row) < SOON_DAYS]
    return Group(*tables, *notes)


def _table(heads: Sequence[str], rows: Sequence[dict[str, Text]]) -> DataTable:
    columns = [DataColumn(head, head in _NUMBERS, _DROPS.get(head, 0)) for head in heads]
    table = DataTable((text_column("device"), *columns), rule=False)
    for cells in rows:
        table.add(cells["device"], *(cells.get(head, "") for head in heads))
    return table


def _cells(row: DeviceStatus) -> dict[str, Text]:
    """The cells of a row by column; few for a device that does not answer."""
    found, end = row.status, row.certificate_end
    until = "" if end is None else f"{end:%Y-%m-%d}, {_days_left(row):.0f} d"
    cells = {"device": str(row.rank), "is": row.state}
    if found is not None:
        session = found.session
        since = "" if session is None else _time_of_day(session.open_s)
        cells |= {
            "trip": "" if row.round_trip_s is None else seconds(row.round_trip_s),
            "up": _duration(found.uptime_s),
            "served": f"{found.served:,}",
            "failed": f"{sum(found.failed.values()):,}",
            "missed": f"{found.missed:,}",
            "session": "" if session is None else f"{session.name} since {since}",
            "engine": found.engine,
            "°C": _or_empty(found.temperature_c),
            "load": _or_empty(found.load, 2),
            "memory": "" if found.memory_bytes is None else format_bytes(found.memory_bytes),
            "certificate": until,
            "sepnas": found.version,
        }
    texts = {head: Text(one_line(cell)) for head, cell in cells.items()}
    texts["is"].stylize(_STYLES.get(row.state, "bold red"))
    return texts


def _note(row: DeviceStatus) -> str:
    return f"device {row.rank} is not needed: {row.why}" if row.state == "not needed" else row.why


def _certificate_note(row: DeviceStatus) -> Text:
    left = _days_left(row)
    return Text(f"device {row.rank}: its certificate ends in {left:.0f} days; renew it", style="yellow")


def _days_left(row: DeviceStatus) -> float:
    if row.certificate_end is None:
        return float("inf")
    return (row.certificate_end - datetime.now(timezone.utc)) / timedelta(days=1)


def _time_of_day(ago_s: float) -> str:
    then = datetime.now() - timedelta(seconds=min(ago_s, 1e8))
    return f"{then:%H:%M:%S}" if ago_s < 86_400 else f"{then:%Y-%m-%d}"


def _duration(duration_s: float) -> str:
    """12.4 as ``12 s``, 100000 as ``1 d 3 h``: two units at most."""
    left = int(duration_s)
    parts: list[str] = []
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min"), (1, "s")):
        if left >= size or (unit == "s" and not parts):
            parts.append(f"{left // size} {unit}")
            left %= size
    return " ".join(parts[:2])


def _or_empty(value: float | None, digits: int = 0) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _to_data(row: DeviceStatus) -> dict[str, Any]:
    end = row.certificate_end
    found: dict[str, Any] = {} if row.status is None else row.status.model_dump(exclude={"rank"})
    days = {} if end is None else {"certificate_days_left": round(_days_left(row), 1)}
    told = {name: value for name, value in asdict(row).items() if name not in ("status", "certificate_end")}
    return told | {"certificate_end": end and end.isoformat()} | days | found
