"""The exploration of separations: the same seed gives the same front, and each candidate is what `separate` makes."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path
from typing import Any

import moocore
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from sepnas import api
from sepnas.cost.simulator import simulate
from sepnas.errors import PlanError, SearchError, SpecError, TrainingError
from sepnas.exploration.candidate import SeparationCandidate
from sepnas.exploration.folder import SeparationFront, archive_in
from sepnas.exploration.knobs import BUDGETS, EXCHANGE_POINTS, TILES_UNTIL, Knobs, choices_of, share_text
from sepnas.exploration.problem import OBJECTIVE_NAMES, SeparationProblem, key_of
from sepnas.exploration.run import ExplorationResult
from sepnas.exploration.separations import Separations
from sepnas.importing.separator import Separator
from sepnas.nets.graph import GraphNetwork, load_graph_network
from sepnas.partition.graph import load_graph
from sepnas.plan.document import load_plan
from sepnas.search.archive import SearchWarning
from sepnas.search.experiment import QuietExperiment
from sepnas.search.explorer import STRATEGIES
from sepnas.search.folder import CANDIDATES_FILE, FRONT_FILE, RUN_FILE
from sepnas.search.pareto import minimised
from sepnas.search.progress import SearchProgress
from sepnas.separation.document import Separation
from sepnas.spec.cluster import Cluster, uniform_cluster
from sepnas.testing.graphs import Builder
from sepnas.train.recipe import RecipeChanges
from sepnas.train.separated import SeparatedTuning
from sepnas.train.source import DataSource
from sepnas.units import parse_share
from tests.exploration.networks import explore, trained_on_digits
from tests.train.test_data import make_folder

CANDIDATES = 16


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained_on_digits(tmp_path_factory.mktemp("explore") / "network")


@pytest.fixture(scope="module")
def finished(network: Path, tmp_path_factory: pytest.TempPathFactory) -> ExplorationResult:
    """An unbroken exploration."""
    return explore(network, tmp_path_factory.mktemp("explored") / "run")


def told(candidates: list[SeparationCandidate]) -> list[dict[str, Any]]:
    """Everything about candidates but how long they took."""
    return [each.model_dump(exclude={"seconds"}) for each in candidates]


def candidates_in(folder: Path) -> list[SeparationCandidate]:
    return archive_in(folder).candidates()


def problem_of(network: Path, devices: int = 2) -> SeparationProblem:
    samples = tuple(SeparatedTuning(network, DataSource("digits")).samples(48))
    cluster = uniform_cluster(devices)
    speeds = [each.flops_per_s for each in cluster.devices]
    of = Separator(load_graph_network(network), speeds, samples=samples)
    return SeparationProblem(Separations(of, cluster), cluster)


def test_an_exploration_leaves_a_whole_folder(finished: ExplorationResult) -> None:
    """Settings, each candidate once, and the front: the candidates that no other one beats in all four objectives."""
    found = candidates_in(finished.run_dir)
    assert [each.index for each in found] == list(range(CANDIDATES))
    assert len({each.key for each in found}) == CANDIDATES == finished.front.evaluated
    assert all(tuple(each.objectives) == OBJECTIVE_NAMES for each in found)
    assert SeparationFront.load(finished.run_dir / FRONT_FILE) == finished.front
    best = moocore.is_nondominated(minimised(found))
    assert {c.key for c, kept in zip(found, best, strict=True) if kept} == {c.key for c in finished.front.candidates}
    assert finished.knee in finished.front.candidates
    assert finished.front.original_accuracy > 0.9


def test_it_begins_with_the_ends(finished: ExplorationResult) -> None:
    """First the silent separation, then the largest budget without tiles, and with the most of them."""
    first = [each.knobs for each in candidates_in(finished.run_dir)[:3]]
    wanted = (("none", 0.0), ("none", 0.1), ("relu5", 0.1))
    assert first == [Knobs(tiles, None, share, "auto", "any") for tiles, share in wanted]


def test_more_bytes_keep_more_of_the_accuracy(finished: ExplorationResult) -> None:
    """The silent separation loses most of what the network knows, a tenth of the bytes keeps nearly all."""
    silent, most = candidates_in(finished.run_dir)[:2]
    assert silent.objectives["accuracy"] < most.objectives["accuracy"] - 0.2
    assert most.objectives["accuracy"] > finished.front.original_accuracy - 0.1


def test_nni_runs_the_experiment(network: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each candidate is a model that NNI's engine was given, and whose metric it was told."""
    engines = []

    def start(self: QuietExperiment, *given: Any, **more: Any) -> Any:
        found = unpatched(self, *given, **more)
        engines.append(self.engine or self._engine)
        return found

    unpatched = QuietExperiment.start
    monkeypatch.setattr(QuietExperiment, "start", start)
    found = explore(network, tmp_path / "run", candidates=4)
    [engine] = engines
    assert len(list(engine.list_models())) == 4 == found.front.evaluated


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_each_strategy_explores(strategy: str, network: Path, tmp_path: Path) -> None:
    """The same seed gives the same candidates."""
    for name in ("a", "b"):
        explore(network, tmp_path / name, candidates=6, strategy=strategy, val_images=20)
    found = [told(candidates_in(tmp_path / name)) for name in ("a", "b")]
    assert found[0] == found[1]
    assert len(found[0]) == 6


