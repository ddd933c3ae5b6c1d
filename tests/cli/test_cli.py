"""The command line: what it prints, and how mistakes reach the person at the terminal."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner

import sepnas
from sepnas.cli.main import VERBS, app, main
from sepnas.cli.schema import DOCUMENTS
from sepnas.search.run import SUPERNET_EPOCHS
from sepnas.separable.architecture import Architecture, named_architecture
from sepnas.spec.cluster import Cluster, uniform_cluster
from tests.limits import PROCESS_S


def _json(*arguments: str) -> dict:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == 0, result.output
    return json.loads(result.output)


def _error(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, *arguments: str) -> str:
    """What a failing command says on stderr; it must end with code 1."""
    monkeypatch.setattr(sys, "argv", ["sepnas", *arguments])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 1
    return " ".join(capsys.readouterr().err.split())


def test_describe_hand_made() -> None:
    """The published counts of the hand-made policy, as JSON."""
    found = _json("describe", "resnext56_4x16d", "--devices", "4", "--policy", "hand-made", "--json")
    assert found["parameters"] == 2_379_316
    assert found["payload_bytes"] == 5_177_344
    assert found["payload_bytes_before_liveness"] == 5_505_024
    assert found["num_transfers"] == 31
    assert found["segments"] == 63
    assert found["devices_used"] == [0, 1, 2, 3]
    assert len(found["macs_per_device"]) == 4
    assert found["macs_computed"] == sum(found["macs_per_device"]) < found["macs"]  # some work cannot reach the answer


def test_describe_macs() -> None:
    """The published MACs, separable and not, and that the stem counts once in the whole."""
    assert round(_json("describe", "resnext56_64x4d", "-n", "4", "--json")["macs"] / 1e6, 1) == 816.3
    plain = _json("describe", "resnext56_64x4d", "--json")
    assert (round(plain["macs"] / 1e6, 1), plain["payload_bytes"], plain["devices"]) == (800.5, 0, 1)


def test_describe_reads_files(tmp_path: Path) -> None:
    """An architecture file and a policy file say the same as the names that they were made from."""
    architecture = named_architecture("resnext20_4x4d", 4, "hand-made", num_classes=10)
    path, policy = architecture.save(tmp_path / "a.yaml"), architecture.policy.save(tmp_path / "p.yaml")
    by_file = _json("describe", str(path), "--json")
    by_name = _json("describe", "resnext20_4x4d", "-n", "4", "--classes", "10", "--policy", str(policy), "--json")
    assert by_file == by_name


def test_describe_saves(tmp_path: Path) -> None:
    """`--save` writes the architecture that was described."""
    path = tmp_path / "a.json"
    _json("describe", "resnext11_2x4d", "-n", "2", "--policy", "none", "--json", "--save", str(path))
    assert Architecture.load(path) == named_architecture("resnext11_2x4d", 2, "none")


def test_simulate_json() -> None:
    """A simulation prints its time line and links."""
    found = _json("simulate", "resnext11_2x4d", "-n", "2", "--json")
    assert found["payload_bytes"] == sum(link["payload_bytes"] for link in found["links"]) > 0
    assert found["timeline"]


def test_energy_without_power_figures_is_null(tmp_path: Path) -> None:
    """The energy of a device is null where its cluster gives it no power, and a number where it does."""
    powered = uniform_cluster(2).to_data()
    powered["devices"][1] |= {"power": {"idle_w": 2.0, "compute_w": 5.0}}
    path = Cluster.from_data(powered).save(tmp_path / "cluster.yaml")
    [unknown, known] = _json("simulate", "resnext11_2x4d", "-n", "2", "--cluster", str(path), "--json")["energy_j"]
    assert unknown is None
    assert known > 0


def test_simulate_critical_path_percentile_and_stream(tmp_path: Path) -> None:
    """A simulation gives its critical path, and on request a percentile and the throughput."""
    cluster = uniform_cluster(2)
    jittery = tuple(device.model_copy(update={"jitter": 0.2}) for device in cluster.devices)
    path = cluster.model_copy(update={"devices": jittery}).save(tmp_path / "cluster.yaml")
    asked = ("simulate", "resnext11_2x4d", "-n", "2", "--cluster", str(path), "--percentile", "95", "--in-flight", "3")
    found = _json(*asked, "--json")
    assert (
        found["critical_path_s"]
        <= found["latency_s"]
        == pytest.approx(found["critical_path_s"] * found["latency_over_critical_path"])
    )
    assert found["percentile"]["percent"] == 95
    assert found["percentile"]["latency_s"] > found["latency_s"]
    assert found["stream"]["in_flight"] == 3
    assert found["stream"]["throughput_per_s"] >= 1 / found["latency_s"]
    assert not {"percentile", "stream"} & set(_json("simulate", "resnext11_2x4d", "-n", "2", "--json"))
    table = CliRunner().invoke(app, list(asked), env={"COLUMNS": "120"}).output
    for words in ("critical path", "95% of answers within", "answers a second, 3 in flight"):
        assert words in table


@pytest.mark.parametrize("name", sorted(DOCUMENTS))
def test_schema_is_json_schema(name: str) -> None:
    """Every document has a JSON Schema that refuses unknown keys."""
    found = _json("schema", name)
    assert found["type"] == "object"
    assert found["additionalProperties"] is False
    assert "version" in found["properties"]


def test_schema_of_a_result_file() -> None:
    """A result file's schema has exactly the keys that are written, `schema` among them, and refuses others."""
    found = _json("schema", "result")
    assert next(iter(found["properties"])) == "schema"
    assert {"schema", "command", "measures"} <= set(found["properties"])
    assert {"schema", "command", "started", "duration_s", "machine"} == set(found["required"])
    assert found["additionalProperties"] is False


