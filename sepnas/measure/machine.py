"""Facts about this machine, from the standard library alone."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import warnings
from datetime import date
from pathlib import Path

from sepnas.deployment.engines.registry import engines
from sepnas.spec.cluster import Cluster, Device
from sepnas.spec.device_profile import MeasuredMachine

DEFAULT_MEMORY_BYTES = 1 << 30
_SAME_MACHINE = ("cpu", "engine", "engine_version")
"""Fields that must agree for two profiles to be comparable."""


def measured_machine(engine: str, threads: int, noise: float) -> MeasuredMachine:
    """This machine with an engine, as of today."""
    kind = engines()[engine]
    return MeasuredMachine(
        cpu=cpu_model(),
        cores=usable_cores(),
        architecture=platform.machine() or "unknown",
        os=f"{platform.system()} {platform.release()}".strip() or "unknown",
        python=platform.python_version(),
        engine=engine,
        engine_version=installed_version(kind.version_of) or "unknown",
        threads=threads,
        date=date.today().isoformat(),
        noise=noise,
    )


def cpu_model() -> str:
    """The name of the processor, or of the board if the processor has none."""
    facts = _facts(Path("/proc/cpuinfo"))
    return facts.get("model name") or facts.get("Model") or platform.processor() or platform.machine() or "unknown"


def usable_cores() -> int:
    """The number of cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def available_memory_bytes() -> int:
    """Memory that programs may still allocate; if unknown, the total memory; if that is unknown too, a default."""
    kilobytes = _facts(Path("/proc/meminfo")).get("MemAvailable", "").removesuffix("kB").strip()
    if kilobytes.isdigit() and int(kilobytes):
        return int(kilobytes) << 10
    try:
        found = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        found = 0
    return found if found > 0 else DEFAULT_MEMORY_BYTES


def installed_version(package: str) -> str | None:
    """The version of a package, looked up without importing it."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def warn_of_another_machine(before: Device, after: Device) -> None:
    """Warn if a device's new profile was measured on another processor or with another engine than its old one."""
    if before.profile is None or after.profile is None:
        return
    for name in _SAME_MACHINE:
        old, new = (getattr(device.profile.machine, name) for device in (before, after) if device.profile)
        if old != new:
            warnings.warn(
                f"device '{after.name}' was measured with `{name}` {old}, now with {new}; is it the same device?",
                stacklevel=2,
            )


def warn_of_another_engine(cluster: Cluster) -> None:
    """Warn if devices were measured with another version of their engine than the one installed here.

    Builds of one version (``2.13.0+cpu``) count as equal; if the engine is not installed, there is no warning.
    """
    found: dict[tuple[str, str], list[str]] = {}
    for device in cluster.devices:
        if device.profile is not None:
            machine = device.profile.machine
            found.setdefault((machine.engine, machine.engine_version), []).append(device.name)
    for (engine, version), names in found.items():
        kind = engines().get(engine)
        here = installed_version(kind.version_of) if kind else None
        if here is not None and here.partition("+")[0] != version.partition("+")[0]:
            warnings.warn(
                f"cluster '{cluster.name}': {', '.join(names)} measured with {engine} {version}, but {engine} {here} "
                "is installed; measure again with `sepnas profile device`",
                stacklevel=2,
            )


def _facts(path: Path) -> dict[str, str]:
    """The ``name: value`` lines of a system file; empty if the file does not exist."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    pairs = (line.split(":", 1) for line in text.splitlines() if ":" in line)
    return {key.strip(): value.strip() for key, value in pairs}
