"""Messages about a training that a signal ended: immediately, and by the next training in its folder."""

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
    "if nobody stopped it, memory was short (`batch_size` in the recipe), or a library crashed: if that "
    "happens again, try one thread, or a recipe with `channels_last: false`"
)


_WATCH = 'read -r word || printf "%s\\n" "$1" >&2'
"""A shell waits for a word from this process and prints the message if the pipe closes without one."""


@contextmanager
def noted_while_running(folder: Path) -> Iterator[None]:
    """Keep a note in ``folder`` while the block runs; warn about a note that an earlier training left behind.

    A killed or crashed process (SIGKILL, SIGSEGV, SIGBUS, SIGILL, power failure) leaves its note. The caller must hold
    the folder's lock. If the note cannot be written, training continues. A watcher also reports the end immediately.
    """
    note = folder / RUNNING
    if is_there(note):
        process = _process_of(note)
        warnings.warn(f"{folder}: the training{process} here ended without a message; {ADVICE}", stacklevel=1)
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
    """Start a process that reports on stderr if this one ends before the block does; does nothing without a shell."""
    said = f"error: {folder}: the training of process {os.getpid()} here ended without a message; {ADVICE}"
    watcher, process = None, os.getpid()
    with suppress(OSError):
        watcher = subprocess.Popen(
            ["/bin/sh", "-c", _WATCH, "sh", one_line(said)], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
    try:
        yield
    finally:
        if watcher is not None and os.getpid() == process:  # not in a forked child
            with suppress(OSError):
                watcher.communicate(b"ended\n")


def _process_of(note: Path) -> str:
    try:
        number = json.loads(note.read_text())["process"]
    except (OSError, ValueError, KeyError, TypeError):
        return ""
    return f" of process {number}" if isinstance(number, int) else ""
