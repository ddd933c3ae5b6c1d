"""What all tests share."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# a console that is made while a test sets COLUMNS keeps that width for all others
os.environ.pop("COLUMNS", None)

import pytest
import torch

import sepnas.cli.options  # noqa: F401  (the console)
from tests.helpers_runtime import export_tiny, lively_network, pair_architecture

if TYPE_CHECKING:
    from sepnas.nets.separable import SeparableNetwork
    from sepnas.search.run import SearchResult

# the networks of the tests are tiny: more threads would only wait for each other
torch.set_num_threads(1)
# a shell lets its background jobs ignore Ctrl-C, and so would the processes that tests start
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Whatever a test or the command line that it called has set."""
    yield
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def network() -> SeparableNetwork:
    """Two devices that exchange; not to be changed."""
    return lively_network(pair_architecture())


@pytest.fixture(scope="session")
def exported(network: SeparableNetwork, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``network`` as a deployment for both engines; not to be changed. All processes of a run share it."""
    own = tmp_path_factory.getbasetemp()
    run = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own
    folder = run / "exported" / "deployment"
    with (run / "exported.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            export_tiny(network, folder, ("torch", "onnxruntime"))
    return folder


@pytest.fixture
def begun(finished: SearchResult, tmp_path: Path) -> Path:
    """A copy of the module's ``finished`` search with its supernet trained and no candidate evaluated."""
    folder = tmp_path / "run"
    subprocess.run(["cp", "-r", str(finished.run_dir), str(folder)], check=True)
    (folder / "candidates.jsonl").unlink()
    (folder / "front.json").unlink()
    return folder
