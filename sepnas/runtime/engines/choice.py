"""Which engine a worker takes: the one that was named, or the faster of those that are there.

``auto`` measures each in a process of its own: a worker has then loaded the one that it takes, and survives the other
where it crashes as it is loaded, as onnxruntime does on some boards. It chooses among engines that give the same
answers: int8 is taken where it is named.
"""

from __future__ import annotations

import importlib.util
import signal
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from sepnas.deployment.manifest import EXACT_ENGINES, EngineName, engine_package
from sepnas.errors import DeploymentError, SepnasError
from sepnas.runtime.engines.onnx_engine import Int8OnnxEngine, OnnxEngine
from sepnas.runtime.engines.shard import Shard, load_shard
from sepnas.runtime.engines.torch_engine import Engine, TorchEngine, calls_of_a_pass

AUTO = "auto"
ROUNDS = 9
_CHILD_S = 120.0
_CLASSES: dict[EngineName, type[TorchEngine] | type[OnnxEngine]] = {
    "torch": TorchEngine,
    "onnxruntime": OnnxEngine,
    "onnxruntime-int8": Int8OnnxEngine,
}


@dataclass(frozen=True)
class ChosenEngine:
    """An engine, and the words in which a worker tells of it."""

    name: EngineName
    engine: Engine
    told: str


def make_engine(choice: str | None, shard: Shard, threads: int = 1) -> ChosenEngine:
    """The engine of this name; for ``auto`` the faster, and for None the first of those that can be used here.

    Raises :class:`DeploymentError` where there is none.
    """
    usable = usable_engines(shard)
    if choice is None and usable:
        choice = usable[0]
    if choice == AUTO:
        if set(usable).issuperset(EXACT_ENGINES):
            return _faster(shard, threads)
        if usable:  # an exact one stands first
            return ChosenEngine(usable[0], _made(usable[0], shard, threads), f"{usable[0]}, the only one here")
    for name in usable:
        if choice == name:
            return ChosenEngine(name, _made(name, shard, threads), name)
    raise DeploymentError(_why_not(choice, shard))


def usable_engines(shard: Shard) -> list[EngineName]:
    """Those that the shard has files for, and that are installed."""
    return [name for name in shard.manifest.engines if _installed(engine_package(name))]


def pass_s(engine: Engine, shard: Shard) -> float:
    """Seconds of all segments of one sample, one after the other: the median of some passes after the first two."""
    calls, times = calls_of_a_pass(shard), []
    for _ in range(2 + ROUNDS):
        start = time.perf_counter()
        for segment, inputs in calls:
            engine.run(segment, inputs)
        times.append(time.perf_counter() - start)
    return statistics.median(times[2:])


def _faster(shard: Shard, threads: int) -> ChosenEngine:
    """The fastest of those that run; each is tried in a process of its own, which it may end."""
    times: dict[EngineName, float] = {}
    failed: dict[EngineName, str] = {}
    for name in EXACT_ENGINES:
        found = _child_pass_s(name, shard, threads)
        if isinstance(found, float):
            times[name] = found
        else:
            failed[name] = found
    if not times:
        told = "; ".join(f"{name}: {problem}" for name, problem in failed.items())
        raise DeploymentError(f"{shard.folder}: no engine runs here: {told}")
    fastest: EngineName = min(reversed([*times]), key=lambda each: times[each])
    told = ", ".join(f"{1e3 * time_s:.2f} ms a pass in {each}" for each, time_s in times.items())
    if failed:
        told = "; ".join(f"{each} does not run here ({problem})" for each, problem in failed.items())
    return ChosenEngine(fastest, _made(fastest, shard, threads), f"{fastest}: {told}")


def _child_pass_s(name: EngineName, shard: Shard, threads: int) -> float | str:
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


def _made(name: EngineName, shard: Shard, threads: int) -> Engine:
    """The engine; :class:`DeploymentError` where its package is there and cannot be loaded."""
    try:
        return _CLASSES[name](shard, threads)
    except (ImportError, OSError) as error:
        raise DeploymentError(
            f"{shard.folder}: {engine_package(name)} is installed, and cannot be loaded: {error}; install it anew, or "
            "start the worker with another --engine"
        ) from error


def _why_not(choice: str | None, shard: Shard) -> str:
    exported = shard.manifest.engines
    if not exported:
        return f"{shard.folder}: no engine has a file of every segment; export the deployment again"
    if choice not in (*_CLASSES, AUTO, None):
        return f"engine {choice!r} is unknown; allowed: {', '.join(_CLASSES)}, {AUTO}"
    if choice not in (*exported, AUTO, None):
        option = "--int8" if choice == "onnxruntime-int8" else f"--engine {choice}"
        return (
            f"{shard.folder}: was exported for {' and '.join(exported)}, not for {choice}; export it again with "
            f"{option}, or start the worker with --engine {exported[0]}"
        )
    wanted = [name for name in exported if choice in (name, AUTO, None)]
    extra = engine_package(wanted[-1])
    return f"{shard.folder}: runs in {' or '.join(wanted)}, which is not installed: pip install 'sepnas[{extra}]'"


def _installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


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
