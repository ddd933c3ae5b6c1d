"""The payload of all messages, the client's included: an objective of searches."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sepnas.cli.main import app
from sepnas.cost.simulator import simulate
from sepnas.objectives import costs_of
from sepnas.report.content import ReportContent
from sepnas.report.from_search import search_parts
from sepnas.report.page import render_report
from sepnas.search import SearchResult, load_candidates, load_front, pick
from sepnas.search.screen import Screen
from sepnas.separable.build import build_plan
from sepnas.separable.space import SearchSpace
from sepnas.spec.cluster import uniform_cluster
from tests.search.test_search import search, told

DEMO = SearchSpace.load(Path(__file__).parents[2] / "search_spaces" / "demo.yaml").to_data()
SPACE = SearchSpace.from_data({**DEMO, "objectives": ["accuracy", "total_bytes"]})
SETTINGS = {"space": SPACE, "supernet_epochs": 1, "candidates": 24, "cluster": uniform_cluster(3)}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> SearchResult:
    """A search of the demo's space for accuracy and total bytes, by NNI."""
    return search(tmp_path_factory.mktemp("total") / "run", **SETTINGS)


def cli(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    return result.output


def test_it_is_the_input_the_output_and_the_payload_between_devices() -> None:
    """The image once for each device that takes part, one byte a value, the logits, and what devices send."""
    for genotype in (SPACE.largest(), SPACE.smallest()):
        plan = build_plan(SPACE.architecture_of(genotype))
        simulation = simulate(plan, uniform_cluster(3))
        devices = sum(map(bool, plan.programs))
        assert simulation.input_bytes == plan.input_bytes() == 64 * devices
        assert simulation.output_bytes == plan.output_bytes() == 40
        expected = plan.payload_bytes() + 64 * devices + 40
        assert costs_of(simulation)["total_bytes"] == plan.total_bytes() == expected


@pytest.mark.slow
def test_a_search_optimises_it(found: SearchResult, tmp_path: Path) -> None:
    """It is in every candidate and spans the front, and the same seed finds the same front."""
    candidates, front = load_candidates(found.run_dir), load_front(found.run_dir)
    for candidate in candidates:
        total = build_plan(candidate.architecture).total_bytes()
        assert candidate.objectives["total_bytes"] == candidate.costs["total_bytes"] == total
    best = {(c.objectives["accuracy"], c.costs["total_bytes"]) for c in front}
    for candidate in candidates:
        accuracy, total = candidate.objectives["accuracy"], candidate.costs["total_bytes"]
        assert any(a >= accuracy and b <= total for a, b in best)
    assert told(search(tmp_path / "again", **SETTINGS).front) == told(found.front)


def test_it_bounds_sorts_and_has_a_column(found: SearchResult, tmp_path: Path) -> None:
    """`front` and `pick` keep a bound on it, `--sort` puts the least first, and tables show it by default."""
    values = sorted(candidate.costs["total_bytes"] for candidate in load_candidates(found.run_dir))
    bound = f"total_bytes<={values[12]:.0f}"
    head = cli("front", found.run_dir, "--sort", "total_bytes").partition("─")[0]
    assert "total," in head
    data = json.loads(cli("front", found.run_dir, "--bound", bound, "--sort", "total_bytes", "--json"))
    shown = [point["total_bytes"] for point in data["candidates"]]
    assert shown == sorted(shown)
    assert shown[-1] <= values[12]
    cli("pick", found.run_dir, "--bound", bound, "--out", tmp_path / "a.json")
    assert pick(load_candidates(found.run_dir), max_total_bytes=values[12]).costs["total_bytes"] <= values[12]


def test_the_report_draws_accuracy_against_it(found: SearchResult) -> None:
    """The page of the search has its column, and a picture whose axis says what it counts."""
    page = render_report(ReportContent(**search_parts(found.run_dir)))
    assert '<th scope="col">total, bytes</th>' in page
    assert ">total payload of client and devices</text>" in page


def test_a_space_bounds_it() -> None:
    """`constraints.max_total_bytes` excludes candidates that send more."""
    total = Screen(SPACE, uniform_cluster(3))(SPACE.largest()).costs["total_bytes"]
    bounded = Screen(
        SearchSpace.from_data({**DEMO, "constraints": {"max_total_bytes": int(total / 2)}}), uniform_cluster(3)
    )
    assert bounded(SPACE.largest()).excess == {"max_total_bytes": pytest.approx(1.0)}
    assert bounded(SPACE.smallest()).feasible
