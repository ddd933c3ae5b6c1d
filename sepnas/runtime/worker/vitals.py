"""Temperature, load and memory of this machine and process; None where the system does not provide them."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

_THERMAL = Path("/sys/class/thermal")


def temperature_c(folder: Path = _THERMAL) -> float | None:
    """Temperature of the hottest thermal zone that Linux knows, in degrees Celsius."""
    found = []
    for zone in folder.glob("thermal_zone*/temp"):
        with contextlib.suppress(OSError, ValueError):  # some zones cannot be read while their part sleeps
            found.append(int(zone.read_text()) / 1e3)
    return max(found, default=None)


def load_average() -> float | None:
    """Average number of running and runnable processes over the last minute."""
    try:
        return os.getloadavg()[0]
    except (AttributeError, OSError):
        return None


def memory_bytes(process: int | str = "self") -> int | None:
    """Resident memory of a process, given by its id."""
    try:
        return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError, IndexError):
        return None
