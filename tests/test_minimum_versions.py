"""The least versions that pyproject.toml allows a device to have do work."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from sepnas.local.processes import LocalWorkers
from tests.helpers_runtime import export_tiny, lively_network, pair_architecture

tomllib = pytest.importorskip("tomllib", reason="Python 3.11 reads TOML")
ROOT = Path(__file__).resolve().parent.parent


def pins() -> list[str]:
    """Of the base install and of the extra `onnxruntime`: the least version of each."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["onnxruntime"]]
    return [f"{name}=={least}" for name, least in (re.fullmatch(r"([\w-]+)>=([\d.]+)", w).groups() for w in wanted)]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_device_runs_with_the_least_versions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A venv with them gives help, and workers and an `infer` that answer a deployment."""
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python = str(tmp_path / "venv" / "bin" / "python")
    subprocess.run([python, "-m", "pip", "install", "-q", "--only-binary", ":all:", *pins()], check=True)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))

    def sepnas(*arguments: object) -> str:
        command = [python, "-m", "sepnas", *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, env=os.environ)
        assert done.returncode == 0, done.stderr
        return done.stdout

    for verb in ((), ("worker",), ("infer",), ("search",)):
        assert "Usage" in sepnas(*verb, "--help")
    export_tiny(lively_network(pair_architecture()), tmp_path / "d", engines=("onnxruntime",))
    Image.effect_noise((8, 8), 50).save(tmp_path / "image.png")
    monkeypatch.setattr(sys, "executable", python)
    with LocalWorkers(tmp_path / "d", 2) as workers:
        hosts = workers.hosts.save(tmp_path / "hosts.yaml")
        assert "class " in sepnas("infer", tmp_path / "d", tmp_path / "image.png", "--devices", hosts)
