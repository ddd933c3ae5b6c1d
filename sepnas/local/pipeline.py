"""The whole chain from a search space to answers of worker processes, as ``sepnas demo`` and experiments run it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from rich.text import Text

from sepnas.api import export
from sepnas.console import console, say
from sepnas.cost.simulator import Simulation, simulate
from sepnas.errors import SpecError
from sepnas.local.measured_cluster import BUSY_SHARE, busy_words, measure_local_cluster
from sepnas.local.processes import LocalWorkers
from sepnas.measure.busy import Others
from sepnas.measure.machine import usable_cores
from sepnas.plan.plan import Plan
from sepnas.runtime.client.bench import BenchResult, bench
from sepnas.runtime.client.session import Session
from sepnas.runtime.client.trace import Trace
from sepnas.runtime.transport.counters import Counters
from sepnas.separable.architecture import Architecture
from sepnas.separable.build import build_plan
from sepnas.separable.space import SearchSpace
from sepnas.spec.cluster import Cluster
from sepnas.terminal import one_line
from sepnas.units import format_count, number, seconds

if TYPE_CHECKING:
    from sepnas.search.candidate import Candidate
    from sepnas.search.run import SearchResult
    from sepnas.train.images import ImageData
    from sepnas.train.record import TrainingResult

SEARCH, TRAINING, DEPLOYMENT = "search", "training", "deployment"
ARCHITECTURE_FILE, CLUSTER_FILE, TRACE_FILE = "architecture.json", "cluster.yaml", "trace.json"
BENCH_REQUESTS = 200
LATENCY_TOLERANCE = 0.2
"""A prediction that is off by more than this share is explained."""
TIMEOUT_S = 30.0


@dataclass(frozen=True)
class Chain:
    """The inputs of a chain. ``bytes_share`` bounds the chosen network's payload, as a share of all-to-all's bytes.

    ``request_images`` is the batch in which the test split goes through the devices.
    """

    space: SearchSpace
    cluster: Cluster
    data: ImageData
    out: Path
    recipe: str
    candidates: int = 200
    seed: int = 0
    supernet_epochs: int | None = None
    epochs: int | None = None
    bytes_share: float = 0.134
    request_images: int = 1
    resume: bool = False


def local_cluster(out: Path, num_devices: int, resume: bool, network: Architecture | None = None) -> Cluster:
    """Processes of this machine as a cluster, measured on networks like this one, or read from an interrupted chain."""
    path = out / CLUSTER_FILE
    if path.exists():
        if not resume:
            raise SpecError(f"{out}: holds a run already; resume it with --resume, or name another folder")
        return Cluster.load(path)
    cluster = measure_local_cluster(num_devices, network=network)
    cluster.save(path)
    return cluster


@dataclass(frozen=True)
class SplitAnswers:
    """The test split through the whole network and through the devices, logits ``(N, num_classes)``."""

    labels: npt.NDArray[np.int64]
    whole: npt.NDArray[np.float32]
    devices: npt.NDArray[np.float32]
    counters: Counters
    payload_bytes_predicted: int
    wire_bytes_predicted: int
    input_bytes_predicted: int
    total_bytes_predicted: int
    bench: BenchResult
    trace: Trace
    others: float
    """The share of the processors that other programs took during the measurement of latency, 0 to 1."""

    @property
    def accuracy_whole(self) -> float:
        return float((self.whole.argmax(1) == self.labels).mean())

    @property
    def accuracy_devices(self) -> float:
        return float((self.devices.argmax(1) == self.labels).mean())

    @property
    def num_different(self) -> int:
        """Number of images whose class differs between the devices and the whole network."""
        return int((self.whole.argmax(1) != self.devices.argmax(1)).sum())

    @property
    def largest_difference(self) -> float:
        """The largest difference of a logit, relative to the largest logit of its image."""
        return float((np.abs(self.whole - self.devices).max(1) / np.abs(self.whole).max(1)).max())


@dataclass(frozen=True)
class Outcome:
    """The result of each stage; ``duration_s`` has the wall time of each in seconds."""

    search: SearchResult
    chosen: Candidate
    baseline_bytes: int
    training: TrainingResult
    plan: Plan
    simulation: Simulation
    answers: SplitAnswers
    duration_s: dict[str, float] = field(default_factory=dict)

    @property
    def latency_ratio(self) -> float:
        """Predicted over measured."""
        return self.simulation.latency_s / self.answers.bench.latency_median_s

    @property
    def why_latency_differs(self) -> str:
        """A reason for a prediction that is off by more than a fifth; empty for a better one."""
        if 1 / (1 + LATENCY_TOLERANCE) <= self.latency_ratio <= 1 + LATENCY_TOLERANCE:
            return ""
        if self.answers.others > BUSY_SHARE:
            return f"{busy_words(self.answers.others)} while latency was measured"
        processes, cores = self.plan.num_devices + 1, usable_cores()
        shared = f", and {processes} processes share {format_count(cores, 'core')}" if processes > cores else ""
        return f"this machine was measured at the beginning, and its speed varies{shared}"


def run_chain(chain: Chain) -> Outcome:
    """Search, choose, train, export, and run the whole test split through worker processes on this machine."""
    from sepnas.train.threads import use_threads_for

    clock = _Clock()
    use_threads_for(chain.space.architecture_of(chain.space.largest()))
    with clock.stage(f"search: {chain.candidates} candidates of space '{chain.space.name}'"):
        search, chosen, baseline_bytes = _search(chain)
    with clock.stage("train the chosen one from scratch"):
        training = _train(chain, chosen.architecture)
    with clock.stage("export: one folder for each device"):
        export(chain.out / TRAINING, chain.out / DEPLOYMENT, name=chain.out.resolve().name, force=True)
    plan = build_plan(chosen.architecture)
    with clock.stage(f"run: {plan.num_devices} processes, TLS, the test split"):
        answers = _run(chain, plan)
    simulation = simulate(plan, chain.cluster, timeline=True)
    return Outcome(search, chosen, baseline_bytes, training, plan, simulation, answers, clock.duration_s)


class _Clock:
    """Prints the stage that runs, and records the wall time of each."""

    def __init__(self) -> None:
        self.duration_s: dict[str, float] = {}

    @contextmanager
    def stage(self, what: str) -> Iterator[None]:
        console.rule(Text(one_line(what), "bold"), align="left")
        start = time.perf_counter()
        yield
        self.duration_s[what.split(":")[0].split()[0]] = time.perf_counter() - start
        say(f"took {seconds(time.perf_counter() - start)}")


def _search(chain: Chain) -> tuple[SearchResult, Candidate, int]:
    from sepnas.search.choose import pick
    from sepnas.search.run import run_search
    from sepnas.search.traits import all_to_all_bytes
    from sepnas.train.recipe import RecipeChanges

    result = run_search(
        chain.space, chain.cluster, chain.data, chain.out / SEARCH, candidates=chain.candidates, seed=chain.seed,
        changes=RecipeChanges(chain.supernet_epochs), resume=chain.resume,
    )  # fmt: skip
    baseline_bytes = all_to_all_bytes(result.front[0].architecture)
    chosen = pick(result.front, max_payload_bytes=chain.bytes_share * baseline_bytes)
    chosen.architecture.save(chain.out / ARCHITECTURE_FILE)
    sent = int(chosen.costs["payload_bytes"])
    say(
        f"{format_count(len(result.front), 'point')} on the front; chosen: candidate {chosen.index}, "
        f"{number(sent)} bytes, {sent / baseline_bytes:.1%} of all-to-all's {number(baseline_bytes)}"
    )
    return result, chosen, baseline_bytes


def _train(chain: Chain, architecture: Architecture) -> TrainingResult:
    from sepnas.train.recipe import load_recipe
    from sepnas.train.training import Training

    recipe = load_recipe(chain.recipe).changed(chain.recipe, epochs=chain.epochs)
    result = Training(architecture, chain.data, recipe).run(chain.out / TRAINING, seed=chain.seed, resume=chain.resume)
    say(f"best epoch {result.best_epoch}: validation accuracy {result.best_accuracy:.2%}")
    return result


def _run(chain: Chain, plan: Plan) -> SplitAnswers:
    deployment = chain.out / DEPLOYMENT
    images = chain.data.test.images.numpy()
    whole = _whole_network(chain)
    with (
        LocalWorkers(deployment, plan.num_devices) as workers,
        Session(deployment, workers.hosts, timeout_s=TIMEOUT_S) as session,
    ):
        batches = [images[i : i + chain.request_images] for i in range(0, len(images), chain.request_images)]
        devices = np.concatenate([session.infer(batch) for batch in batches])
        counters = session.counters()
        busy = Others(workers.pids)
        measured = bench(session, images[:1], BENCH_REQUESTS)
        others = busy.share()
        trace = session.trace(last=1)
    trace.save(chain.out / TRACE_FILE)
    return SplitAnswers(
        labels=chain.data.test.labels.numpy(),
        whole=whole,
        devices=devices,
        counters=counters,
        payload_bytes_predicted=sum(plan.payload_bytes(len(batch)) for batch in batches),
        wire_bytes_predicted=sum(plan.wire_bytes(len(batch)) for batch in batches),
        input_bytes_predicted=sum(plan.input_bytes(len(batch)) for batch in batches),
        total_bytes_predicted=sum(plan.total_bytes(len(batch)) for batch in batches),
        bench=measured,
        trace=trace,
        others=others,
    )


def _whole_network(chain: Chain) -> npt.NDArray[Any]:
    """Logits of the whole network, in the same batches: with others the order of summation may differ."""
    from sepnas.train.checkpoint import load_network
    from sepnas.train.evaluate import predict_logits

    network = load_network(chain.out / TRAINING)
    return predict_logits(network, chain.data.test.images, chain.data, batch_size=chain.request_images).numpy()
