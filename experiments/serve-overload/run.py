"""How many answers does a service still give while far more clients ask than it can answer, and do not wait long?"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

from load import ANSWERED, BUSY, Kind, image_request, load

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
KINDS = (
    Kind("patient", 16, 10.0, 1.0),
    Kind("impatient", 200, 0.25, 1.0),
    Kind("stubborn", 200, 0.25, 0.05),
)
"""The first gives the best: as many at once as the service takes without refusing any."""
READY_S = 60.0
CORES = sorted(os.sched_getaffinity(0))
CLIENT_CORES, SERVICE_CORES = CORES[:1], CORES[1:] or CORES
"""The clients have a core of their own: on real networks they are other machines and take no CPU from the service."""


def export(folder: Path) -> None:
    """The network of the demo's space that sends most, with random weights."""
    from sepnas.deploy.export import export_deployment
    from sepnas.train.checkpoint import new_network

    try:
        from sepnas.separable.space import SearchSpace
    except ModuleNotFoundError:  # a commit from before it moved
        from sepnas.spec.space import SearchSpace  # type: ignore[import-not-found, no-redef]

    space = SearchSpace.load(ROOT / "search_spaces" / "demo.yaml")
    network = new_network(space.architecture_of(space.largest())).eval()
    classes = [str(number) for number in range(network.architecture.num_classes)]
    export_deployment(
        network, folder, name="overload", classes=classes, mean=(0.5,), std=(0.5,), engines=("onnxruntime",)
    )


@contextlib.contextmanager
def version(commit: str | None) -> Iterator[Path]:
    """The folder of this tree's package, or of a commit's."""
    if commit is None:
        yield ROOT
        return
    with tempfile.TemporaryDirectory(prefix="sepnas-before-") as name:
        packed = subprocess.run(["git", "archive", commit, "sepnas"], cwd=ROOT, check=True, capture_output=True).stdout
        subprocess.run(["tar", "-x", "-C", name], input=packed, check=True)
        yield Path(name)


