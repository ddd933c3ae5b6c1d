"""What the drivers here share: their options, and trainings side by side, each in a process of its own."""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from sepnas.errors import SepnasError
from sepnas.results.provenance import command_line

PLACES = ("--data-root", "--out", "--kept")
"""Options that say where files lie, and change no result."""


def parser_of(description: str | None, out: Path) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--data", default="folder:data/cifar100", help="cifar100 (torchvision), or folder:PATH")
    parser.add_argument("--data-root", type=Path, default=None, help="where torchvision's files lie")
    parser.add_argument("--out", type=Path, default=out)
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--jobs", type=int, default=2, help="trainings side by side, each with one thread")
    parser.add_argument("--child", default=None, metavar="NAME", help=argparse.SUPPRESS)
    return parser


def threads_of(chosen: argparse.Namespace) -> int | None:
    """Of torch, for each training; None: as many as are good for it."""
    return 1 if chosen.jobs > 1 else None


def command_of() -> str:
    """The running command as a result records it: without the places of files, which differ from machine to machine."""
    places = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for option in PLACES:
        places.add_argument(option)
    return command_line([sys.argv[0], *places.parse_known_args()[1]])


def run_children(names: Sequence[str], jobs: int, told: Callable[[str], object]) -> None:
    """This command again for each name; ``told`` gives what is printed of one that has ended.

    Ctrl-C and SIGTERM end them, and they go on where they were. Raises ``SystemExit`` at the end where some failed.
    """
    running: dict[str, subprocess.Popen[bytes]] = {}

    def start(name: str) -> bool:
        print(f"{name} ...", flush=True)
        running[name] = subprocess.Popen([sys.executable, *sys.argv, "--child", name])
        failed = running[name].wait()
        print(f"{name}: {f'failed ({failed})' if failed else told(name)}", flush=True)
        return not failed

    with _interrupted_by(signal.SIGTERM), ThreadPoolExecutor(jobs) as pool:
        try:
            well = list(pool.map(start, names))
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            for child in running.values():
                child.terminate()
            raise SystemExit("stopped; the same command goes on") from None
    if not all(well):
        raise SystemExit(f"{well.count(False)} of {len(names)} trainings failed; the same command tries them again")


def run_main(main: Callable[[], None]) -> None:
    """A driver, whose errors are messages."""
    try:
        main()
    except SepnasError as error:
        raise SystemExit(f"error: {error}") from None


@contextmanager
def _interrupted_by(number: signal.Signals) -> Iterator[None]:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(number, interrupt)
    try:
        yield
    finally:
        signal.signal(number, before)
