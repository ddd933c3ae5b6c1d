"""Accuracy with one device lost, as an objective of the search."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from sepnas.errors import SearchError, SpecError
from sepnas.nets.outage import Outage
from sepnas.nets.supernet import Supernet, bare
from sepnas.search import Candidate, load_candidates, pick
from sepnas.search.accuracy_evaluator import AccuracyEvaluator
from sepnas.search.explorer import StrategyName
from sepnas.search.folder import RUN_FILE, SearchRun
from sepnas.search.run import DROPOUT_FOR_ONE_LOST, SearchResult
from sepnas.search.trials.kit import read_evaluator, write_kit
from sepnas.separable.space import SearchSpace
from sepnas.train.checkpoint import read_checkpoint, restore_network
from sepnas.train.recipe import RECIPES
from tests.cli.test_train_command import said
from tests.search.test_search import CANDIDATES, TINY, search, tiny_data

OBJECTIVES = ["accuracy", "accuracy_one_lost", "payload_bytes"]
SPACE = SearchSpace.from_data({**TINY, "objectives": OBJECTIVES})


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> SearchResult:
    """A search with the objective."""
    return search(tmp_path_factory.mktemp("one-lost") / "run", space=SPACE, supernet_epochs=10)


def test_candidates_are_evaluated_with_one_device_lost(found: SearchResult) -> None:
    """The supernet learns it, and each candidate has the mean over the devices that may be lost.

    One that alone has the classifier is never the one.
    """
    assert SearchRun.load(found.run_dir / RUN_FILE).recipe.device_dropout == DROPOUT_FOR_ONE_LOST
    supernet, path = Supernet(SPACE), found.run_dir / "supernet/last.safetensors"
    restore_network(supernet, read_checkpoint(path)[0], path)
    evaluator = AccuracyEvaluator(supernet, tiny_data(), 3, torch.device("cpu"), dropout=(DROPOUT_FOR_ONE_LOST, 0.0))
    candidates = load_candidates(found.run_dir)
    assert len(candidates) == CANDIDATES
    assert max(c.objectives["accuracy_one_lost"] for c in candidates) > 0.2  # guessing has a tenth
    assert {c.architecture.policy.readout.kind for c in candidates} == {"mean", "device"}
    for candidate in candidates[::7]:
        policy, right = candidate.architecture.policy, []
        evaluator.accuracy(candidate.architecture)  # measures the batch norms of the network that follows
        network = evaluator._network(bare(candidate.architecture))
        for lost in {0, 1} - ({policy.readout.device} if policy.readout.kind == "device" else set()):
            with torch.inference_mode():
                x_BCHW = evaluator.normalise(evaluator.images_BCHW)
                answers = network(x_BCHW, policy, Outage.of([lost], 2, len(evaluator.labels_B))).argmax(1)
            right.append((answers == evaluator.labels_B).float().mean().item())
        assert candidate.objectives["accuracy_one_lost"] == pytest.approx(sum(right) / len(right))
        assert list(candidate.objectives) == OBJECTIVES


def test_the_front_counts_it(found: SearchResult) -> None:
    """A candidate is on the front exactly when no other is as good in all three and better in one."""
    rows = [_row(candidate) for candidate in load_candidates(found.run_dir)]
    best = {row for row in rows if not any(other != row and _as_good(other, row) for other in rows)}
    assert {_row(candidate) for candidate in found.front} == best


def test_the_terminal_shows_and_bounds_it(found: SearchResult, tmp_path: Path) -> None:
    """`front` has a column for it and `pick` a bound; what it says to type next trains with the same dropout."""
    worth = sorted(c.objectives["accuracy_one_lost"] for c in found.front)
    bound = worth[len(worth) // 2] - 1e-4
    output = said("front", found.run_dir, "--min-accuracy-one-lost", f"{bound:.6f}")
    assert "one" in output.splitlines()[0]
    assert f" accuracy_one_lost >= {bound:g}" in output
    output = said("pick", found.run_dir, "--min-accuracy-one-lost", f"{bound:.6f}", "--out", tmp_path / "a.json")
    assert f"--device-dropout {DROPOUT_FOR_ONE_LOST}" in output


def test_a_search_without_it_cannot_be_bounded_by_it(finished_without: SearchResult) -> None:
    """The error says what the space's file lacks."""
    with pytest.raises(SearchError, match=r"no accuracy_one_lost, .* name it in the space's `objectives`"):
        pick(load_candidates(finished_without.run_dir), min_accuracy_one_lost=0.5)