@contextlib.contextmanager
def on_cores(cores: list[int]) -> Iterator[None]:
    """This process, and what it starts meanwhile, on these cores only."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextlib.contextmanager
def process(folder: Path, *arguments: str) -> Iterator[tuple[int, str]]:
    """``sepnas`` of a version, its id and what it says first; ended with SIGTERM."""
    command = [sys.executable, "-m", "sepnas", *arguments]
    running = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert running.stdout is not None
        yield running.pid, running.stdout.readline()
    finally:
        running.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            running.wait(READY_S)
        running.kill()
        running.wait()


@contextlib.contextmanager
def service(folder: Path, deployment: Path) -> Iterator[tuple[int, list[int]]]:
    """The port of a service with its three workers, all of one version, and their processes, the service last."""
    with contextlib.ExitStack() as stack:
        lines, pids = ["format: sepnas.hosts", "version: 1", "devices:"], []
        for rank in range(3):
            options = ["--listen", "127.0.0.1:0", "--engine", "onnxruntime"]
            pid, said = stack.enter_context(process(folder, "worker", str(deployment / f"device{rank}"), *options))
            pids.append(pid)
            lines += [f"- rank: {rank}", f"  address: {said.split(' listens on ')[1].split()[0]}"]
        hosts = deployment.parent / "hosts.yaml"
        hosts.write_text("\n".join([*lines, ""]))
        options = ["--devices", str(hosts), "--listen", "127.0.0.1:0"]
        pid, said = stack.enter_context(process(folder, "serve", str(deployment), *options))
        yield int(said.split(" listens on http://")[1].split()[0].rpartition(":")[2]), [*pids, pid]


def cpu_s(pids: list[int]) -> float:
    """What these processes have computed so far."""
    fields = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in pids]
    return sum(int(each[11]) + int(each[12]) for each in fields) / os.sysconf("SC_CLK_TCK")


async def measure(port: int, pids: list[int], rounds: int, seconds: float, label: str) -> list[dict[str, Any]]:
    """Every kind of clients in turn, again and again: what else the machine does meets all of them."""
    request = image_request(8)
    limit = time.monotonic() + READY_S
    while len((await load(port, request, Kind("first", 1, 1.0, 0.1), 0.5))[ANSWERED]) < 2:
        assert time.monotonic() < limit, "the service does not answer"
    rows = []
    for number in range(rounds):
        for kind in KINDS:
            before = [cpu_s(pids[:-1]), cpu_s(pids[-1:]), time.process_time()]
            found = await load(port, request, kind, seconds)
            after = [cpu_s(pids[:-1]), cpu_s(pids[-1:]), time.process_time()]
            taken_s = [round(now - then, 2) for then, now in zip(before, after, strict=True)]
            cpu = dict(zip(("cpu_workers_s", "cpu_service_s", "cpu_clients_s"), taken_s, strict=True))
            rows.append(row(label, number, kind, found, seconds) | cpu)
            print(rows[-1], flush=True)
    return rows


def row(label: str, number: int, kind: Kind, found: dict[str, list[float]], seconds: float) -> dict[str, Any]:
    counts = {word.replace(" ", "_"): len(times_s) for word, times_s in found.items()}
    times = {f"{word}_median_s": round(median(found[word]), 4) for word in (ANSWERED, BUSY) if found[word]}
    return {"service": label, "round": number, "clients": kind.name, "seconds": seconds, **counts, **times}


def goodput(rows: list[dict[str, Any]], label: str, clients: str) -> list[float]:
    """Answers a second, by round."""
    return [
        each["answered"] / each["seconds"] for each in rows if (each["service"], each["clients"]) == (label, clients)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each kind of clients in each round")
    parser.add_argument("--before", metavar="COMMIT", help="measure that commit's service beside this tree's")
    parser.add_argument("--export", type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.export is not None:  # in a process of the version that is measured
        return export(chosen.export)

    from sepnas.results.recorder import Recorder

    rows: list[dict[str, Any]] = []
    labels = {"now": None} | ({"before": chosen.before} if chosen.before else {})
    with Recorder(HERE / "result.json", seeds=[0], root=HERE) as record:
        for label, commit in labels.items():
            with version(commit) as folder, tempfile.TemporaryDirectory(prefix="sepnas-overload-") as name:
                deployment = Path(name) / "deployment"
                environment = {**os.environ, "PYTHONPATH": str(folder)}
                command = [sys.executable, __file__, "--export", str(deployment)]
                subprocess.run(command, cwd=folder, env=environment, check=True)
                with contextlib.ExitStack() as stack:
                    with on_cores(SERVICE_CORES):  # what it starts stays there
                        port, pids = stack.enter_context(service(folder, deployment))
                    stack.enter_context(on_cores(CLIENT_CORES))
                    rows += asyncio.run(measure(port, pids, chosen.rounds, chosen.seconds, label))
        tell(record, rows, list(labels))
    return None


def tell(record: Any, rows: list[dict[str, Any]], labels: list[str]) -> None:
    for label in labels:
        suffix = "" if label == "now" else f"_{label}"
        best = goodput(rows, label, KINDS[0].name)
        spread(record, f"overload_goodput_{KINDS[0].name}{suffix}", best, "1/s", None)
        for kind in KINDS[1:]:
            found = goodput(rows, label, kind.name)
            shares = [mine / most for mine, most in zip(found, best, strict=True) if most]
            spread(record, f"overload_goodput_{kind.name}{suffix}", found, "1/s", None)
            goal = ">= 0.9" if label == "now" else None
            spread(record, f"overload_share_of_best_{kind.name}{suffix}", shares, "", goal)
    record.table("rounds", rows)


def spread(record: Any, name: str, values: list[float], unit: str, goal: str | None) -> None:
    """The median, and the least and the most of all rounds."""
    values = sorted(values)
    record.measure(name, values[len(values) // 2], unit, values[0], values[-1], len(values), goal)


if __name__ == "__main__":
    main()
