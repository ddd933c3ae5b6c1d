"""The wheel, installed where nothing else is: what it holds, that it runs, and that its tests pass against it."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import sepnas

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ("sepnas", "tests", "pyproject.toml", "README.md", "LICENSE")
WITHOUT_TORCH = (
    "cost/test_cost.py",
    "cost/test_cost_exchange.py",
    "plan/test_plan.py",
    "runtime/protocol/test_protocol.py",
    "runtime/transport/test_sockets.py",
    "spec/test_addresses.py",
    "spec/test_presets.py",
    "spec/test_spec.py",
    "spec/test_writing.py",
    "testing/test_testing.py",
)
"""Tests that need neither the repository nor more than the base install."""
PYTHONS = ("3.10", "3.11", "3.12", "3.13")
TOOLS = ("pytest", "pytest-timeout", "hypothesis")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


@functools.cache
def interpreter(version: str) -> str | None:
    """A Python of this version, on the path or of pyenv; None where the machine has none."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    candidates = [sys.executable, shutil.which(f"python{version}"), *pyenv.glob(f"versions/{version}.*/bin/python")]
    code = "import sys; print('%d.%d' % sys.version_info[:2])"
    for candidate in filter(None, candidates):
        said = subprocess.run([candidate, "-c", code], capture_output=True, text=True, check=False)
        if said.stdout.strip() == version:
            return str(candidate)
    return None


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of what is in the repository now, built elsewhere: its tests are two folders above it."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in SOURCES:
        copy = functools.partial(shutil.copytree, ignore=shutil.ignore_patterns("__pycache__"))
        (copy if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, folder / name)
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--wheel-dir", folder / "dist", folder]
    subprocess.run(build, check=True)
    [built] = (folder / "dist").glob("*.whl")
    return built


@pytest.fixture(scope="module")
def python(request: pytest.FixtureRequest, wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment that holds the wheel's base install and pytest."""
    version = request.param
    found = interpreter(version)
    if found is None:
        pytest.skip(f"this machine has no Python {version}")
    venv = tmp_path_factory.mktemp(f"python{version}")
    subprocess.run([found, "-m", "venv", venv], check=True)
    subprocess.run([venv / "bin/python", "-m", "pip", "install", "-q", wheel, *TOOLS], check=True)
    return venv / "bin/python"


every_python = pytest.mark.parametrize("python", PYTHONS, indirect=True)


def outside(python: Path, folder: Path, *arguments: object) -> str:
    """What a command of the environment says, run in a folder that is not the repository, without its paths."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "COVERAGE"))}
    done = subprocess.run(
        [*map(str, arguments)], cwd=folder, env=environment | {"COLUMNS": "100"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_wheel_holds_the_package_and_its_data(wheel: Path) -> None:
    """Every file of sepnas/ but bytecode is in the wheel, with the licence, and nothing else is."""
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        assert any(name.endswith(".dist-info/licenses/LICENSE") for name in archive.namelist())
    package = {str(path.relative_to(ROOT)) for path in (ROOT / "sepnas").rglob("*") if path.is_file()}
    assert names == {name for name in package if "__pycache__" not in name}


@every_python
def test_a_base_install_works(python: Path, tmp_path: Path) -> None:
    """`sepnas --version`, `import sepnas` and the verbs that look work without any extra and without the repository."""
    command = python.parent / "sepnas"
    assert outside(python, tmp_path, command, "--version") == f"sepnas {sepnas.__version__}\n"
    place = outside(python, tmp_path, python, "-c", "import sepnas; print(sepnas.__file__)")
    assert str(python.parent.parent) in place
    assert "raspberry-pi-4b" in outside(python, tmp_path, command, "cluster", "--list")
    described = ("resnext20_4x4d", "--devices", "4", "--policy", "hand-made")
    for verb in ("describe", "simulate"):
        assert outside(python, tmp_path, command, verb, *described)
    for verb in ("worker", "infer", "search", "train", "export", "serve"):
        assert "Usage" in outside(python, tmp_path, command, verb, "--help")


@every_python
def test_the_wheels_tests_pass(python: Path, wheel: Path, tmp_path: Path) -> None:
    """The tests that need neither torch nor the repository pass against the installed wheel."""
    shutil.copytree(wheel.parents[1] / "tests", tmp_path / "tests")
    (tmp_path / "tests/conftest.py").unlink()  # it needs torch
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = slow: takes long\ntimeout = 180\n")
    paths = [f"tests/{name}" for name in WITHOUT_TORCH]
    said = outside(python, tmp_path, python, "-m", "pytest", "-q", "-m", "not slow", *paths)
    assert " passed" in said
