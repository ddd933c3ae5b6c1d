"""Seeds: the valid range, and seeds derived for the parts of a training."""

from __future__ import annotations

import hashlib

from sepnas.errors import TrainingError

MAX_SEED = 2**32 - 1


def check_seed(seed: int) -> None:
    """Raise :class:`TrainingError` unless every library accepts the seed."""
    if not 0 <= seed <= MAX_SEED:
        raise TrainingError(f"`seed` must lie in 0..{MAX_SEED}, got {seed}")


def derived_seed(seed: int, *part: int | str) -> int:
    """A seed for a part of a run, such as an epoch or a step, independent of its neighbours' seeds."""
    digest = hashlib.sha256(" ".join(["sepnas training", str(seed), *map(str, part)]).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
