"""``torch.compile`` for a step's forward pass: where it helps, and what is said where it does not work."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

from sepnas.errors import TrainingError

Result = TypeVar("Result")


def compiled(function: Callable[..., Result]) -> Callable[..., Result]:
    """``function`` through the compiler, for each shape of its arguments: batches have two sizes at most.

    The result raises :class:`TrainingError` where there is no compiler, or it fails.
    """
    fast: Callable[..., Result] = torch.compile(function, dynamic=False)

    def call(*arguments: object) -> Result:
        try:
            return fast(*arguments)
        except torch._dynamo.exc.TorchDynamoException as error:
            lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
            raise TrainingError(f"torch.compile fails here: {lines[0]}; train without --compile") from error

    return call
