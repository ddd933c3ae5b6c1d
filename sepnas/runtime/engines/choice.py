"""Which engine a worker takes: the one that was named, or the faster of those that are there.

``auto`` measures each in a process of its own: a worker has then loaded the one that it takes, and survives the other
where it crashes as it is loaded, as onnxruntime does on some boards. It chooses among engines that give the same
answers: int8 is taken where it is named.
"""

from __future__ import annotations

import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from sepnas.deployment.engines.kind import EngineKind, late
from sepnas.deployment.engines.registry import AUTO, engine_names, engines
from sepnas.errors import DeploymentError, SepnasError
from sepnas.runtime.engines.shard import Shard, load_shard
from sepnas.runtime.engines.torch_engine import Engine, calls_of_a_pass

ROUNDS = 9
_CHILD_S = 120.0


@dataclass(frozen=True)
class ChosenEngine:
    """An engine, and the words in which a worker tells of it."""

    name: str
    engine: Engine
    told: str


def make_engine(choice: str | None, shard: Shard, threads: int = 1) -> ChosenEngine:
    """The engine of this name; for ``auto`` the faster, and for None the first of those that can be used here.

    Raises :class:`DeploymentError` where there is none.
    """
    usable = {name: engines()[name] for name in usable_engines(shard)}
    first = next(iter(usable.values()), None)
    if choice == AUTO:
        exact = [kind for kind in usable.values() if kind.exact]
        if len(exact) > 1:
            return _faster(exact, shard, threads)
        if first:  # an exact one stands first
            return ChosenEngine(first.name, _made(first, shard, threads), f"{first.name}, the only one here")
    found = first if choice is None else usable.get(choice)
    if found is None:
        raise DeploymentError(_why_not(choice, shard))
    return ChosenEngine(found.name, _made(found, shard, threads), found.name)


def usable_engines(shard: Shard) -> list[str]:
    """Those that the shard has files for, and that are installed."""
    return [name for name in shard.manifest.engines if _installed(engines()[name].package)]


def pass_s(engine: Engine, shard: Shard) -> float:
    """Seconds of all segments of one sample, one after the other: the median of some passes after the first two."""
    calls, times = calls_of_a_pass(shard), []
    for _ in range(2 + ROUNDS):
        start = time.perf_counter()
        for segment, inputs in calls:
            engine.run(segment, inputs)
        times.append(time.perf_counter() - start)
    return statistics.median(times[2:])


def _faster(kinds: Sequence[EngineKind], shard: Shard, threads: int) -> ChosenEngine:
    """The fastest of those that run; each is tried in a process of its own, which it may end."""
    times: dict[str, float] = {}
    failed: dict[str, str] = {}
    for kind in kinds:
        found = _child_pass_s(kind.name, shard, threads)
        if isinstance(found, float):
            times[kind.name] = found
        else:
            failed[kind.name] = found
    if not times:
        told = "; ".join(f"{name}: {problem}" for name, problem in failed.items())
        raise DeploymentError(f"{shard.folder}: no engine runs here: {told}")
    fastest = min(reversed([*times]), key=lambda each: times[each])
    told = ", ".join(f"{1e3 * time_s:.2f} ms a pass in {each}" for each, time_s in times.items())
    if failed:
        told = "; ".join(f"{each} does not run here ({problem})" for each, problem in failed.items())
    return ChosenEngine(fastest, _made(engines()[fastest], shard, threads), f"{fastest}: {told}")


def _child_pass_s(name: str, shard: Shard, threads: int) -> float | str:
    """Measured in another process; what is wrong when that fails."""
    command = [sys.executable, "-m", "sepnas.runtime.engines.choice", str(shard.folder), name, str(threads)]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=_CHILD_S
        )
        return float(done.stdout)
    except subprocess.TimeoutExpired:
        return f"did not compute within {_CHILD_S:.0f} s"
    except ValueError:
        lines = done.stderr.strip().splitlines()
        return signal_name(-done.returncode) if done.returncode < 0 else (lines or ["said nothing"])[-1][:200]


def signal_name(number: int) -> str:
    """How a process that a signal ended is spoken of."""
    try:
        return f"ended by {signal.Signals(number).name}"
    except ValueError:
        return f"ended by signal {number}"


def _made(kind: EngineKind, shard: Shard, threads: int) -> Engine:
    """The engine; :class:`DeploymentError` where its package is there and cannot be loaded."""
    try:
        engine: Engine = late(kind.runner)(shard, threads, kind)
        return engine
    except (ImportError, OSError) as error:
        raise DeploymentError(
            f"{shard.folder}: {kind.package} is installed, and cannot be loaded: {error}; install it anew, or "
            "start the worker with another --engine"
        ) from error


def _why_not(choice: str | None, shard: Shard) -> str:
    exported = shard.manifest.engines
    if not exported:
        return f"{shard.folder}: no engine has a file of every segment; export the deployment again"
    if choice not in (*engine_names(), AUTO, None):
        return f"engine {choice!r} is unknown; allowed: {', '.join(engine_names())}, {AUTO}"
    if choice is not None and choice not in (*exported, AUTO):
        option = f"--engine {choice}" if engines()[choice].exact else "--int8"
        return (
            f"{shard.folder}: was exported for {' and '.join(exported)}, not for {choice}; export it again with "
            f"{option}, or start the worker with --engine {exported[0]}"
        )
    wanted = [name for name in exported if choice in (name, AUTO, None)]
    extra = engines()[wanted[-1]].extra
    return f"{shard.folder}: runs in {' or '.join(wanted)}, which is not installed: pip install 'sepnas[{extra}]'"


def _installed(name: str) -> bool:
    return find_spec(name) is not None


def _print_pass_s(folder: str, name: str, threads: str) -> None:
    try:
        shard = load_shard(Path(folder))
        engine = make_engine(name, shard, int(threads)).engine
    except SepnasError as error:
        sys.exit(str(error))  # in its own words, without a traceback
    engine.prepare_thread()
    sys.stdout.write(f"{pass_s(engine, shard)}\n")


if __name__ == "__main__":
    _print_pass_s(*sys.argv[1:])
