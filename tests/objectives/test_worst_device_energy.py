"""The largest energy of any one device: an objective that is nothing but a value in the registry."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sepnas.cli.main import app
from sepnas.cost.simulator import simulate
from sepnas.errors import SearchError
from sepnas.objectives import costs_of
from sepnas.report.content import ReportContent
from sepnas.report.from_search import search_parts
from sepnas.report.page import render_report
from sepnas.search import SearchResult, load_candidates, load_front, pick
from sepnas.search.needs import check_needs
from sepnas.search.pareto import hypervolume
from sepnas.search.screen import Screen, reference_costs
from sepnas.separable.build import build_plan
from sepnas.separable.space import SearchSpace
from sepnas.spec.cluster import Cluster, Power, uniform_cluster
from tests.helpers_search import evaluated_run
from tests.search.test_search import search, told

NAME = "worst_device_energy_j"
DEMO = SearchSpace.load(Path(__file__).parents[2] / "search_spaces" / "demo.yaml").to_data()
SPACE = SearchSpace.from_data({**DEMO, "objectives": ["accuracy", "latency_s", NAME]})
SETTINGS = {"space": SPACE, "supernet_epochs": 1, "candidates": 24}


def powered() -> Cluster:
    """Three devices, each thirstier than the one before."""
    cluster = uniform_cluster(3)
    devices = tuple(
        device.model_copy(update={"power": Power(idle_w=1.0 + rank, compute_w=2.0, energy_per_byte_j=1e-7)})
        for rank, device in enumerate(cluster.devices)
    )
    return cluster.model_copy(update={"devices": devices})


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> SearchResult:
    """A search of the demo's space, by NNI."""
    return search(tmp_path_factory.mktemp("energy") / "run", cluster=powered(), **SETTINGS)


def cli(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    return result.output


def test_it_is_the_largest_energy_of_a_device() -> None:
    """Not the sum, and not the mean."""
    simulation = simulate(build_plan(SPACE.architecture_of(SPACE.largest())), powered())
    assert costs_of(simulation)[NAME] == max(simulation.energy_j) < sum(simulation.energy_j)


def test_a_search_optimises_it(found: SearchResult, tmp_path: Path) -> None:
    """It is in every candidate, spans the front and its hypervolume, and the same seed finds the same front."""
    candidates, front = load_candidates(found.run_dir), load_front(found.run_dir)
    assert all(candidate.objectives[NAME] == candidate.costs[NAME] > 0 for candidate in candidates)
    assert {candidate.index for candidate in front} == {
        c.index for c in candidates if not any(_dominates(other.objectives, c.objectives) for other in candidates)
    }
    assert min(front, key=lambda c: c.costs[NAME]).costs[NAME] == min(c.costs[NAME] for c in candidates)
    assert found.hypervolume == hypervolume(front, reference_costs(SPACE, powered(), 3)) > 0
    assert told(search(tmp_path / "again", cluster=powered(), **SETTINGS).front) == told(found.front)


def _dominates(one: dict[str, float], other: dict[str, float]) -> bool:
    first, second = ((-o["accuracy"], o["latency_s"], o[NAME]) for o in (one, other))
    return first != second and all(a <= b for a, b in zip(first, second, strict=True))


def test_it_bounds_sorts_and_has_a_column(found: SearchResult, tmp_path: Path) -> None:
    """`front` and `pick` keep a bound on it, `--sort` puts the least first, and Python bounds it by name."""
    values = sorted(candidate.costs[NAME] for candidate in load_candidates(found.run_dir))
    bound = f"{NAME}<={values[12] * 1e3!r}mJ"
    table = cli("front", found.run_dir, "--bound", bound, "--sort", NAME)
    assert all(word in table.partition("─")[0] for word in ("worst", "energy"))
    points = json.loads(cli("front", found.run_dir, "--bound", bound, "--sort", NAME, "--json"))["candidates"]
    shown = [point[NAME] for point in points]
    assert shown == sorted(shown)
    assert shown[-1] <= values[12]
    cli("pick", found.run_dir, "--bound", bound, "--out", tmp_path / "a.json")
    picked = pick(load_candidates(found.run_dir), max_worst_device_energy_j=values[12])
    assert picked.costs[NAME] <= values[12]
    assert json.loads((tmp_path / "a.json").read_text())["name"] == f"demo-{picked.index}"


def test_the_report_has_its_words_its_column_its_axis_and_its_picture(found: SearchResult) -> None:
    """The page of the search names it among the objectives and draws accuracy against it."""
    page = render_report(ReportContent(**search_parts(found.run_dir)))
    assert "accuracy, latency and worst device&#39;s energy" in page
    assert '<th scope="col">worst energy</th>' in page
    assert ">worst device's energy predicted for cluster uniform</text>" in page
    assert ">energy</text>" in page
    assert ">worst device's</text>" in page


def test_a_search_on_a_cluster_without_power_is_refused_before_training(tmp_path: Path) -> None:
    """The error names the cluster, the device and its field, and no folder is made."""
    first, *others = powered().devices
    unpowered = others[0].model_copy(update={"power": Power()})
    cluster = powered().model_copy(update={"devices": (first, unpowered, *others[1:])})
    with pytest.raises(SearchError, match=r"objective worst_device_energy_j, but cluster 'uniform' .*'device1'; set "):
        search(tmp_path / "run", cluster=cluster, **SETTINGS)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", [NAME, "energy_j"])
def test_a_bound_on_energy_needs_power(name: str) -> None:
    """A space that bounds energy is refused on a cluster without power figures, one that does not is not."""
    bounded = SearchSpace.from_data({**DEMO, "constraints": {f"max_{name}": 1.0}})
    with pytest.raises(SearchError, match=rf"`constraints.max_{name}`, but .* set `devices.0.power`"):
        check_needs(bounded, uniform_cluster(3))
    check_needs(bounded, powered())
    check_needs(SearchSpace.from_data(DEMO), uniform_cluster(3))


@pytest.mark.parametrize(("cluster", "shown"), [(uniform_cluster(3), False), (powered(), True)])
def test_simulate_shows_no_energy_without_power(cluster: Cluster, shown: bool, tmp_path: Path) -> None:
    """The table has a dash, not 0 J, for a device without power figures."""
    path = cluster.save(tmp_path / "cluster.yaml")
    table = cli("simulate", "resnext11_3x4d", "-n", 3, "--cluster", path)
    rows = [line.split() for line in table.splitlines() if line.startswith("device") and line[6].isdigit()]
    assert len(rows) == 3
    assert all(("-" in row) != shown for row in rows)


def test_a_space_bounds_it() -> None:
    """`constraints.max_worst_device_energy_j` excludes what needs more."""
    screen = Screen(SPACE, powered())
    limit = screen(SPACE.largest()).costs[NAME] / 2
    bounded = Screen(SearchSpace.from_data({**DEMO, "constraints": {f"max_{NAME}": limit}}), powered())
    assert bounded(SPACE.largest()).excess == {f"max_{NAME}": pytest.approx(1.0)}
    assert bounded(SPACE.smallest()).feasible


def test_python_cannot_bound_unknown_energy(tmp_path: Path) -> None:
    """`pick` with a bound on energy refuses candidates of a cluster without power figures."""
    candidates = evaluated_run(tmp_path, SearchSpace.from_data(DEMO), 5)
    with pytest.raises(SearchError, match=rf"{NAME} of the candidates is not known, .* no power figures"):
        pick(candidates, max_worst_device_energy_j=0.02)
