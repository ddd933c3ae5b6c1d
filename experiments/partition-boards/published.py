"""Times that ncnn publishes: one board alone, its CPU, one thread and all cores, in its ``benchmark/README.md``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

COMMIT = "a4d2ea1d4422c9e849f166fd7a4aefb52f942f6a"
HEADINGS = {
    "raspberry-pi-zero-2w": "### Raspberry Pi Zero 2 W",
    "raspberry-pi-3b-plus": "### Raspberry Pi 3 Model B+",
    "raspberry-pi-4b": "### Raspberry Pi 4 Model B",
    "raspberry-pi-5": "### Raspberry Pi 5 Broadcom BCM2712, Cortex-A76",
    "jetson-nano": "### NVIDIA Jetson Nano",
    "jetson-orin-nano": "### NVIDIA Jetson Orin Nano",
}
"""Our presets, and the headings of their sections there."""
_SETTING = re.compile(r"(num_threads|gpu_device) = (-?\d+)")
_ROW = re.compile(r"\s*(\S+)\s+min =\s*([\d.]+)\s+max =\s*([\d.]+)\s+avg =\s*([\d.]+)")
_CPU = -1


@dataclass(frozen=True)
class Published:
    """The time of one network on one board: the mean of some passes, and the shortest and longest of them."""

    board: str
    threads: int
    network: str
    mean_s: float
    least_s: float
    most_s: float


def read_published(path: Path) -> list[Published]:
    """All rows of our boards' sections that were measured on the CPU."""
    if not path.exists():
        address = f"https://github.com/Tencent/ncnn/blob/{COMMIT}/benchmark/README.md"
        raise SystemExit(f"{path} does not exist: save {address} (its text) there, or name it by --table")
    lines = path.read_text(encoding="utf-8").splitlines()
    return [row for board, heading in HEADINGS.items() for row in _section(board, _lines_of(lines, heading))]


def _lines_of(lines: list[str], heading: str) -> list[str]:
    first = next(at for at, line in enumerate(lines) if line.startswith(heading))
    ends = (at for at, line in enumerate(lines) if at > first and line.startswith("### "))
    return lines[first + 1 : next(ends, len(lines))]


def _section(board: str, lines: list[str]) -> Iterator[Published]:
    settings = {"num_threads": 0, "gpu_device": 0}
    for line in lines:
        if setting := _SETTING.match(line):
            settings[setting[1]] = int(setting[2])
        elif (row := _ROW.match(line)) and settings["gpu_device"] == _CPU:
            least_s, most_s, mean_s = (float(each) / 1e3 for each in row.groups()[1:])
            yield Published(board, settings["num_threads"], row[1], mean_s, least_s, most_s)
