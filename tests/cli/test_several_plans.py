"""Several plans from the command line: exported, described, asked for by name, and served."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sepnas import api
from sepnas.errors import SpecError
from sepnas.separable.policy import TransmissionPolicy
from tests.cli.test_train_command import error_of, said
from tests.cli.test_train_command import run as run_command
from tests.helpers_runtime import threads, tiny_architecture, transfer
from tests.train.test_data import make_folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network of two devices, trained for one epoch."""
    folder = tmp_path_factory.mktemp("several")
    data = f"folder:{make_folder(folder / 'images', size=8)}"
    said("train", "resnext11_2x4d", "-n", 2, "--threads", 1, "--data", data, "--out", folder / "run", "--epochs", 1)
    return folder / "run"


def few() -> TransmissionPolicy:
    return tiny_architecture([{"after": 1, "transfers": [transfer(1, 0, "int8")]}], devices=2, depth=11).policy


@pytest.mark.slow
def test_requests_choose_among_exported_plans(run: Path, tmp_path: Path) -> None:
    """Bytes and accuracy of each plan are printed, `describe` lists them, and `infer --plan` asks for one."""
    policy, out = few().save(tmp_path / "few.json"), tmp_path / "deployment"
    output = said("export", run, out, "--engine", "torch", "--plan", f"few={policy}", "--plan", "silent=none")
    for name in ("default", "few", "silent"):
        assert f"plan {name}: " in output
    assert output.count("validation images right") == 3
    described = json.loads(said("describe", out, "--json"))
    assert [each["name"] for each in described["plans"]] == ["default", "few", "silent"]
    assert described["plans"][2]["payload_bytes"] == 0
    for each in described["plans"]:  # a gray image of 8 x 8 bytes for each device, and two logits
        assert each["total_bytes"] == each["payload_bytes"] + each["input_bytes"] + each["output_bytes"]
        assert each["output_bytes"] == 8
        assert each["input_bytes"] == 64 * len(each["devices_used"])
    for option in (["--devices", 3], ["--save", "a.json"]):
        assert run_command("describe", out, *option).exit_code == 2
    assert "default (default)" in said("describe", out).replace("\n", " ") or "default" in said("describe", out)
    image = next((run.parent / "images").glob("test/*/*.png"))
    with threads(out) as hosts:
        listed = hosts.save(tmp_path / "hosts.yaml")
        for plan in ("default", "few", "silent"):
            [found] = json.loads(said("infer", out, image, "--devices", listed, "--plan", plan, "--json"))
            assert len(found["classes"]) == 2
        message = error_of(SpecError, "infer", out, image, "--devices", listed, "--plan", "fast")
        assert "deployment 'run' has no plan 'fast'; its plans are default, few, silent" in message
        bench = said("bench", out, "--devices", listed, "--plan", "silent", "--requests", 2, "--warmup", 0, "--json")
        assert json.loads(bench)["payload_bytes_per_request"] == 0


def test_names_of_plans_are_checked(run: Path, tmp_path: Path) -> None:
    """Two plans without a name, two of one name, bad names and unknown policies write nothing."""
    out = tmp_path / "deployment"
    result = run_command("export", run, out, "--plan", "a=none", "--plan", "a=none")
    assert result.exit_code == 2
    assert "names two plans 'a'" in " ".join(result.output.split())
    assert run_command("export", run, out, "--plan", "x.json", "--plan", "y.json").exit_code == 2
    for plan, says in (("none", "give NAME=none"), ("a=", "give a=POLICY")):
        result = run_command("export", run, out, "--plan", plan)
        assert result.exit_code == 2
        assert says in " ".join(result.output.split())
    assert "a plan's name has 1 to 64" in error_of(SpecError, "export", run, out, "--plan", "../a=none")
    assert "unknown policy 'some'" in error_of(SpecError, "export", run, out, "--plan", "a=some")
    assert not out.exists()


def test_python_exports_plans_of_any_kind(run: Path, tmp_path: Path) -> None:
    """A policy, a policy's name, and the plan file of an earlier deployment."""
    first = api.export(run, tmp_path / "one", engines=["torch"], plans={"few": few(), "all": "all-to-all"})
    assert list(first.plans) == ["default", "few", "all"]
    again = api.export(
        run, tmp_path / "two", engines=["torch"], plans={"few": tmp_path / "one/plans/few.json"}
    )  # fmt: skip
    assert again.plan("few").digest == first.plan("few").digest
    assert again.deployment_id == first.deployment_id
