"""Linear algebra of numpy and scipy on one thread.

The matrices of a separation are small. On a busy machine threads that wait for each other take fifteen times as long,
and on several threads rounding differs, so that the same network may be separated otherwise.
"""

from __future__ import annotations

from contextlib import AbstractContextManager

from threadpoolctl import threadpool_limits


def linear_algebra_on_one_thread() -> AbstractContextManager[object]:
    """Within the block; torch keeps its threads."""
    limits: AbstractContextManager[object] = threadpool_limits(1, user_api="blas")
    return limits
