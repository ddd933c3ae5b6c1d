"""Every registered engine keeps the contract of engines."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sepnas.deployment.engines.kind import EngineKind
from sepnas.deployment.engines.registry import engine_names, engines
from sepnas.nets.separable import SeparableNetwork
from sepnas.testing.engines import EXACT, EngineContract
from tests.helpers_runtime import export_tiny

INT8_TOLERANCE = 0.25
"""Of a segment; the accuracy of int8 on images is in ``tests/deploy``."""


@pytest.fixture(scope="module")
def for_all(network: SeparableNetwork, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``network`` exported for all engines."""
    folder = tmp_path_factory.mktemp("all") / "deployment"
    images_NCHW = torch.randn(16, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    export_tiny(network, folder, engine_names(), calibration_NCHW=images_NCHW)
    return folder


@pytest.mark.parametrize("name", engine_names())
class TestRegisteredEngines(EngineContract):
    """All engines, on the first of two devices."""

    @pytest.fixture
    def kind(self, name: str) -> EngineKind:
        return engines()[name]

    @pytest.fixture
    def device(self, for_all: Path) -> Path:
        return for_all / "device0"

    @pytest.fixture
    def tolerance(self, kind: EngineKind) -> float:
        return EXACT if kind.exact else INT8_TOLERANCE
