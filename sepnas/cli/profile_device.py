"""``sepnas profile device``: measure this machine, and add it to a cluster file."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.progress import BarColumn, Progress, TextColumn

from sepnas.cli.options import PATH
from sepnas.console import errors, say, warn
from sepnas.deployment.engines.registry import exact_engines
from sepnas.plan.wire import CONVERTED
from sepnas.spec.arguments import MAX_THREADS
from sepnas.spec.cluster import Cluster, format_pairs
from sepnas.spec.document import refuse_folder
from sepnas.spec.folder_lock import changing
from sepnas.tables import DataTable, print_table, text_column
from sepnas.units import format_bytes, format_count, format_seconds, seconds

if TYPE_CHECKING:
    from sepnas.measure.device import MeasuredDevice

    ProfiledEngine = str
else:
    ProfiledEngine = Literal[exact_engines()]


def device_command(
    out: Annotated[Path, typer.Option(help="The cluster file to write, or to add the device to.", **PATH)] = Path(
        "cluster.yaml"
    ),
    name: Annotated[str | None, typer.Option(help="The device's name in the cluster [this machine's].")] = None,
    engine: Annotated[
        ProfiledEngine,
        typer.Option(help="The engine of the worker; times differ between engines."),
    ] = "torch",
    threads: Annotated[int, typer.Option(min=1, max=MAX_THREADS, help="Threads of the engine, as in the worker.")] = 1,
    seconds_: Annotated[
        float,
        typer.Option(
            "--seconds", min=1, max=86400, help="Time limit in seconds; the first network is always measured."
        ),
    ] = 180.0,
) -> None:
    """Measure this machine: the time of each operator, and the processor time of messages.

    Run it on each device while nothing else runs there. Operators of the networks that a search can find are timed as a
    worker runs them; for engines that fuse operators, within layers and chains of layers. Rounds repeat until the
    medians of the first and the second half differ by at most 3 % for nine segments of ten, or until the time limit. An
    existing cluster file keeps its other devices and its links, but not its comments; its devices are in the order of
    ranks.

    Example: `sepnas profile device --out cluster.yaml --name board0`
    """
    from sepnas.measure.device import measure_device

    refuse_folder(out)
    if name == "":
        raise typer.BadParameter("must not be empty", param_hint="--name")
    if out.exists():
        Cluster.load(out)  # a wrong file is refused before the measurement
    with _bar(seconds_) as progress:
        found = measure_device(
            name or platform.node() or "device0", engine=engine, threads=threads, seconds=seconds_, progress=progress
        )
    _write(found, out)


def _write(found: MeasuredDevice, out: Path) -> None:
    """Add the device to the cluster file, and print it."""
    from sepnas.measure.device import with_device

    with changing(out):  # read again: other devices may have been measured meanwhile
        before = Cluster.load(out) if out.exists() else None
        cluster = with_device(before, found.device)
        cluster.save(out, f"Device {found.device.name} was measured by `sepnas profile device`.")
    print_table(_table(found))
    _say_how_sure(found)
    say(f"{out}: {'a new cluster of' if before is None else 'now has'} {_names(cluster)}")
    if before is not None and len(cluster.devices) > len(before.devices):
        say(f"{found.device.name} was added as rank {len(before.devices)}; use --name to replace another device")
    missing = cluster.missing_links()
    if missing:
        say(f"no link yet between {format_pairs(missing)}: add them to `links`, or run `sepnas profile links`")


@contextmanager
def _bar(limit_s: float) -> Iterator[Callable[[float, str], None]]:
    """A progress bar on stderr up to the time limit; the measurement often ends earlier."""
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("at most {task.fields[left]} left"))
    with Progress(*columns, console=errors, transient=True) as bar:
        task = bar.add_task("measuring", total=limit_s, left=seconds(limit_s))

        def show(done_s: float, what: str) -> None:
            left = max(0.0, limit_s - done_s)
            bar.update(task, completed=min(done_s, limit_s), description=what, left=f"{left:.0f} s")

        yield show


def _table(found: MeasuredDevice) -> DataTable:
    device = found.device
    profile, exchange = device.profile, device.exchange
    assert profile is not None
    assert exchange is not None
    machine = profile.machine
    times = [row.seconds for row in profile.operators]
    title = f"{device.name}: {machine.engine} {machine.engine_version}, threads: {machine.threads}"
    table = DataTable((text_column(""), text_column("")), title, show_header=False)
    table.add("processor", f"{machine.cpu}, {format_count(machine.cores, 'core')}, {machine.architecture}")
    shown = f"{len(times)}, {format_seconds(min(times))} to {format_seconds(max(times))}"
    table.add("operators", f"{shown}, {format_count(found.rounds, 'round')}")
    table.add("a call of the engine", _affine(profile.segment_overhead_s, profile.segment_s_per_value, "value"))
    table.add("in two numbers", f"{device.flops_per_s / 1e9:.3g} GFLOP/s, {format_seconds(device.layer_overhead_s)}")
    how = "TLS" if found.with_tls else "plain"
    table.add(f"a message ({how})", _affine(exchange.message_s, exchange.byte_s, "byte"))
    for wire in CONVERTED:
        table.add(f"converting {wire}", _affine(exchange.convert_s, exchange.convert_s_per_value.of(wire), "value"))
    table.add("merging", _affine(exchange.merge_s, exchange.merge_s_per_value, "value"))
    table.add("resuming after a wait", format_seconds(exchange.resume_s))
    table.add("a core for messages", "yes" if exchange.own_core else "no")
    table.add("memory available", format_bytes(device.memory_bytes))
    table.add("jitter of a call", f"{device.jitter:.1%}")
    table.add("noise", f"{machine.noise:.1%}")
    return table


def _affine(constant_s: float, each_s: float, what: str) -> str:
    return f"{format_seconds(constant_s)} + {1e9 * each_s:.3g} ns a {what}"


def _say_how_sure(found: MeasuredDevice) -> None:
    from sepnas.measure.device import NOISY

    assert found.device.profile is not None
    noise = found.device.profile.machine.noise
    if noise >= NOISY:
        warn(f"this machine is noisy: repeated medians differ by {noise:.0%}; end other programs and measure again")
    elif not found.stable:
        say("the time limit ended before all medians settled; a larger --seconds gives more reliable figures")
    if found.left_out:
        known = len(found.device.profile.operators)
        say(
            f"the time limit ended with {known} of {known + found.left_out} operators measured; others are predicted "
            "from those (needs scikit-learn), or measured with a larger --seconds"
        )
    if not found.with_tls:
        warn(
            "messages were measured without TLS: certificates need the package cryptography "
            "(pip install 'sepnas[train]')"
        )


def _names(cluster: Cluster) -> str:
    names = ", ".join(device.name for device in cluster.devices)
    return f"{format_count(cluster.num_devices, 'device')}: {names}"
