"""Result files: written by the command alone, read strictly, refused when nobody can run them again."""

from __future__ import annotations

import io
import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from sepnas.cli.main import app
from sepnas.cli.results import results_table
from sepnas.errors import SpecError, VersionError
from sepnas.results.provenance import command_line, git_commit, machine_facts
from sepnas.results.recorder import Recorder
from sepnas.results.table import check_command, collect_results
from sepnas.spec.result import Measure, ResultFile, goal_met
from tests.limits import PROCESS_S

VERBS = ("search", "train")


def recorded(path: Path, command: str = "sepnas search space.yaml") -> ResultFile:
    with Recorder(path, command, seeds=(0, 1), root=path.parent) as record:
        record.measure("kendall_tau", 0.64, low=0.6, high=0.7, n=3, goal=">= 0.7")
        record.measure("payload_bytes", 5505024, unit="B", goal="== 5505024")
        record.measure("wall_s", 12.5, unit="s")
        record.table("seeds", [{"seed": 0, "tau": 0.6}, {"seed": 1, "tau": 0.7}])
    return ResultFile.load(path)


def repository(root: Path, command: str) -> Path:
    """A repository with one experiment and one that has no result yet."""
    (root / "experiments" / "later").mkdir(parents=True)
    (root / "Makefile").write_text("ROOT := .\nall demo: setup\n\t./run: it\nsetup:\n.PHONY: all\n")
    (root / "experiments" / "probe.py").write_text("")
    path = root / "experiments" / "demo" / "result.json"
    recorded(path, command)
    return path


@pytest.mark.parametrize(
    ("goal", "value", "met"),
    [
        (">= 0.7", 0.7, True),
        (">= 0.7", 0.69, False),
        ("<= 180", 181.0, False),
        ("== 0", 0.0, True),
        ("< 1e-5", 1e-6, True),
        (">2", 2.0, False),
    ],
)
def test_a_goal_is_a_comparison_with_a_number(goal: str, value: float, met: bool) -> None:
    """A goal is met exactly when the comparison that it names holds."""
    assert goal_met(goal, value) is met
    assert Measure.of("x", value, goal=goal).met is met


@pytest.mark.parametrize("goal", ["0.7", "=> 0.7", ">= good", "", ">= nan", "== 0 or 1"])
def test_another_goal_is_refused(goal: str) -> None:
    """What is not a comparison with a number is no goal, and the message shows one."""
    with pytest.raises(SpecError, match=r">= 0\.7"):
        goal_met(goal, 1.0)


def test_a_result_round_trips(tmp_path: Path) -> None:
    """What the recorder wrote is read back equal, with the keys of the design in their order."""
    result = recorded(tmp_path / "result.json")
    data = json.loads((tmp_path / "result.json").read_text())
    keys = ["schema", "command", "commit", "started", "duration_s", "machine", "seeds", "measures", "tables"]
    assert list(data) == keys
    assert list(data["machine"]) == ["cpu", "cores", "gpu", "torch", "python"]
    assert list(data["measures"][0]) == ["name", "value", "unit", "low", "high", "n", "goal", "met"]
    assert ResultFile.from_data(result.to_data()) == result
    assert [measure.met for measure in result.measures] == [False, True, None]
    assert '"value": 5505024,' in (tmp_path / "result.json").read_text()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"speed": 1}, "field `speed`: unknown key; allowed: command, commit"),
        ({"schema": "1"}, "field `schema`: expected a whole number"),
        ({"schema": None}, "field `schema`: expected a whole number"),
        ({"duration_s": "3"}, "field `duration_s`"),
        ({"seeds": [0.5]}, r"field `seeds\.0`"),
        ({"started": "yesterday"}, "field `started`"),
        ({"measures": [{"name": "a", "value": 1.0, "colour": "red"}]}, r"field `measures\.0\.colour`: unknown key"),
        ({"measures": [{"name": "a", "value": float("nan")}]}, r"field `measures\.0\.value`"),
        ({"measures": [{"name": "a", "value": 1.0, "goal": "> 2", "met": True}]}, "makes it false"),
        ({"measures": [{"name": "a", "value": 1.0, "low": 2.0, "high": 1.0}]}, "low <= high"),
        ({"measures": [{"name": "a", "value": 1.0}, {"name": "a", "value": 2.0}]}, "repeated: a"),
    ],
)
def test_a_wrong_result_is_refused_by_place(tmp_path: Path, change: dict[str, object], says: str) -> None:
    """An unknown key, a wrong type and a goal that is not as met as it says are refused with their place."""
    data = recorded(tmp_path / "result.json").to_data() | change
    with pytest.raises(SpecError, match=says) as caught:
        ResultFile.from_data(data, "somewhere.json")
    assert str(caught.value).startswith("somewhere.json: ")