@pytest.fixture(scope="module")
def finished_without(tmp_path_factory: pytest.TempPathFactory) -> SearchResult:
    return search(tmp_path_factory.mktemp("without") / "run", supernet_epochs=1, candidates=4)


@pytest.mark.parametrize("strategy", ["evolution", "nsga2", "random", "regularized-evolution"])
def test_every_strategy_takes_it(strategy: StrategyName, tmp_path: Path) -> None:
    """Each of them goes its way with it, infeasible candidates among those that it meets."""
    space = SearchSpace.from_data({**TINY, "objectives": OBJECTIVES, "constraints": {"max_payload_bytes": 900}})
    result = search(tmp_path / "run", space=space, supernet_epochs=1, candidates=8, strategy=strategy)
    assert result.candidates == 8
    assert all(c.costs["payload_bytes"] <= 900 for c in result.front)
    assert all(0 <= c.objectives["accuracy_one_lost"] <= 1 for c in result.front)


def test_one_device_has_none_to_lose() -> None:
    """A space of one device cannot have the objective."""
    alone = {"network": {**TINY["network"], "num_devices": 1}, "policy": {"patterns": ["none"]}}
    with pytest.raises(SpecError, match="names accuracy_one_lost, but there is one device only"):
        SearchSpace.from_data({**alone, "objectives": OBJECTIVES})


def _row(candidate: Candidate) -> tuple[float, float, float]:
    """Less is better."""
    gains = candidate.objectives
    return -gains["accuracy"], -gains["accuracy_one_lost"], gains["payload_bytes"]


def _as_good(one: Sequence[float], other: Sequence[float]) -> bool:
    return all(a <= b for a, b in zip(one, other, strict=True))


def test_the_report_says_what_the_front_counts(found: SearchResult, tmp_path: Path) -> None:
    """Its words name the objectives of the space, and its tables have the accuracy with one device lost."""
    pytest.importorskip("matplotlib")
    said("report", "--search", found.run_dir, "--out", tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "at least as good in accuracy, accuracy with one device lost and payload, and better in one" in page
    assert "one lost</th>" in page


def test_trials_evaluate_as_this_process_does(found: SearchResult, tmp_path: Path) -> None:
    """What a kit holds is evaluated alike, dropout and all."""
    supernet, path = Supernet(SPACE), found.run_dir / "supernet/last.safetensors"
    restore_network(supernet, read_checkpoint(path)[0], path)
    evaluator = AccuracyEvaluator(supernet, tiny_data(), 3, torch.device("cpu"), dropout=(DROPOUT_FOR_ONE_LOST, 0.0))
    (tmp_path / "kit").mkdir()
    write_kit(tmp_path / "kit", evaluator, tiny_data(), 3)
    there = read_evaluator(tmp_path / "kit")
    for candidate in found.front[:4]:
        accuracies = {name: candidate.objectives[name] for name in OBJECTIVES[:2]}
        assert there(candidate.genotype) == evaluator(candidate.genotype) == accuracies


def test_without_costs_a_number_is_the_mean_of_the_accuracies(tmp_path: Path) -> None:
    """NNI's own strategies never see anything but a number."""
    space = SearchSpace.from_data({**TINY, "objectives": OBJECTIVES[:2]})
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        result = search(
            tmp_path / "run", space=space, supernet_epochs=1, candidates=4, strategy="regularized-evolution"
        )
    assert result.candidates == 4


def test_a_recipe_without_dropout_gets_some_unless_it_is_refused(tmp_path: Path) -> None:
    """Only --device-dropout 0 trains a supernet that never loses what its candidates lose."""
    for given, wanted in ((None, DROPOUT_FOR_ONE_LOST), (0.0, 0.0), (0.2, 0.2)):
        out = tmp_path / str(given)
        recipe = RECIPES["digits"].model_copy(update={"epochs": 1})
        search(out, space=SPACE, recipe=recipe, candidates=2, device_dropout=given, supernet_epochs=1)
        assert SearchRun.load(out / RUN_FILE).recipe.device_dropout == wanted
