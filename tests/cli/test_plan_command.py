"""``sepnas plan`` and the verbs that take its file: what they say of a plan is what they say of its architecture."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from sepnas.cli.main import app
from sepnas.errors import SpecError
from sepnas.plan.document import load_plan
from sepnas.separable import read
from sepnas.separable.build import build_plan
from sepnas.separable.read import ArchitectureOptions, is_plan_file, read_architecture, read_plan
from sepnas.spec.cluster import uniform_cluster
from tests.helpers_runtime import tiny_architecture, transfer

NAMED = ("resnext20_4x4d", "--devices", "4", "--policy", "hand-made", "--classes", "10")


def cli(*arguments: object) -> Result:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "160"})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture(scope="module")
def plan_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("plan") / "plan.json"
    said = cli("plan", *NAMED, "--out", path).output
    assert "4 devices" in said
    return path


def test_the_file_is_the_plan_of_the_network(plan_file: Path) -> None:
    """A plan file holds the very plan that the named network has."""
    assert load_plan(plan_file) == build_plan(
        read_architecture(NAMED[0], ArchitectureOptions(devices=4, policy="hand-made", classes=10))
    )


def test_simulate_takes_a_plan(plan_file: Path, tmp_path: Path) -> None:
    """A plan costs what its network costs, also on a cluster file, with a percentile, a stream and a time line."""
    cluster = uniform_cluster(4).save(tmp_path / "cluster.yaml")
    more = ("--json", "--cluster", cluster, "--in-flight", 3, "--percentile", 90)
    assert json.loads(cli("simulate", plan_file, *more).output) == json.loads(cli("simulate", *NAMED, *more).output)
    assert f"plan {plan_file}" in cli("simulate", plan_file).output.replace("\n", "")
    compact = tmp_path / "compact.json"
    compact.write_text(json.dumps(json.loads(plan_file.read_text())))  # on one line, as other programs write it
    assert cli("simulate", compact, *more).output == cli("simulate", plan_file, *more).output


def test_describe_takes_a_plan(plan_file: Path) -> None:
    """MACs, bytes, transfers, segments and memory of a plan are those of its network."""
    of_plan, of_network = (json.loads(cli("describe", *each, "--json").output) for each in ([plan_file], NAMED))
    shared = set(of_plan) - {"name", "payload_bytes_before_liveness"}
    assert {"macs_computed", "macs_per_device", "payload_bytes", "peak_memory_bytes"} <= shared
    assert {key: of_plan[key] for key in shared} == {key: of_network[key] for key in shared}
    assert of_plan["name"] == str(plan_file)


def test_a_late_format_is_found_without_parsing(
    plan_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plan whose `format` stands at the end is recognised by its text, so that it is parsed once, by its reader."""
    data = json.loads(plan_file.read_text())
    late = tmp_path / "late.json"
    late.write_text(json.dumps({key: data[key] for key in [*data.keys() - {"format"}, "format"]}))
    monkeypatch.setattr(read, "read_data", lambda *_: pytest.fail("parsed to find its format"))
    assert is_plan_file(late)
    assert read_plan(late) == load_plan(plan_file)


@pytest.mark.parametrize("option", [("--devices", "2"), ("--policy", "none"), ("--wire", "fp16")])
def test_options_that_would_change_a_plan_are_refused(plan_file: Path, option: tuple[str, str]) -> None:
    """A plan is what it is: an option that would make another one is named."""
    with pytest.raises(SpecError, match=rf"which already determines what {option[0]} would set; leave {option[0]} out"):
        cli("simulate", plan_file, *option)


def test_report_takes_a_plan(tmp_path: Path) -> None:
    """The page of a plan predicts its request without knowing the architecture."""
    architecture = tiny_architecture([{"after": 0, "transfers": [transfer(1, 0)]}], devices=2)
    path, page = tmp_path / "plan.json", tmp_path / "report.html"
    cli("plan", architecture.save(tmp_path / "architecture.json"), "--out", path)
    assert cli("report", "--architecture", path, "--out", page).exit_code == 0
    assert f"{build_plan(architecture).payload_bytes():,}" in page.read_text()
