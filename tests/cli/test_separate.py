"""``sepnas separate``: what it says of a separation, and the commands that take its folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sepnas.errors import SepnasError
from sepnas.partition.graph import load_graph
from sepnas.plan.document import load_plan
from sepnas.separation.document import Separation
from tests.cli.test_plan_command import cli
from tests.importing.test_separate import imported
from tests.separation.networks import small


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return imported(small("squeezed"), tmp_path_factory.mktemp("separate") / "squeezed")


def test_bytes_and_shares_are_told(network: Path, tmp_path: Path) -> None:
    """The bytes are those of the plan, beside the exact split's and those that are always needed."""
    out = tmp_path / "separated"
    result = cli("separate", network, "--devices", "5", "--bytes", "40%", "--wire", "int8", "--out", out)
    said = result.stdout
    plan = load_plan(out / "plan.json")
    assert f"{plan.payload_bytes():,} bytes between devices in {len(plan.transfers())} messages" in said
    assert "of the importance of weights lies within groups, 20.0% would by chance" in said
    assert "too few channels to be grouped, so that each device computes them: conv2, conv9" in result.stderr
    assert f"next: sepnas export {out} {tmp_path / 'deployment'} --plan {out / 'plan.json'}" in said
    told = json.loads(cli("separate", network, "--devices", "5", "--bytes", "0.4", "--wire", "int8", "--out",
                          tmp_path / "other", "--json").output)  # fmt: skip
    assert told["payload_bytes"] == plan.payload_bytes() <= 0.4 * told["exact_bytes"]
    assert told["messages"] == len(Separation.load(out / "separation.json").crossings)
    assert "--epochs" not in said


@pytest.mark.slow
def test_other_commands_take_the_folder(network: Path, tmp_path: Path) -> None:
    """`simulate` prices its plan, `partition` compares with it, as for any imported network."""
    out, cluster = tmp_path / "separated", tmp_path / "cluster.yaml"
    cli("separate", network, "--devices", "2", "--bytes", "10%", "--out", out)
    plan = load_plan(out / "plan.json")
    assert f"{plan.payload_bytes():,} bytes between devices" in cli("simulate", out / "plan.json").output
    cli("cluster", "--device", "raspberry-pi-4b:2", "--out", cluster)
    said = cli("partition", out, "--cluster", cluster, "--plan", out / "plan.json", "--out", tmp_path / "best.json")
    assert "plan.json" in said.output
    assert load_graph(out).name == load_graph(network).name


def test_what_mixes_otherwise_is_named(tmp_path: Path) -> None:
    """Operators that the read-out device computes whole, and that such a network gains little."""
    folder = imported(small("attentive"), tmp_path / "attentive")
    result = cli("separate", folder, "--devices", "2", "--out", tmp_path / "separated")
    assert "computed whole by device 0, because they mix channels otherwise: softmax1" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--bytes", "120%"], "is more than everything"),
        (["--bytes", "few"], "cannot be read; give a share such as 95% or 0.95"),
        (["--devices", "0"], "greater than or equal to 1"),
        (["--recipe", "separate"], "belongs to fine-tuning: give --epochs"),
        (["--no-flip"], "belongs to fine-tuning: give --epochs"),
        (["--resume"], "belongs to fine-tuning: give --epochs"),
        (["--threads", "2"], "belongs to fine-tuning: give --epochs"),
        (["--epochs", "1"], "fine-tuning needs images: give --data"),
        (["--epochs", "1", "--data", "digits", "--force"], "replaces no run, which --epochs makes"),
        (["--epochs", "-1"], "greater than or equal to 0"),
    ],
)
def test_a_wrong_option_is_refused(network: Path, tmp_path: Path, arguments: list[str], message: str) -> None:
    """Before anything is computed."""
    result = cli("separate", network, "--devices", "2", *arguments, "--out", tmp_path / "x")
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.replace("│", " ").split())


def test_neither_devices_nor_a_cluster(network: Path, tmp_path: Path) -> None:
    """One of both must be given."""
    with pytest.raises(SepnasError, match="give the number of"):
        cli("separate", network, "--out", tmp_path / "x")
