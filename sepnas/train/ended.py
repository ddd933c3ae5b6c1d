"""What a training that a signal ended leaves behind, and what the next one in its folder says of it."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

RUNNING = "running.json"
ADVICE = (
    "where it was not you who ended it, memory was short (`batch_size` in the recipe), or a library crashed: if it "
    "does so again, try --threads 1, or a recipe with `channels_last: false`"
)


@contextmanager
def noted_while_running(folder: Path) -> Iterator[None]:
    """Keep a note in ``folder`` for as long as this runs; warn of one that an earlier training could not remove.

    A process that is killed or crashes (SIGKILL, SIGSEGV, SIGBUS, SIGILL, a power failure) removes nothing. Only who
    holds the folder's lock may ask. A folder that takes no note makes no difference.
    """
    note = folder / RUNNING
    if note.exists():
        process = _process_of(note)
        warnings.warn(f"{folder}: the training{process} here ended without a word; {ADVICE}", stacklevel=2)
    with suppress(OSError):
        note.write_text(json.dumps({"process": os.getpid()}))
    try:
        yield
    finally:
        with suppress(OSError):
            note.unlink(missing_ok=True)


def _process_of(note: Path) -> str:
    try:
        number = json.loads(note.read_text())["process"]
    except (OSError, ValueError, KeyError, TypeError):
        return ""
    return f" of process {number}" if isinstance(number, int) else ""