@pytest.mark.parametrize("verb", sorted(VERBS))
def test_help_teaches(verb: str) -> None:
    """Every verb explains itself and each of its options."""
    result = CliRunner().invoke(app, [verb, "--help"], env={"COLUMNS": "200"})
    assert result.exit_code == 0
    assert len(result.output.splitlines()) > 8


def _with_subcommands(path: tuple[str, ...], command: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    """A command by the words that lead to it, and all below it."""
    yield path, command
    for name, inner in getattr(command, "commands", {}).items():
        yield from _with_subcommands((*path, name), inner)


COMMANDS = dict(_with_subcommands((), get_command(app)))


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_examples_in_help_are_understood(path: tuple[str, ...]) -> None:
    """Every help has an example, of the command that it explains, with options and values that the command takes."""
    examples = re.findall(r"Examples?[^`]*`sepnas ([^`]*)`", COMMANDS[path].help or "")
    assert examples
    for example in examples:
        words = shlex.split(example.partition(" > ")[0])
        assert tuple(words[: len(path)]) == path
        command, taken = COMMANDS[()], 0
        while hasattr(command, "commands") and words[taken : taken + 1] and words[taken] in command.commands:
            command, taken = command.commands[words[taken]], taken + 1
        command.make_context(command.name, words[taken:])


def test_version() -> None:
    """`sepnas --version` prints the version and nothing else."""
    result = CliRunner().invoke(app, ["--version"])
    assert (result.exit_code, result.output) == (0, f"sepnas {sepnas.__version__}\n")


def test_help_knows_the_supernets_epochs() -> None:
    """The default that the help of `search` names is the one that the search has."""
    help_text = CliRunner().invoke(app, ["search", "--help"], env={"COLUMNS": "200"}).output
    assert f"Epochs of the supernet's training [{SUPERNET_EPOCHS}, or the recipe's]" in help_text


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["describe", "resnet50"], "unknown architecture 'resnet50': expected resnext<depth>_<cardinality>x<width>d"),
        (["describe", "resnext56_4x16d", "-n", "3"], "`cardinality` (=4) must be divisible by `num_devices` (=3)"),
        (["describe", "resnext20_4x4d", "-n", "4", "--policy", "star"], "unknown policy 'star'; allowed: all-to-all"),
        (["describe", "no.yaml"], "no.yaml: no such file"),
        (["schema", "job"], "unknown document 'job'; allowed: architecture, classifier-evaluations"),
        (["export", "nowhere", "out"], "nowhere: no such folder; expected a training run"),
        (["report"], "nothing to report: name at least one of --search"),
        (["pick", "nowhere"], "nowhere"),
        (["train", "resnext11_1x4d", "--data", "digit", "--out", "x"], "unknown data set 'digit'; allowed: digits"),
        (["worker", "nowhere", "--listen", "127.0.0.1:0"], "nowhere"),
    ],
)
def test_mistakes_end_with_a_message(arguments: list[str], said: str, monkeypatch, capsys, tmp_path: Path) -> None:
    """A mistake ends with code 1 and one message that says what is wrong and what is allowed; nothing is written."""
    monkeypatch.chdir(tmp_path)
    message = _error(monkeypatch, capsys, *arguments)
    assert message.startswith("error:")
    assert said in message
    assert "Traceback" not in message
    assert list(tmp_path.iterdir()) == []