def test_a_newer_result_is_refused(tmp_path: Path) -> None:
    """A result file of a later sepnas is refused as such."""
    data = recorded(tmp_path / "result.json").to_data() | {"schema": 2}
    with pytest.raises(VersionError, match="update sepnas"):
        ResultFile.from_data(data)


def test_a_failed_run_leaves_the_old_result(tmp_path: Path) -> None:
    """A block that fails writes nothing and leaves nothing half-written."""
    path = tmp_path / "result.json"
    before = recorded(path)
    with pytest.raises(ZeroDivisionError), Recorder(path, root=tmp_path) as record:
        record.measure("wall_s", 1 / 0)
    assert ResultFile.load(path) == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_wrong_measure_is_refused_at_once(tmp_path: Path) -> None:
    """A measure or table that could not be written is refused where it is noted, not at the end."""
    with Recorder(tmp_path / "result.json", root=tmp_path) as record:
        record.measure("a", 1)
        with pytest.raises(SpecError, match="'a' is already noted"):
            record.measure("a", 2)
        with pytest.raises(SpecError, match="measure 'b'"):
            record.measure("b", float("inf"))
        with pytest.raises(SpecError, match="table 'c'"):
            record.table("c", [{"path": Path("x")}])
        with pytest.raises(SpecError, match="table 'd': a number is not finite"):
            record.table("d", [{"x": float("nan")}])


@pytest.mark.parametrize(
    "command",
    [
        "sepnas search space.yaml --out 'my runs'",
        "make demo",
        "make -s all ROOT=..",
        "python experiments/probe.py --seeds 0 1",
        "OMP_NUM_THREADS=1 sepnas train a.json && make setup",
    ],
)
def test_commands_of_the_repository_pass(tmp_path: Path, command: str) -> None:
    """A verb of sepnas, a target of the Makefile and a script of the tree can be run again."""
    repository(tmp_path, command)
    experiments = collect_results(tmp_path, VERBS)
    assert [(x.slug, x.result is None) for x in experiments] == [("demo", False), ("later", True)]


def test_an_experiment_run_in_two_ways_has_two_results(tmp_path: Path) -> None:
    """Each `result-WAY.json` stands under the folder's name and the way."""
    repository(tmp_path, "make demo")
    done = tmp_path / "experiments" / "demo" / "result.json"
    for way in ("cpu", "cuda"):
        (tmp_path / "experiments" / "later" / f"result-{way}.json").write_bytes(done.read_bytes())
    found = [(x.slug, x.result is None) for x in collect_results(tmp_path, VERBS)]
    assert found == [("demo", False), ("later, cpu", False), ("later, cuda", False)]


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("sepnas dance", "no command 'dance'.*search, train"),
        ("sepnas", "expected `sepnas VERB"),
        ("make later", "no target 'later'.*all, demo, setup"),
        ("make ROOT", "no target 'ROOT'"),
        ("python gone.py", "'gone.py' is not a file"),
        ("./run.sh", "expected `sepnas VERB"),
        ("sepnas train a && make later", "no target 'later'"),
        ("sepnas 'train", "not a command line"),
    ],
)
def test_a_command_that_is_gone_is_refused(tmp_path: Path, command: str, says: str) -> None:
    """A result that nobody can run again is refused with its file and what would have been right."""
    path = repository(tmp_path, command)
    with pytest.raises(SpecError, match=says) as caught:
        collect_results(tmp_path, VERBS)
    assert str(caught.value).startswith(f"{path}: field `command`: ")


def test_the_table_has_every_measure_and_marks_the_missed(tmp_path: Path) -> None:
    """Every measure of every experiment is a row, a missed goal is marked, a missing result is named."""
    repository(tmp_path, "make demo")
    text = CliRunner().invoke(app, ["results", str(tmp_path)]).output
    assert all(name in text for name in ("kendall_tau", "payload_bytes", "wall_s", "5,505,024 B", "0.6 to 0.7"))
    assert text.count("MISSED") == 1
    assert "3 measures, 1 missed goal" in text
    assert "without a result: later" in text


