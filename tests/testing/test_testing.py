"""The contract tests that ship with sepnas: what importing them needs, and that they are contracts."""

from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys

import pytest

import sepnas.testing

MODULES = [found.name for found in pkgutil.iter_modules(sepnas.testing.__path__, "sepnas.testing.")]
HEAVY = (
    "torch",
    "torchvision",
    "timm",
    "nni",
    "onnx",
    "onnxruntime",
    "ai_edge_litert",
    "sklearn",
    "matplotlib",
    "cryptography",
)


def test_importing_the_contracts_needs_pytest_and_numpy_only() -> None:
    """All modules of the package can be imported where no engine and no extra is installed."""
    hidden = "".join(f"sys.modules[{name!r}] = None\n" for name in HEAVY)
    imports = "".join(f"import {name}\n" for name in ("sepnas.testing", *MODULES))
    done = subprocess.run(
        [sys.executable, "-c", f"import sys\n{hidden}{imports}"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("module", MODULES)
def test_contracts_say_what_they_ask_for(module: str) -> None:
    """Each module has a docstring, and so has each contract and each of its tests."""
    found = importlib.import_module(module)
    contracts = [each for name, each in vars(found).items() if name.endswith("Contract") and isinstance(each, type)]
    tests = [each for kind in contracts for name, each in vars(kind).items() if name.startswith("test")]
    assert all(each.__doc__ for each in (found, *contracts, *tests))