def test_contradiction_with_a_file(monkeypatch, capsys, tmp_path: Path) -> None:
    """An option that contradicts the file is refused, not obeyed or ignored."""
    path = named_architecture("resnext11_2x4d", 2).save(tmp_path / "a.json")
    assert "the file has 2, but --devices is 3" in _error(monkeypatch, capsys, "describe", str(path), "-n", "3")


def test_cluster_without_link(monkeypatch, capsys, tmp_path: Path) -> None:
    """A policy that sends where the cluster has no link is refused with both devices."""
    path = uniform_cluster(2).model_copy(update={"links": ()}).save(tmp_path / "c.yaml")
    said = _error(monkeypatch, capsys, "simulate", "resnext11_2x4d", "-n", "2", "--cluster", str(path))
    assert "has no link between" in said
    assert "device0" in said


def test_as_a_program() -> None:
    """`python -m sepnas` works as a process of its own, and a wrong option is answered with usage."""
    run = subprocess.run(
        [sys.executable, "-m", "sepnas", "describe", "--devices", "x"],
        capture_output=True,
        text=True,
        timeout=PROCESS_S,
    )
    assert run.returncode == 2
    assert "Usage" in run.stderr


def test_light_commands_import_no_torch() -> None:
    """Describing needs neither torch nor nni: a small machine can do it."""
    code = (
        "import sys; from sepnas.cli.main import app; app(['describe', 'resnext20_4x4d', '--json'], "
        "standalone_mode=False); sys.exit(int('torch' in sys.modules or 'nni' in sys.modules))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=PROCESS_S, env=os.environ
    )
    assert run.returncode == 0, run.stderr


_BASE_INSTALL = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "torchvision", "nni", "optuna", "moocore", "matplotlib", "jinja2",
                                      "markupsafe", "cryptography", "sklearn", "tensorboard", "fastapi", "uvicorn"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing())
from sepnas.cli.main import main
main()
"""


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["describe", "resnext20_4x4d", "-n", "4", "--json"], 0, '"parameters"'),
        pytest.param(["simulate", "resnext20_4x4d", "-n", "4"], 0, "bytes between devices", marks=pytest.mark.slow),
        pytest.param(
            ["train", "resnext11_1x4d", "--out", "x"], 1, "pip install 'sepnas[train]'", marks=pytest.mark.slow
        ),
        (["search", "search_spaces/demo.yaml", "--out", "x"], 1, "pip install 'sepnas[search]'"),
        pytest.param(["report", "--architecture", "x.json"], 1, "pip install 'sepnas[report]'", marks=pytest.mark.slow),
        pytest.param(["serve", "x"], 1, "pip install 'sepnas[serve]'", marks=pytest.mark.slow),
    ],
)
def test_base_install(arguments: list[str], code: int, said: str) -> None:
    """Without the extras the light commands work, and the others say what to install."""
    run = subprocess.run(
        [sys.executable, "-c", _BASE_INSTALL, *arguments], capture_output=True, text=True, timeout=PROCESS_S
    )
    assert run.returncode == code, run.stderr
    assert said in run.stdout + run.stderr
    assert "Traceback" not in run.stderr


@pytest.mark.parametrize("verb", ["train", "search"])
def test_advice_names_an_option_that_the_verb_has(verb: str) -> None:
    """What a loss that is no number advises can be followed by who trains a network and by who searches."""
    names = {option for parameter in COMMANDS[(verb,)].params for option in parameter.opts}
    assert "--learning-rate" in names
