"""Reading a search: `sepnas front` and `pick`, what a policy amounts to."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from sepnas.cli.main import app, main
from sepnas.errors import SearchError
from sepnas.objectives import OBJECTIVES
from sepnas.search.candidate import Candidate
from sepnas.search.canonical import plan_key
from sepnas.search.found import Found
from sepnas.search.traits import policy_traits, share_of_all_to_all
from sepnas.separable.architecture import Architecture, named_architecture
from sepnas.separable.build import build_plan
from sepnas.separable.live_policy import sent_policy
from sepnas.separable.space import SearchSpace
from tests.helpers_search import evaluated_run, powered_cluster

SPACE = SearchSpace.load(Path(__file__).parents[2] / "search_spaces" / "demo.yaml")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search of 60 candidates that was asked for 100."""
    folder = tmp_path_factory.mktemp("front") / "search"
    evaluated_run(folder, SPACE, 60, wanted=100, cluster=powered_cluster(SPACE.num_devices))
    return folder


def cli(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "160"})


def shown(*arguments: object) -> dict:
    result = cli("front", *arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.output)


def error(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, *arguments: object) -> str:
    monkeypatch.setattr("sys.argv", ["sepnas", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 1
    return " ".join(capsys.readouterr().err.split())


def test_an_unclear_bound_names_its_option(run: Path) -> None:
    """A bound that cannot be read ends with code 2 and names the option."""
    result = cli("front", run, "--max-latency", "20")
    assert result.exit_code == 2
    assert "--max-latency" in result.output


def test_the_table_shows_each_point_of_the_front(run: Path) -> None:
    """The table has a line for each point, marks the knee and says that the search is not finished."""
    found, output = Found.load(run), cli("front", run).output
    for candidate in found.front:
        assert re.search(rf"^{candidate.index}( knee)? .*{policy_traits(candidate).phrase}", output, re.MULTILINE)
    assert re.search(rf"^{found.knee.index} knee ", output, re.MULTILINE)
    assert "60 of 100 candidates evaluated, the search is not finished" in output


def test_json_is_the_whole_front(run: Path) -> None:
    """`--json` holds every point of the front with all its costs, the knee and the hypervolume."""
    found, data = Found.load(run), shown(run)
    assert [point["candidate"] for point in data["candidates"]] == [candidate.index for candidate in found.front]
    assert data["knee"] == found.knee.index
    assert (data["finished"], data["evaluated"], data["wanted"]) == (False, 60, 100)
    assert 0 < data["hypervolume"] < 1
    first = data["candidates"][0]
    assert {"accuracy", "latency_s", "payload_bytes", "energy_j", "memory_bytes", "policy"} < first.keys()


def test_filters_keep_the_candidates_within_them(run: Path) -> None:
    """With bounds the table has those points of the front that keep them all, and no other."""
    front = shown(run)["candidates"]
    middle = sorted(front, key=lambda point: point["payload_bytes"])[len(front) // 2]
    most, least = middle["payload_bytes"], front[1]["accuracy"]
    kept = shown(run, "--max-bytes", f"{most}B", "--min-accuracy", least)["candidates"]
    assert kept == [p for p in front if p["payload_bytes"] <= most and p["accuracy"] >= least]
    assert 0 < len(kept) < len(front)


def test_a_bound_beside_the_objectives_brings_up_the_best_within_it(run: Path) -> None:
    """Memory is no objective: the front within a bound on it is that of all candidates that keep it."""
    found = Found.load(run)
    bound = sorted(candidate.costs["memory_bytes"] for candidate in found.candidates)[20]
    kept = shown(run, "--max-memory", f"{bound:.0f}")["candidates"]
    fitting = [c for c in found.candidates if c.costs["memory_bytes"] <= bound]
    assert max(p["accuracy"] for p in kept) == max(c.objectives["accuracy"] for c in fitting)


@pytest.mark.parametrize(
    ("short", "text", "bound"),
    [
        ("--max-bytes", "4KB", "payload_bytes<=4KB"),
        ("--max-latency", "2ms", "latency_s<=2ms"),
        ("--max-memory", "52KB", "memory_bytes<=52KB"),
        ("--max-energy", "1J", "energy_j<=1J"),
        ("--min-accuracy", "95%", "accuracy>=95%"),
    ],
)
def test_a_short_form_is_the_bound_of_its_objective(run: Path, short: str, text: str, bound: str) -> None:
    """`--max-latency 2ms` leaves what `--bound 'latency_s<=2ms'` leaves."""
    assert shown(run, short, text) == shown(run, "--bound", bound)


@pytest.mark.parametrize("name", [name for name, known in OBJECTIVES.items() if known.simulated])
def test_every_objective_can_be_bounded_and_sorted_by(run: Path, name: str) -> None:
    """Within a bound, given twice, are those that keep the tighter one; the table has its column, the best first."""
    values = sorted(candidate.costs[name] for candidate in Found.load(run).candidates)
    bound, loose = f"{name}<={_typed(name, values[30])}", f"{name}<={_typed(name, 2 * values[-1])}"
    kept = [point[name] for point in shown(run, "--bound", loose, "--bound", bound, "--sort", name)["candidates"]]
    assert kept == sorted(kept)
    assert kept[-1] <= values[30]
    headings = cli("front", run, "--bound", bound).output.partition("─")[0]
    assert all(word in headings for word in OBJECTIVES[name].heading.split())


@pytest.mark.parametrize(
    "options",
    [
        ("--bound", "worst_device_energy_j<=20mJ"),
        ("--bound", "energy_j<=20mJ"),
        ("--max-energy", "20mJ"),
        ("--sort", "energy"),
        ("--sort", "worst_device_energy_j"),
    ],
)
def test_energy_that_is_not_known_is_neither_bounded_nor_sorted_by(
    options: tuple[str, str], tmp_path: Path, monkeypatch, capsys
) -> None:
    """On a cluster without power figures the error names the cluster, the device and its field."""
    evaluated_run(tmp_path, SPACE, 5)
    verbs = ["front"] if options[0] == "--sort" else ["front", "pick"]
    for verb in verbs:
        said = error(monkeypatch, capsys, verb, tmp_path, *options)
        assert "cluster 'uniform' gives no power figures for device 'device0'; set `devices.0.power`" in said


def _typed(name: str, value: float) -> str:
    """A value of an objective as people type it, without rounding."""
    return f"{value!r}{OBJECTIVES[name].quantity.unit}"


@pytest.mark.parametrize(
    ("bound", "said"),
    [
        ("latency_s>=2ms", "give latency_s<=VALUE; allowed: accuracy>=, "),
        ("speed<=3", "unknown objective 'speed'; allowed: accuracy>=, "),
        ("latency_s<=2", "a number with its unit us, ms or s"),
    ],
)
@pytest.mark.parametrize("verb", ["front", "pick"])
def test_an_unreadable_bound_lists_the_allowed_forms(run: Path, verb: str, bound: str, said: str) -> None:
    """A wrong direction, an unknown name and a missing unit end with code 2 and name the option."""
    result = cli(verb, run, "--bound", bound)
    words = " ".join(result.output.replace("│", " ").split())
    assert result.exit_code == 2
    assert "'--bound'" in words
    assert said.strip() in words


def test_pick_keeps_any_bound(run: Path, tmp_path: Path) -> None:
    """The most accurate candidate within a bound on what is no objective of the space is written."""
    out, candidates = tmp_path / "a.json", Found.load(run).candidates
    limit = sorted(candidate.costs["makespan_s"] for candidate in candidates)[20]
    assert cli("pick", run, "--bound", f"makespan_s<={limit!r}s", "--out", out).exit_code == 0
    fitting = [candidate for candidate in candidates if candidate.costs["makespan_s"] <= limit]
    assert Architecture.load(out) == max(fitting, key=lambda c: c.objectives["accuracy"]).architecture


@pytest.mark.parametrize(("sort", "key", "sign"), [("accuracy", "accuracy", -1), ("latency", "latency_s", 1)])
def test_sorting_puts_the_best_first(run: Path, sort: str, key: str, sign: int) -> None:
    """`--sort` orders the points by one value, the best first."""
    values = [sign * point[key] for point in shown(run, "--sort", sort)["candidates"]]
    assert values == sorted(values)


@pytest.mark.parametrize("verb", ["front", "pick"])
def test_bounds_that_nothing_keeps_name_the_nearest(run: Path, verb: str, monkeypatch, capsys, tmp_path: Path) -> None:
    """Where nothing fits the error names the bounds and the nearest candidate, and nothing is written."""
    monkeypatch.chdir(tmp_path)
    said = error(monkeypatch, capsys, verb, run, "--max-latency", "1us", "--max-memory", "1GB")
    assert "no candidate has latency_s <= 1e-06 and memory_bytes <= 1e+09; the nearest is candidate" in said
    assert not list(tmp_path.iterdir())


def test_pick_writes_the_most_accurate_within_the_bounds(run: Path, tmp_path: Path) -> None:
    """The architecture of the most accurate point within the bounds is written, named after its candidate."""
    out = tmp_path / "a.json"
    assert cli("pick", run, "--max-bytes", "4KB", "--out", out).exit_code == 0
    best = max(shown(run, "--max-bytes", "4KB")["candidates"], key=lambda point: point["accuracy"])
    assert Architecture.load(out).name == f"demo-{best['candidate']}"
    assert build_plan(Architecture.load(out)).payload_bytes() == best["payload_bytes"]


def test_pick_takes_the_knee_or_a_named_candidate(run: Path, tmp_path: Path) -> None:
    """Without bounds it is the knee; `--candidate` takes that one and says when it is not on the front."""
    out, found = tmp_path / "a.json", Found.load(run)
    cli("pick", run, "--out", out)
    assert Architecture.load(out).name == f"demo-{found.knee.index}"
    other = next(candidate for candidate in found.candidates if candidate not in found.front)
    assert "is not on the front" in cli("pick", run, "--candidate", other.index, "--out", out).output
    assert Architecture.load(out) == other.architecture


def test_a_candidate_that_is_not_there_or_breaks_a_bound_is_refused(run: Path, monkeypatch, capsys) -> None:
    """An unknown number is refused with those that are known, and one beyond a bound with what it has."""
    assert "the numbers go from 0 to 59" in error(monkeypatch, capsys, "pick", run, "--candidate", 60)
    said = error(monkeypatch, capsys, "pick", run, "--candidate", 0, "--max-bytes", 1)
    assert "candidate 0 does not keep payload_bytes <= 1: it has accuracy" in said


OLD_CONSTRAINTS = dict.fromkeys(("max_latency_s", "max_payload_bytes", "max_memory_bytes", "devices_used"))
OLD_COSTS = ("latency_s", "makespan_s", "payload_bytes", "wire_bytes", "memory_bytes", "energy_j")


def test_a_search_from_before_an_objective_was_known_still_loads(
    run: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    """It has the same front; a bound on what it did not keep is refused, and its settings are those of today."""
    settings = json.loads((run / "run.json").read_text())
    settings["space"]["constraints"] = OLD_CONSTRAINTS
    (tmp_path / "run.json").write_text(json.dumps(settings))
    lines = [json.loads(line) for line in (run / "candidates.jsonl").read_text().splitlines()]
    for line in lines:
        line["costs"] = {name: line["costs"][name] for name in OLD_COSTS}
    (tmp_path / "candidates.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert [p["candidate"] for p in shown(tmp_path)["candidates"]] == [p["candidate"] for p in shown(run)["candidates"]]
    assert Found.load(tmp_path).run.settings() == Found.load(run).run.settings()
    said = error(monkeypatch, capsys, "front", tmp_path, "--bound", "worst_device_energy_j<=1J")
    assert "candidates have no worst_device_energy_j, because this search did not keep it; run the search again" in said


def test_a_search_without_candidates_is_reported(tmp_path: Path) -> None:
    """A search that still trains its supernet has no front, and a folder without a search is none."""
    evaluated_run(tmp_path, SPACE, 0, wanted=5)
    with pytest.raises(SearchError, match="no candidate is evaluated yet"):
        Found.load(tmp_path)
    with pytest.raises(SearchError, match="not the folder of a search"):
        Found.load(tmp_path / "nowhere")


def candidate_with(policy: str) -> Candidate:
    architecture = named_architecture("resnext56_4x4d", 4, policy)
    costs = {"payload_bytes": float(build_plan(architecture).payload_bytes())}
    return Candidate(index=0, key="", genotype={}, objectives={}, costs=costs, architecture=architecture)


def test_traits_of_the_papers_policies() -> None:
    """Phrases and numbers of policies whose counts are published: dead transfers are not counted."""
    silent, hand_made = policy_traits(candidate_with("none")), policy_traits(candidate_with("hand-made"))
    assert silent.phrase == "silent, mean of all"
    assert (hand_made.num_transfers, hand_made.points_used, hand_made.num_points) == (31, 9, 18)
    assert hand_made.phrase == "9 of 18 points, fp32, custom, lagged"
    assert (hand_made.mean_fraction, hand_made.mean_wire_bits, hand_made.lag_share) == (1, 32, 1)
    assert share_of_all_to_all(candidate_with("none")) == pytest.approx(0, abs=1e-4)
    assert share_of_all_to_all(candidate_with("all-to-all")) == 1


def test_the_sent_policy_is_the_same_plan(run: Path) -> None:
    """Leaving out what cannot reach the answer changes nothing of what the devices do."""
    for candidate in Found.load(run).candidates[:20]:
        plan = build_plan(candidate.architecture)
        sent = build_plan(candidate.architecture.with_policy(sent_policy(candidate.architecture)))
        assert plan_key(sent) == plan_key(plan)
