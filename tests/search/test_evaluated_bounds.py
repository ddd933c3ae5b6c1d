"""Bounds of a space on evaluated objectives: a candidate beyond them is evaluated, kept, and never on the front."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from statistics import median

import pytest
from typer.testing import CliRunner

from sepnas.cli.main import app
from sepnas.errors import SearchError
from sepnas.search import load_candidates, load_front
from sepnas.search.explorer import StrategyName
from sepnas.search.folder import CANDIDATES_FILE, RUN_FILE
from sepnas.search.found import Found
from sepnas.search.history import front_history
from sepnas.search.pareto import pareto_front
from sepnas.search.progress import SearchProgress
from sepnas.search.screen import reference_costs
from sepnas.separable.architecture import Architecture
from tests.helpers_search import evaluated_run
from tests.search.test_search import CLUSTER, SPACE, constrained, search
from tests.search.test_strategies import explore, made_up

MIN_ACCURACY = 0.84
BOUNDED = constrained(min_accuracy=MIN_ACCURACY)


@pytest.mark.parametrize("strategy", ["predictive", "evolution", "nsga2"])
def test_a_strategy_learns_the_bound(strategy: StrategyName) -> None:
    """Of what it proposes at the end more keeps the bound than without it, and than at its own beginning."""
    bounded, free = ([made_up(found) for found in explore(strategy, 160, space=s)] for s in (BOUNDED, SPACE))
    kept = [objectives["accuracy"] >= MIN_ACCURACY for objectives in bounded]
    assert sum(kept[-48:]) > sum(objectives["accuracy"] >= MIN_ACCURACY for objectives in free[-48:])
    assert sum(kept[-48:]) > sum(kept[:48])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 candidates, half of them less accurate than the space asks for."""
    folder = tmp_path_factory.mktemp("bounded")
    evaluated = evaluated_run(folder / "free", SPACE, 40)
    least = median(candidate.objectives["accuracy"] for candidate in evaluated)
    evaluated_run(folder / "bounded", constrained(min_accuracy=least), 40)
    return folder / "bounded"


def test_the_front_has_only_what_keeps_the_bound(run: Path) -> None:
    """It is the front of those candidates; the others stay in the file."""
    found = Found.load(run)
    least = found.run.space.constraints.bounds(evaluated=True).bounds[0].limit
    fitting = [candidate for candidate in found.candidates if candidate.objectives["accuracy"] >= least]
    assert len(found.candidates) == 2 * len(fitting) == 40
    assert found.front == pareto_front(fitting)
    assert {candidate.excess > 0 for candidate in found.candidates} == {True, False}
    assert all("excess" not in candidate.line() for candidate in found.candidates)


def test_a_candidate_beyond_the_bound_is_picked_by_number_only(run: Path, tmp_path: Path) -> None:
    """`pick` says why it is not on the front, also where no candidate keeps the bound."""
    found, out = Found.load(run), tmp_path / "a.json"
    beyond = next(candidate for candidate in found.candidates if candidate.excess)
    settings = json.loads((run / RUN_FILE).read_text())
    settings["space"]["constraints"]["min_accuracy"] = 1.0
    (tmp_path / RUN_FILE).write_text(json.dumps(settings))
    shutil.copy(run / CANDIDATES_FILE, tmp_path)
    for folder in (run, tmp_path):
        result = CliRunner().invoke(app, ["pick", str(folder), "--candidate", str(beyond.index), "--out", str(out)])
        assert "is not on the front: it violates a bound of the space" in " ".join(result.output.split())
        assert Architecture.load(out) == beyond.architecture
    with pytest.raises(SearchError, match=r"none of 40 candidates keeps the space's bounds"):
        print(Found.load(tmp_path).knee)


def test_the_history_begins_with_an_empty_front(run: Path) -> None:
    """Until a candidate keeps the bound the hypervolume is 0, and the display says why."""
    found = Found.load(run)
    ordered = sorted(found.candidates, key=lambda candidate: -candidate.excess)
    history = front_history(ordered, reference_costs(SPACE, CLUSTER, 0))
    assert [(step.front_size, step.hypervolume) for step in history[:20]] == [(0, 0.0)] * 20
    assert all(step.front_size > 0 for step in history[20:])
    assert history[-1].front_size == len(found.front)
    assert "no candidate within the bounds yet" in str(SearchProgress(20, 40, 0, 0.0, None))


def test_a_search_ends_with_what_keeps_the_bound_or_says_that_nothing_does(tmp_path: Path) -> None:
    """A front of those that are accurate enough; where none is, an error that names the nearest."""
    result = search(tmp_path / "run", space=constrained(min_accuracy=0.2), candidates=20)
    found = load_candidates(result.run_dir)
    assert result.candidates == len(found) == 20
    assert result.front
    assert {c.key for c in load_front(result.run_dir)} == {c.key for c in pareto_front(found)}
    assert all(candidate.objectives["accuracy"] >= 0.2 for candidate in result.front)
    with pytest.raises(SearchError, match="none of 9 candidates keeps the space's bounds on evaluated"):
        search(tmp_path / "hopeless", space=constrained(min_accuracy=1.0), candidates=9, supernet_epochs=1)