@pytest.mark.parametrize(
    ("width", "missing"), [(60, ["spread", "n", "goal"]), (80, ["spread", "n"]), (92, ["n"]), (100, [])]
)
def test_the_table_fits_the_terminal(tmp_path: Path, width: int, missing: list[str]) -> None:
    """In a narrow terminal no line is longer, nothing is cut, and what has no room is named."""
    with Recorder(tmp_path / "experiments" / "demo" / "result.json", "make demo", root=tmp_path) as record:
        record.measure("a_name_that_is_longer_than_anybody_would_like_to_read", 1743440000, "B", goal="== 1743440000")
        record.measure("latency_s", 0.010438123, "s", 0.0082462, 0.0144244, n=10000)
    (tmp_path / "Makefile").write_text("demo:\n")
    console = Console(file=io.StringIO(), width=width)
    console.print(results_table(collect_results(tmp_path, VERBS)).fitted(width))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    assert all(words in text for words in ("1,743,440,000 B", "0.010438 s", "yes"))
    assert ("== 1743440000" in text) == ("goal" not in missing)
    assert ("0.00825 to 0.0144" in text) == ("spread" not in missing)
    assert (f"no room for: {', '.join(missing)}" in text) == bool(missing)


def test_json_is_all_that_the_files_hold(tmp_path: Path) -> None:
    """`results --json` gives each result file as it is, and null where there is none."""
    path = repository(tmp_path, "make demo")
    data = json.loads(CliRunner().invoke(app, ["results", str(tmp_path), "--json"]).output)
    assert data == [
        {"experiment": "demo", "result": json.loads(path.read_text())},
        {"experiment": "later", "result": None},
    ]


def test_no_experiments_give_an_empty_table(tmp_path: Path) -> None:
    """A repository without experiments has no results, and that is no error."""
    assert collect_results(tmp_path, VERBS) == []
    assert results_table([]).rows == []


@pytest.mark.parametrize(
    ("argv", "command"),
    [
        (["/somewhere/bin/sepnas", "train", "a b"], "sepnas train 'a b'"),
        (["/somewhere/sepnas/__main__.py", "demo"], "sepnas demo"),
        (["experiments/probe.py", "--n", "3"], "python experiments/probe.py --n 3"),
    ],
)
def test_the_command_line_is_as_typed(argv: list[str], command: str) -> None:
    """The command of a result holds no path of the machine that ran it."""
    assert command_line(argv) == command


def test_paths_inside_the_working_folder_are_recorded_relative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An option's value, a data set's folder and the folder itself lose its path; paths elsewhere are as typed."""
    here = tmp_path / "a.b"
    here.mkdir()
    monkeypatch.chdir(here)
    inside = [f"{here}/runs/x", f"--out={here}/runs", "--data", f"folder:{here}/data", str(here), f"{here}/"]
    outside = [f"{here}2/runs", f"{tmp_path}/axb/runs", "https://a.b/c", "--n=3", ""]
    found = shlex.split(command_line(["/somewhere/bin/sepnas", *inside, *outside]))
    assert found == ["sepnas", "runs/x", "--out=runs", "--data", "folder:data", ".", ".", *outside]


def git(folder: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "init.defaultBranch=main"]
    subprocess.run(["git", "-C", str(folder), *identity, *arguments], check=True, capture_output=True)


def test_the_commit_says_when_the_tree_is_dirty(tmp_path: Path) -> None:
    """Outside of git and before the first commit there is none; results do not make a tree dirty, code does."""
    assert git_commit(tmp_path) is None
    git(tmp_path, "init")
    assert git_commit(tmp_path) is None
    git(tmp_path, "commit", "--allow-empty", "-m", "first")
    commit = git_commit(tmp_path)
    assert commit is not None
    assert len(commit) == 40
    recorded(tmp_path / "experiments" / "demo" / "result.json")
    assert git_commit(tmp_path) == commit
    (tmp_path / "code.py").write_text("")
    assert git_commit(tmp_path) == f"{commit}+changes"


def test_machine_facts_import_no_torch() -> None:
    """Machine facts are there on a device without torch: nothing in result files and tables imports it."""
    facts = machine_facts()
    assert facts.cores > 0
    assert facts.cpu
    code = (
        "import sys; import sepnas.results.table, sepnas.results.recorder, sepnas.report.page; "
        "from sepnas.results.provenance import machine_facts; machine_facts(); "
        "sys.exit(any(name in sys.modules for name in ('torch', 'nni')))"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=PROCESS_S).returncode == 0


def test_check_command_needs_no_makefile(tmp_path: Path) -> None:
    """Without a Makefile no target stands in it."""
    with pytest.raises(SpecError, match="it has none"):
        check_command("make demo", tmp_path, VERBS)
