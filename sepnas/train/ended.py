"""What is said of a training that a signal ended: at once, and by the next one in its folder."""

from __future__ import annotations

import json
import os
import subprocess
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sepnas.spec.files import is_there
from sepnas.terminal import one_line

RUNNING = "running.json"
ADVICE = (
    "where it was not you who ended it, memory was short (`batch_size` in the recipe), or a library crashed: if it "
    "does so again, try --threads 1, or a recipe with `channels_last: false`"
)


_WATCH = 'read -r word || printf "%s\\n" "$1" >&2'
"""A shell waits for a word from this process; where the line ends without one, it tells."""


@contextmanager
def noted_while_running(folder: Path) -> Iterator[None]:
    """Keep a note in ``folder`` for as long as this runs; warn of one that an earlier training could not remove.

    A process that is killed or crashes (SIGKILL, SIGSEGV, SIGBUS, SIGILL, a power failure) removes nothing. Only who
    holds the folder's lock may ask. A folder that takes no note makes no difference. The end is told of at once, too.
    """
    note = folder / RUNNING
    if is_there(note):
        process = _process_of(note)
        warnings.warn(f"{folder}: the training{process} here ended without a word; {ADVICE}", stacklevel=1)
    with suppress(OSError):
        note.write_text(json.dumps({"process": os.getpid()}))
    try:
        with _watched(folder):
            yield
    finally:
        with suppress(OSError):
            note.unlink(missing_ok=True)


@contextmanager
def _watched(folder: Path) -> Iterator[None]:
    """Another process says on stderr when this one ends before the block does; without a shell nobody does."""
    said = f"error: {folder}: the training of process {os.getpid()} here ended without a word; {ADVICE}"
    watcher, process = None, os.getpid()
    with suppress(OSError):
        watcher = subprocess.Popen(
            ["/bin/sh", "-c", _WATCH, "sh", one_line(said)], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
    try:
        yield
    finally:
        if watcher is not None and os.getpid() == process:  # not in a child of a fork
            with suppress(OSError):
                watcher.communicate(b"ended\n")


def _process_of(note: Path) -> str:
    try:
        number = json.loads(note.read_text())["process"]
    except (OSError, ValueError, KeyError, TypeError):
        return ""
    return f" of process {number}" if isinstance(number, int) else ""