def test_an_interrupted_exploration_ends_as_an_unbroken_one(
    network: Path, finished: ExplorationResult, tmp_path: Path
) -> None:
    """After Ctrl-C and a damaged line it goes on to the same candidates and the same front; the line is named."""

    def interrupt(progress: SearchProgress) -> None:
        if progress.done == 7:
            raise KeyboardInterrupt

    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt, match="completed work is kept in"):
        explore(network, out, progress=interrupt)
    assert not (out / FRONT_FILE).exists()
    lines = (out / CANDIDATES_FILE).read_text().splitlines(keepends=True)
    assert len(lines) == 7
    (out / CANDIDATES_FILE).write_text("".join([*lines[:3], lines[3][:40] + "\n", *lines[4:6], lines[6][:-9]]))
    with pytest.raises(SearchError, match="already holds a search; resume it with `resume=True`"):
        explore(network, out)
    with pytest.warns(SearchWarning, match="damaged and left out"):
        found = explore(network, out, resume=True)
    assert told(list(found.front.candidates)) == told(list(finished.front.candidates))
    assert told(candidates_in(out)) == told(candidates_in(finished.run_dir))
    assert found.front.hypervolume == finished.front.hypervolume


def test_a_finished_exploration_is_read_again(
    network: Path, finished: ExplorationResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is measured anew."""
    monkeypatch.setattr("sepnas.importing.separator.measure_statistics", None)
    again = explore(network, finished.run_dir, resume=True)
    assert again.front == finished.front
    assert again.knee == finished.knee


def test_it_may_be_continued_with_more_candidates(network: Path, tmp_path: Path) -> None:
    """The first ones are those of before; fewer than are there already are refused."""
    explore(network, tmp_path / "run", candidates=4)
    before = told(candidates_in(tmp_path / "run"))
    explore(network, tmp_path / "run", candidates=6, resume=True)
    found = told(candidates_in(tmp_path / "run"))
    assert (found[:4], len(found)) == (before, 6)
    with pytest.raises(SearchError, match="6 candidates are evaluated already, so `candidates` must be at least"):
        explore(network, tmp_path / "run", candidates=5, resume=True)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"seed": 1}, "`seed` was 0 and is now 1"),
        ({"devices": 3}, "`num_devices` was 2 and is now 3"),
        ({"images": 20}, "`images` was 48 and is now 20"),
        ({"val_images": 20}, "`val_images` was 100 and is now 20"),
        ({"strategy": "nsga2"}, "`strategy` was 'predictive' and is now 'nsga2'"),
        ({"cluster": uniform_cluster(2, bandwidth_bytes_per_s=1e6)}, "bandwidth_bytes_per_s"),
    ],
)
def test_other_settings_are_another_exploration(
    changes: dict[str, Any], told: str, network: Path, finished: ExplorationResult
) -> None:
    """They are named."""
    with pytest.raises(SearchError, match="this exploration cannot be resumed with other settings") as refused:
        explore(network, finished.run_dir, resume=True, **changes)
    assert told in str(refused.value)


def test_other_weights_are_another_exploration(network: Path, finished: ExplorationResult, tmp_path: Path) -> None:
    """The folder's name does not matter, what is in it does."""
    again = trained_on_digits(tmp_path / "again")
    assert explore(again, finished.run_dir, resume=True).front == finished.front
    weights = load_file(again / "weights.safetensors")
    save_file({name: 2 * x for name, x in weights.items()}, again / "weights.safetensors")
    with pytest.raises(SearchError, match="`weights_sha256` was"):
        explore(again, finished.run_dir, resume=True)


def test_a_candidate_is_what_separate_makes(network: Path, finished: ExplorationResult, tmp_path: Path) -> None:
    """With its knobs the same separation is made, of the same costs and accuracy (on all validation images)."""
    whole = explore(network, tmp_path / "whole", candidates=6, val_images=10_000)
    for each in whole.front.candidates:
        out = tmp_path / str(each.index)
        tuned = api.separate_and_train(
            network, out, "digits", devices=2, images=48, changes=RecipeChanges(1), threads=1, **each.knobs.arguments()
        )
        assert key_of(tuned.separation.separation) == key_of(Separation.load(out / "separation.json")) == each.key
        assert tuned.start_accuracy == each.objectives["accuracy"]
        assert tuned.original_accuracy == whole.front.original_accuracy
        assert tuned.separation.points - tuned.separation.silent_points == each.points
        assert tuned.separation.exact_bytes == whole.front.exact_bytes
        simulation = simulate(load_plan(out / "plan.json"), uniform_cluster(2))
        assert (simulation.latency_s, simulation.payload_bytes, max(simulation.peak_memory_bytes)) == tuple(
            each.costs[name] for name in ("latency_s", "payload_bytes", "memory_bytes")
        )


def test_a_cluster_s_fast_devices_get_more(network: Path, tmp_path: Path) -> None:
    """On uneven devices and slow links too the knobs give the candidate's separation; others than on equal ones."""
    equal = uniform_cluster(3, bandwidth_bytes_per_s=1e6)
    fast = equal.devices[0].model_copy(update={"flops_per_s": 3 * equal.devices[0].flops_per_s})
    cluster = Cluster(name="uneven", devices=(fast, *equal.devices[1:]), links=equal.links)
    found = explore(network, tmp_path / "run", cluster=cluster, candidates=5, val_images=20)
    for each in found.front.candidates:
        out = tmp_path / str(each.index)
        tuned = api.separate_and_train(
            network, out, "digits", cluster=cluster, devices=2, images=48, changes=RecipeChanges(1), threads=1,
            **each.knobs.arguments(),
        )  # fmt: skip
        assert key_of(tuned.separation.separation) == each.key
        assert simulate(tuned.separation.plan, cluster).latency_s == each.costs["latency_s"]
    equal_keys = {each.key for each in explore(network, tmp_path / "equal", candidates=5).front.candidates}
    assert equal_keys.isdisjoint(each.key for each in found.front.candidates)


def test_devices_without_memory_are_named(network: Path, tmp_path: Path) -> None:
    """Where nothing fits, the reason is told."""
    with pytest.raises(SearchError, match=r"no separation of 'chain' fits cluster 'uniform': .*memory of the cluster"):
        explore(network, tmp_path / "run", cluster=uniform_cluster(2, memory_bytes=100))


def test_prices_do_not_depend_on_what_was_priced_before(network: Path) -> None:
    """In any order the same knobs have the same key and costs; knobs of one separation have one key."""
    first, second = problem_of(network), problem_of(network)
    genotypes = [
        Knobs(tiles, points, budget, wire, messages).genotype()
        for tiles in first.choices[TILES_UNTIL] for points in (1, None) for budget in (0.0, 0.02, 0.1)
        for wire in ("auto", "int4") for messages in ("any", "few")
    ]  # fmt: skip
    found = [first.price(genotype) for genotype in genotypes]
    assert found == [second.price(genotype) for genotype in reversed(genotypes)][::-1]
    keys: dict[str, Separation] = {}
    for each in found:
        assert each.genotype in genotypes
        if each.feasible:
            separation, _ = first.separations.separation(Knobs.of(each.genotype))
            assert keys.setdefault(each.key, separation) == separation
    assert len(keys) == len({separation.dumps() for separation in keys.values()}) > 5


def test_what_must_be_sent_bounds_the_budget(network: Path) -> None:
    """A budget below it is infeasible, the more so the smaller it is; nothing at all means only what must be sent."""
    problem = problem_of(network)
    found = [problem.price(Knobs("none", None, budget, "int8", "any").genotype()) for budget in BUDGETS]
    assert found[0].feasible
    assert found[-1].feasible
    excesses = [sum(each.excess.values()) for each in found[1:]]
    assert excesses == sorted(excesses, reverse=True)
    assert excesses[0] > excesses[1] > 0


def test_the_loss_that_thinning_expects_tells_accuracies_apart(finished: ExplorationResult, network: Path) -> None:
    """Of a feature by which accuracies are predicted: what loses more is less accurate, on the whole."""
    problem, found = problem_of(network), candidates_in(finished.run_dir)
    lost = [problem.price(each.genotype).lost for each in found]
    accuracies = [each.objectives["accuracy"] for each in found]
    ranks = [np.argsort(np.argsort(values)) for values in (lost, accuracies)]
    assert np.corrcoef(*ranks)[0, 1] < -0.5


def test_choices_are_those_of_the_network(network: Path) -> None:
    """Ends of tiles that leave channels enough for all devices, and no more points than there are."""
    of = problem_of(network).separations.of
    assert choices_of(of)[TILES_UNTIL] == ("none", "relu2", "relu5")
    assert choices_of(of)[EXCHANGE_POINTS] == (0, 1, "all")
    made = Builder(1, 8, 8)
    first, second = (made.conv(channels, 3, padding=(1, 1)) for channels in (12, 4))
    made.conv(4, 3, padding=(1, 1))
    made.head(10)
    narrow = GraphNetwork(made.graph(), made.weights)
    assert choices_of(Separator(narrow, (1.0,) * 2))[TILES_UNTIL] == ("none", first, second)
    assert choices_of(Separator(narrow, (1.0,) * 6))[TILES_UNTIL] == ("none",)


@pytest.mark.parametrize("budget", BUDGETS)
def test_a_share_is_told_so_that_it_is_read_again(budget: float) -> None:
    """To the last bit: the budget in bytes is the same."""
    assert parse_share(share_text(budget)) == budget


def test_one_validation_image(network: Path, tmp_path: Path) -> None:
    """Its accuracy is all or nothing."""
    found = explore(network, tmp_path / "run", candidates=5, val_images=1)
    assert {each.objectives["accuracy"] for each in candidates_in(tmp_path / "run")} <= {0.0, 1.0}
    assert found.front.val_images == 1


def test_a_small_space_is_explored_to_its_end(network: Path, tmp_path: Path) -> None:
    """Where there are fewer separations than are asked for, each is evaluated once."""
    found = explore(network, tmp_path / "run", candidates=1000, val_images=5)
    problem = problem_of(network)
    names = tuple(problem.choices)
    each = (dict(zip(names, values, strict=True)) for values in product(*problem.choices.values()))
    keys = {priced.key for priced in map(problem.price, each) if priced.feasible}
    assert {each.key for each in candidates_in(tmp_path / "run")} == keys
    assert (found.front.evaluated, found.front.wanted) == (len(keys), 1000)
    assert explore(network, tmp_path / "run", candidates=1000, val_images=5, resume=True).front == found.front


def test_what_cannot_be_explored_is_refused(network: Path, tmp_path: Path) -> None:
    """Before anything is written; the reason is named."""
    out, bare = tmp_path / "run", tmp_path / "bare"
    bare.mkdir()
    load_graph(network).save(bare / "graph.json")
    separated = tmp_path / "separated"
    api.separate(network, separated, devices=2, budget=0.1)
    images = make_folder(tmp_path / "images", ("train", "val"))
    unlinked = uniform_cluster(2).model_copy(update={"links": ()})
    for changes, kind, message in (
        ({"network": bare}, SpecError, r"weights\.safetensors: no such file"),
        ({"network": separated}, SpecError, "is separated already"),
        ({"data": DataSource(f"folder:{images}", tmp_path)}, TrainingError, "has scores for 10 classes"),
        ({"devices": 40}, PlanError, "too few channels for 40 devices"),
        ({"devices": 1}, SpecError, "one device exchanges nothing; give at least 2 `devices`"),
        ({"devices": None}, SpecError, "give the number of `devices`, or a `cluster`"),
        ({"cluster": unlinked}, SearchError, "has no link for device0-device1"),
        ({"strategy": "hope"}, SearchError, "unknown strategy 'hope'; allowed: predictive"),
        ({"candidates": 0}, SpecError, "`candidates` must be an integer in 1"),
        ({"val_images": 0}, SpecError, "`val_images` must be an integer in 1"),
        ({"seed": -1}, SpecError, "`seed` must be an integer in 0"),
    ):
        arguments: dict[str, Any] = {"network": network, "out": out, "data": "digits", "devices": 2, "progress": False}
        with pytest.raises(kind, match=message):
            api.explore(**arguments | changes)
        assert not out.exists()


def test_a_folder_of_something_else_stays_as_it_is(network: Path, tmp_path: Path) -> None:
    """A network's, a file, or the folder of a search."""
    with pytest.raises(SearchError, match="holds other files"):
        explore(network, network)
    names = {path.name for path in network.iterdir()}
    assert names - {".sepnas-lock"} == {"graph.json", "weights.safetensors"}
    (tmp_path / "file").write_text("")
    with pytest.raises(SearchError, match="is a file; name a folder"):
        explore(network, tmp_path / "file")
    search = tmp_path / "search"
    search.mkdir()
    (search / RUN_FILE).write_text(json.dumps({"format": "sepnas.search-run", "version": 1}))
    with pytest.raises(SpecError, match="search-run"):
        explore(network, search, resume=True)


def test_torch_s_own_generator_is_left_alone(network: Path, tmp_path: Path) -> None:
    """An exploration draws from generators of its own."""
    before = torch.get_rng_state()
    explore(network, tmp_path / "run", candidates=2)
    assert torch.equal(torch.get_rng_state(), before)
