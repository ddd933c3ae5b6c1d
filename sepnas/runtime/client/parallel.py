"""Running one function for several devices at the same time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection

from sepnas.runtime.unexpected import start_thread, survives


def for_each_rank(ranks: Collection[int], run: Callable[[int], None]) -> None:
    """Call ``run`` for every rank and return when all calls have ended.

    Each call gets a thread of its own; where the machine has none left, it runs in the calling thread.
    """
    ended = threading.Semaphore(0)

    def run_and_count(rank: int) -> None:
        with survives("a session"):
            run(rank)
        ended.release()

    for rank in ranks:
        if not start_thread(run_and_count, rank):
            run_and_count(rank)
    for _ in ranks:
        ended.acquire()
