"""What a candidate costs besides its accuracy: NNI in this process, and choosing it. CPU time of one thread."""

from __future__ import annotations

import statistics
import tempfile
import time
import zlib
from pathlib import Path

import torch

from sepnas.nets.supernet import Supernet
from sepnas.results.recorder import Recorder
from sepnas.search.accuracy_evaluator import AccuracyEvaluator
from sepnas.search.experiment import explore
from sepnas.search.explorer import EvaluatedGenotype, Explorer
from sepnas.search.folder import archive_of
from sepnas.search.policy_problem import PolicyProblem
from sepnas.search.screen import Screen
from sepnas.search.strategies import make_proposer
from sepnas.search.strategy import MultiObjectiveStrategy
from sepnas.separable.space import Genotype, SearchSpace
from sepnas.spec.cluster import uniform_cluster
from sepnas.train.data import load_dataset

HERE = Path(__file__).resolve().parent
SPACES = HERE.parent.parent / "search_spaces"
SEEDS = (0, 1, 2, 3, 4)
CANDIDATES = 200
EVALUATED = 20
HISTORY, STEP = 1000, 100


def explorer_of(space: SearchSpace, seed: int, folder: Path) -> Explorer:
    """An explorer whose proposals cost next to nothing."""
    screen = Screen(space, uniform_cluster(space.num_devices))
    proposer = make_proposer("evolution", PolicyProblem(screen, seed), seed)
    return Explorer(proposer, archive_of(folder, space), space.objectives, CANDIDATES, lambda candidate, fresh: None)


def at_once(genotype: Genotype) -> dict[str, float]:
    """An accuracy that costs nothing and differs between genotypes."""
    return {"accuracy": zlib.crc32(repr(genotype).encode()) % 1000 / 1000}


def nni_overhead_s(space: SearchSpace, seed: int) -> float:
    """Seconds for each candidate of an NNI experiment beyond those of a plain loop over the same explorer."""
    with tempfile.TemporaryDirectory() as first, tempfile.TemporaryDirectory() as second:
        plain = explorer_of(space, seed, Path(first))
        start = time.process_time()
        while (batch := plain.propose()) is not None:
            for proposal in batch:
                plain.take(EvaluatedGenotype(proposal.genotype, at_once(proposal.genotype), 0.0))
            plain.close()
        plain_s = time.process_time() - start
        strategy = MultiObjectiveStrategy(explorer_of(space, seed, Path(second)))
        start = time.process_time()
        explore(space.choices(), strategy, at_once)
        return (time.process_time() - start - plain_s) / CANDIDATES


def accuracy_s(space: SearchSpace, seed: int) -> float:
    """Seconds of an accuracy evaluation over a supernet; how well that is trained does not matter."""
    torch.manual_seed(seed)
    evaluator = AccuracyEvaluator(Supernet(space), load_dataset("digits"), seed, torch.device("cpu"))
    draw = torch.Generator().manual_seed(seed)
    genotypes = [space.sample(lambda n: int(torch.randint(n, (), generator=draw))) for _ in range(EVALUATED)]
    start = time.process_time()
    for genotype in genotypes:
        evaluator.accuracy(space.architecture_of(genotype))
    return (time.process_time() - start) / EVALUATED


def proposal_s(space: SearchSpace, seed: int) -> list[float]:
    """Seconds for choosing a candidate, its children's simulation included, in each hundred of a thousand."""
    proposer = make_proposer("predictive", PolicyProblem(Screen(space, uniform_cluster(space.num_devices)), seed), seed)
    spent = [0.0] * (HISTORY // STEP)
    for index in range(HISTORY):
        start = time.process_time()
        found = proposer.propose()
        assert found is not None
        proposer.tell(found.key, found.costs | at_once(found.genotype))
        spent[index // STEP] += (time.process_time() - start) / STEP
    return spent


def resnext56_space() -> SearchSpace:
    """74 labels: an exchange point after each of ResNeXt-56's 18 blocks, over 4 devices."""
    policy = SearchSpace.load(SPACES / "cifar-small.yaml").policy
    network = SearchSpace.load(SPACES / "paper.yaml").network
    return SearchSpace(name="resnext56", network=network, policy=policy)


def measure_overhead(record: Recorder) -> None:
    torch.set_num_threads(1)
    demo = SearchSpace.load(SPACES / "demo.yaml")
    nni_overhead_s(demo, 0)  # the first one imports NNI
    for name, measured in (("nni_overhead_in_process_ms", nni_overhead_s), ("accuracy_evaluation_ms", accuracy_s)):
        times_ms = [measured(demo, seed) * 1e3 for seed in SEEDS]
        record.measure(name, statistics.median(times_ms), "ms", min(times_ms), max(times_ms), len(SEEDS))
    spent_ms = [value * 1e3 for value in proposal_s(resnext56_space(), seed=0)]
    mean_ms = statistics.fmean(spent_ms)
    record.measure("proposal_ms", mean_ms, "ms", min(spent_ms), max(spent_ms), len(spent_ms), goal="<= 30")
    rows = [{"candidates": (i + 1) * STEP, "proposal_ms": round(ms, 2)} for i, ms in enumerate(spent_ms)]
    record.table("proposal_by_history", rows)
