"""Real processes on this machine, nothing emulated: every contestant by turns, each alone in a network namespace."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

Row = dict[str, Any]
HERE = Path(__file__).resolve().parent
TIMEOUT_S = 300.0
ERROR_CHARACTERS = 400


@dataclass(frozen=True)
class Contestant:
    """A row of the table: ``words`` for people, the rest for ``contestant.py``."""

    words: str
    name: str
    variant: str
    parts: int = 1
    processes: int = 1


CONTESTANTS = (
    *(
        Contestant(f"one process, {words}", "one_device", variant, parts)
        for parts in (1, 4)
        for variant, words in (
            ("torch-eager", "eager torch"),
            ("torch-nhwc", "eager torch, channels last"),
            ("onnxruntime", "onnxruntime"),
        )
    ),
    *(
        Contestant(f"sepnas, {engine}", "with_sepnas", engine, parts, parts)
        for engine in ("torch", "onnxruntime")
        for parts in (1, 2, 4)
    ),
    Contestant("torch.distributed.pipelining", "pipelining", "1", 1, 2),
    Contestant("torch.distributed.pipelining", "pipelining", "1", 1, 4),
    Contestant("torch.distributed.pipelining, 4 micro-batches", "pipelining", "4", 1, 2),
    Contestant("DTensor, convolutions as they are", "dtensor", "as-it-is", 1, 2),
    Contestant("DTensor, rewritten by hand", "dtensor", "rewritten", 1, 2),
    Contestant("DTensor, rewritten by hand", "dtensor", "rewritten", 1, 4),
    Contestant("tensor_parallel, 2 threads", "tensor_parallel_package", "threads"),
    Contestant("tensor_parallel over gloo", "tensor_parallel_package", "gloo", 1, 2),
    Contestant("axonmesh, int8 and zlib", "axonmesh_split", "zlib", 1, 2),
    Contestant("axonmesh, int8", "axonmesh_split", "plain", 1, 2),
)


def measure_contestant(one: Contestant, network: str, folder: Path, requests: int, peers: Path | None) -> Row:
    """The row of one contestant; what it said instead where it could not run."""
    with tempfile.TemporaryDirectory(prefix="sepnas-peers-") as name:
        out, log = Path(name) / "row.json", Path(name) / "log"
        words = (
            *(one.name, "--folder", folder.resolve(), "--network", network, "--variant", one.variant),
            *("--parts", one.parts, "--processes", one.processes, "--requests", requests, "--out", out),
        )
        inside = 'ip link set lo up && exec "$@"'
        command = ["unshare", "--net", "sh", "-c", inside, "sh", sys.executable, HERE / "contestant.py", *words]
        with log.open("w") as file:
            status = run([str(word) for word in command], environment(peers), file)
        found = json.loads(out.read_text()) if status == 0 else {"error": last_words(log.read_text(), status)}
    return {**asdict(one), "network": network, **found}


def environment(peers: Path | None) -> dict[str, str]:
    """One thread a process; the packages of the contestants behind sepnas' own."""
    paths = [os.environ.get("PYTHONPATH", ""), str(HERE.parent.parent), *([str(peers.resolve())] if peers else [])]
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, paths))}


def run(command: list[str], variables: dict[str, str], log: Any) -> int | None:
    """The exit status, or None after the time limit; whatever happens, nothing of it goes on running."""
    process = subprocess.Popen(
        command, env=variables, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
    )
    try:
        return process.wait(TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return None
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def last_words(log: str, status: int | None) -> str:
    """What a process that failed said last."""
    if status is None:
        return f"no answer after {TIMEOUT_S:g} s"
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    errors = [line for line in lines if "Error" in line.split(":")[0]]
    return (errors or lines or [f"exit status {status}"])[-1][:ERROR_CHARACTERS]
