"""Seeds: which ones there are, and those of the parts of a training, derived from one."""

from __future__ import annotations

import hashlib

from sepnas.errors import TrainingError

MAX_SEED = 2**32 - 1


def check_seed(seed: int) -> None:
    """Raise :class:`TrainingError` unless the seed is one that every library takes."""
    if not 0 <= seed <= MAX_SEED:
        raise TrainingError(f"`seed` must lie in 0..{MAX_SEED}, got {seed}")


def derived_seed(seed: int, *part: int | str) -> int:
    """A seed for a part of a run, such as an epoch, a step of it, far from those of its neighbours."""
    digest = hashlib.sha256(" ".join(["sepnas training", str(seed), *map(str, part)]).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
