"""A Raspberry Pi 4 that is not there: Debian's Python for arm64 under QEMU's user-mode emulation of a Cortex-A72.

Everything comes from Debian's packages and PyPI and lies under one folder; nothing is installed on this machine, and no
root is needed.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CORE = "cortex-a72"
_APT = ("APT::Sandbox::User=root", "Dir::State::status=/dev/null", "APT::Architecture=arm64")
# QEMU 7.2 shows the /proc/cpuinfo of the x86 machine; onnxruntime 1.32 finds no ARM core in it and crashes on import.
# A file below the emulated root is shown instead. QEMU 10 writes one of its own.
_CPUINFO = "".join(
    f"processor\t: {core}\nBogoMIPS\t: 108.00\nFeatures\t: fp asimd evtstrm crc32 cpuid\nCPU implementer\t: 0x41\n"
    "CPU architecture: 8\nCPU variant\t: 0x0\nCPU part\t: 0xd08\nCPU revision\t: 3\n\n"
    for core in range(os.cpu_count() or 1)
)


class NoEmulationError(Exception):
    """An emulated board is not to be had on this machine; the message says why."""


class ArmBoard:
    """An emulated board with an environment of its own (``python``), below ``folder``."""

    def __init__(self, folder: Path) -> None:
        self.python = folder / "venv/bin/python"
        self._folder = folder
        if not (folder / "ready").exists():
            shutil.rmtree(folder, ignore_errors=True)
            self._make()
            (folder / "ready").touch()

    def run(self, *arguments: str | Path, timeout_s: float = 1500) -> str:
        """What ``python ARGUMENTS`` prints on the board; raises AssertionError with its errors when it fails."""
        # a folder of its own: no package of this repository on the path
        done = subprocess.run(
            [self.python, *arguments], cwd=self._folder, capture_output=True, text=True, timeout=timeout_s
        )
        assert done.returncode == 0, f"{done.args}: exit code {done.returncode}\n{done.stderr[-3000:]}"
        return done.stdout

    def install(self, *requirements: str) -> None:
        """As a user does on a device, with the versions that were checked."""
        self.run("-m", "pip", "install", "--quiet", "-c", ROOT / "constraints.txt", *requirements)

    def _make(self) -> None:
        if platform.machine() != "x86_64" or not all(map(shutil.which, ("apt-get", "dpkg-deb"))):
            raise NoEmulationError("needs Debian's apt-get and dpkg-deb on x86-64")
        self._unpack("emulator", "qemu-user-static:amd64")
        self._unpack("root", "python3", "libstdc++6", "libgomp1")
        (self._folder / "root/proc").mkdir()
        (self._folder / "root/proc/cpuinfo").write_text(_CPUINFO)
        site_packages = self._make_environment()
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", site_packages, "pip"]
        subprocess.run(pip, check=True)

    def _unpack(self, name: str, *packages: str) -> None:
        """Debian's packages with all that they depend on, unpacked below ``name``."""
        places = {"Dir::State::Lists": "apt/lists", "Dir::Cache": f"apt/{name}"}
        for place in ("lists", f"{name}/archives"):
            (self._folder / "apt" / place / "partial").mkdir(parents=True, exist_ok=True)
        settings = [*_APT, "APT::Architectures::=amd64", "APT::Architectures::=arm64"]
        settings += [f"{key}={self._folder / place}" for key, place in places.items()]
        apt = ["apt-get", "-qq", *(word for setting in settings for word in ("-o", setting))]
        for step in (["update"], ["install", "--yes", "--download-only", "--no-install-recommends", *packages]):
            done = subprocess.run([*apt, *step], capture_output=True, text=True)
            if done.returncode:
                raise NoEmulationError(f"apt-get {step[0]}: {(done.stderr.strip() or 'failed').splitlines()[-1]}")
        for package in (self._folder / f"apt/{name}/archives").glob("*.deb"):
            subprocess.run(["dpkg-deb", "-x", package, self._folder / name], check=True)

    def _make_environment(self) -> Path:
        """A virtual environment whose ``python`` is a script that starts the emulator; its site-packages."""
        names = ("qemu-aarch64-static", "qemu-aarch64")
        emulator = next(path for name in names if (path := self._folder / "emulator/usr/bin" / name).exists())
        found = (self._folder / "root/usr/bin/python3").resolve()
        site_packages = self._folder / "venv/lib" / found.name / "site-packages"
        for folder in (self.python.parent, site_packages):
            folder.mkdir(parents=True)
        (self._folder / "venv/pyvenv.cfg").write_text("home = /usr/bin\n")
        call = f"exec '{emulator}' -cpu {CORE} -L '{self._folder}/root' -0 '{self.python}' '{found}'"
        self.python.write_text(f'#!/bin/sh\n{call} "$@"\n')
        self.python.chmod(0o755)
        return site_packages
