"""``sepnas cluster``: write a cluster of common boards and links from presets, and show the presets."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer

from sepnas.cli.options import MAX_DEVICES, PATH, TEXT
from sepnas.console import print_json, say
from sepnas.spec.arguments import MAX_THREADS
from sepnas.spec.presets import (
    DevicePreset,
    Figure,
    LinkPreset,
    Origin,
    load_presets,
    preset_cluster,
    preset_names,
    preset_sources,
)
from sepnas.spec.writing import refuse_existing
from sepnas.tables import DataColumn, DataTable, print_table, text_column
from sepnas.units import format_bytes, format_count, format_threads, seconds

MEASURED = "figures that were measured"
Force = Annotated[bool, typer.Option("--force", help="Replace an existing cluster file, with any measured figures.")]
DEFAULT_LINK = "ethernet-100mbit"


def parse_devices(texts: Iterable[str]) -> Iterator[str]:
    """The presets of ``NAME`` and ``NAME:COUNT``, one for each device."""
    for text in texts:
        name, colon, digits = text.partition(":")
        digits = digits if colon else "1"
        # The length first: Python refuses to parse numbers of thousands of digits.
        if not (name and re.fullmatch("[0-9]{1,4}", digits) and 1 <= int(digits) <= MAX_DEVICES):
            raise typer.BadParameter(
                f"expected NAME or NAME:COUNT with a count of 1 to {MAX_DEVICES}, got {text!r}", param_hint="--device"
            )
        yield from [name] * int(digits)


def comment_for(devices: Sequence[str], link: str) -> str:
    """The first lines of a cluster file made from presets: nothing was measured, and the figures have these sources."""
    return "\n".join(
        (
            "Figures of presets, not of your devices: many are estimates (`sepnas cluster --list --json` says which).",
            "Run `sepnas profile device` on each device to replace them by measured ones. `threads` selects",
            "the `rates`: start workers with the same number, `sepnas worker --threads`. Sources:",
            *(f"- {source.title}\n  {source.address}" for source in preset_sources(devices, link)),
        )
    )


def print_presets() -> None:
    """Tables of the devices, the links and their sources; ``~`` marks an estimate."""
    presets = load_presets()
    numbers = {name: number for number, name in enumerate(presets.sources, start=1)}
    print_table(_device_table(presets.devices))
    say("")
    print_table(_link_table(presets.links))
    say("~ is an estimate; --json says how each figure came about. Sources:")
    for name, preset in (*presets.devices.items(), *presets.links.items()):
        say(f"{name}: {', '.join(str(number) for number in sorted(numbers[source] for source in preset.sources()))}")
    for name, source in presets.sources.items():
        say(f"[{numbers[name]}] {source.title}")
        say(f"    {source.address}")


def _device_table(devices: Mapping[str, DevicePreset]) -> DataTable:
    """Speeds are given for one thread and for all cores, ``GFLOP/s`` for matrix products."""
    power = DataColumn("idle,\nW", drop=2), DataColumn("busy, W:\n1, all", drop=1)
    columns = DataColumn("cores"), DataColumn("GFLOP/s:\n1, all"), DataColumn("operator", drop=3)
    table = DataTable((text_column("device"), *columns, DataColumn("memory"), *power))
    for name, preset in devices.items():
        one, every = preset.rates.value[0], preset.rates.value[-1]
        rates = (f"{each.dense_flops_per_s / 1e9:.1f}" for each in (one, every))
        table.add(
            name,
            str(preset.rates.all_threads),
            _shown(preset.rates, ", ".join(rates)),
            _shown(preset.rates, seconds(every.operator_s)),
            _shown(preset.memory_bytes, format_bytes(preset.memory_bytes.value)),
            _shown(preset.idle_w, f"{preset.idle_w.value:.2f}"),
            f"{_watts(preset.compute_w)}, {_watts(preset.all_cores_w)}",
        )
    return table


def _watts(figure: Figure) -> str:
    return _shown(figure, f"+{figure.value:.2f}")


def _link_table(links: Mapping[str, LinkPreset]) -> DataTable:
    rest = DataColumn("message", drop=1), DataColumn("J/byte", drop=2), text_column("medium", drop=3)
    table = DataTable((text_column("link"), *map(DataColumn, ("bytes/s", "latency")), *rest))
    for name, preset in links.items():
        table.add(
            name,
            _shown(preset.bandwidth_bytes_per_s, format_bytes(preset.bandwidth_bytes_per_s.value)),
            _shown(preset.latency_s, seconds(preset.latency_s.value)),
            _shown(preset.message_overhead_s, seconds(preset.message_overhead_s.value)),
            _shown(preset.energy_per_byte_j, f"{preset.energy_per_byte_j.value:.3g}"),
            preset.medium,
        )
    return table


def _shown(figure: Origin, value: str) -> str:
    return f"~{value}" if figure.estimate else value


def cluster(
    device: Annotated[list[str] | None, typer.Option(help="A device preset, or NAME:COUNT; repeat for more.")] = None,
    link: Annotated[str, typer.Option(help="The preset of the link between all devices.", **TEXT)] = DEFAULT_LINK,
    out: Annotated[Path, typer.Option(help="The cluster file to write.", **PATH)] = Path("cluster.yaml"),
    name: Annotated[str, typer.Option(help="The cluster's name.", **TEXT)] = "presets",
    threads: Annotated[
        int | None, typer.Option(min=1, max=MAX_THREADS, help="Threads of each device's worker [all of its cores].")
    ] = None,
    force: Force = False,
    list_: Annotated[bool, typer.Option("--list", help="Show the presets, with figures and sources.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="With --list: print JSON instead of tables.")] = False,
) -> None:
    """Write a cluster file of common boards, before anything is measured.

    `--list` shows the presets of devices and links, the sources of their figures, and which figures are estimates.
    Speeds are those of an engine with tuned kernels on the CPU, on all cores of a device: this is what several devices
    have to beat. `--threads 1` describes workers that compute on one core. Replace the figures with measurements
    (`sepnas profile device`) once you have the devices.

    Example: `sepnas cluster --device raspberry-pi-4b:4 --link ethernet-100mbit --out cluster.yaml`
    """
    if list_ and device:
        raise typer.BadParameter("only shows the presets: no --device", param_hint="--list")
    if list_ and threads is not None:
        raise typer.BadParameter("shows one thread and all cores: no --threads", param_hint="--list")
    if json_ and not list_:
        raise typer.BadParameter("goes with --list", param_hint="--json")
    if json_:
        print_json(load_presets().to_data())
    elif list_:
        print_presets()
    else:
        _write(device or [], link, out, name, threads, force)


def _write(device: Sequence[str], link: str, out: Path, name: str, threads: int | None, force: bool) -> None:
    if not device:
        raise typer.BadParameter(f"name at least one: {', '.join(preset_names().devices)}", param_hint="--device")
    refuse_existing(out, force, MEASURED)
    kinds = list(parse_devices(device))
    made = preset_cluster(kinds, link, name, threads=threads)
    made.save(out, comment_for(kinds, link))
    say(
        f"{out}: {format_count(len(kinds), 'device')} linked by {link}, {format_threads(made.threads)}; figures of "
        "presets, not measured"
    )
    given = f"--cluster {shlex.quote(str(out))}"
    say(f"next: sepnas partition NETWORK {given}, or sepnas search SPACE {given}")
