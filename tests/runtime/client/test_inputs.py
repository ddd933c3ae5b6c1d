"""Inputs of a request that are no arrays of numbers."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from sepnas.errors import DataError
from sepnas.runtime.client.inputs import prepare_inputs
from tests.helpers_ports import FACTS, inputs_of


@pytest.mark.parametrize("given", [[[1], [2, 3]], torch.zeros(2, requires_grad=True), {}, None, "text"])
def test_what_is_no_array_is_named(given: Any) -> None:
    """Whatever numpy makes of it, the input is named."""
    with pytest.raises(DataError, match="input 'image': "):
        prepare_inputs({**inputs_of(1), "image": given}, FACTS.inputs)
