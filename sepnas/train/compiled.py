"""``torch.compile`` for a step's forward pass, with clear errors if compilation fails."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

from sepnas.errors import TrainingError

Result = TypeVar("Result")


def compiled(function: Callable[..., Result]) -> Callable[..., Result]:
    """``function``, compiled for each shape of its arguments; batches have at most two sizes.

    The result raises :class:`TrainingError` if there is no compiler or compilation fails.
    """
    fast: Callable[..., Result] = torch.compile(function, dynamic=False)

    def call(*arguments: object) -> Result:
        try:
            return fast(*arguments)
        except torch._dynamo.exc.TorchDynamoException as error:
            lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
            raise TrainingError(f"torch.compile fails here: {lines[0]}; train uncompiled") from error

    return call
