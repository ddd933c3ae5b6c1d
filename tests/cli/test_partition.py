"""``sepnas partition``, and ``sepnas export`` of its plans: what they say of a split, and what they refuse."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import save_file

from sepnas import api
from sepnas.errors import PlanError, SepnasError, SpecError, StorageError
from sepnas.nets.partitioned import load_partitioned
from sepnas.plan.document import load_plan
from sepnas.runtime.client.session import Session
from sepnas.spec.cluster import uniform_cluster
from tests.cli.test_plan_command import cli
from tests.helpers_runtime import threads, worker_processes
from tests.partition.test_schemes import residual_network
from tests.runtime.test_partitioned import check_answer


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an imported network."""
    made, folder = residual_network(), tmp_path_factory.mktemp("imported") / "residual"
    folder.mkdir()
    made.graph().save(folder / "graph.json")
    save_file(made.weights, folder / "weights.safetensors")
    return folder


def test_a_split_is_counted_and_priced(network: Path, tmp_path: Path) -> None:
    """MACs and bytes are those of the plan; the latency is that of `simulate`, beside one device alone."""
    out, cluster = tmp_path / "plan.json", uniform_cluster(3).save(tmp_path / "cluster.yaml")
    said = cli("partition", network, "--scheme", "rows", "--cluster", cluster, "--out", out).output
    plan = load_plan(out)
    assert plan == api.partition(network, "rows", 3)
    assert f"{plan.payload_bytes():,} bytes between devices" in said
    assert "computed whole by one device: linear" in said
    assert "alone answers sooner" in said
    assert "an answer; device 0 alone" in said
    assert f"{plan.payload_bytes():,}" in cli("simulate", out, "--cluster", cluster).output
    told = json.loads(
        cli("partition", network, "--scheme", "rows", "--cluster", cluster, "--json", "--force", "--out", out).output
    )
    assert (told["scheme"], told["payload_bytes"]) == ("rows", plan.payload_bytes())
    assert told["latency_s"] == api.simulate(plan, cluster).latency_s > told["alone"]["latency_s"]


def test_threads_and_the_next_command_are_told(network: Path, tmp_path: Path) -> None:
    """A prediction for several threads names the workers' option, and a small cluster is no larger one."""
    cluster = tmp_path / "cluster.yaml"
    assert (
        f"sepnas partition NETWORK --cluster {cluster}"
        in cli("cluster", "--device", "raspberry-pi-4b:2", "--out", cluster).output
    )
    out = tmp_path / "plan.json"
    said = cli("partition", network, "--scheme", "rows", "--cluster", cluster, "--out", out).output
    assert "needs workers with --threads 4" in said
    assert f"next: sepnas export {network} {network.parent / 'deployment'} --plan {out}" in said
    refused = cli("partition", network, "--scheme", "rows", "--cluster", cluster, "--devices", 3)
    assert "cluster presets has 2" in " ".join(refused.output.split())


def test_shares_are_uneven_if_asked(network: Path, tmp_path: Path) -> None:
    """A device with twice the share computes about twice as much."""
    out = tmp_path / "plan.json"
    cli("partition", network, "--scheme", "output-channels", "--shares", "2,1,1", "--out", out)
    macs = [sum(segment.flops for segment in segments.values()) for segments in load_plan(out).segments]
    assert macs[0] == pytest.approx(2 * macs[1], rel=0.05)


def test_a_plan_is_exported_and_run(network: Path, tmp_path: Path) -> None:
    """Two plans of one imported network become one deployment, and workers give the network's answers by the first."""
    for scheme in ("pipeline", "single-cut"):
        cli("partition", network, "--scheme", scheme, "-n", 2, "--out", tmp_path / f"{scheme}.json")
    given = ("--plan", tmp_path / "pipeline.json", "--plan", f"once={tmp_path / 'single-cut.json'}")
    said = cli("export", network, tmp_path / "d", "--engine", "torch", *given)
    assert said.exit_code == 0, said.output
    whole, batch = load_partitioned(network), np.random.default_rng(0).standard_normal((2, 3, 21, 21), np.float32)
    with threads(tmp_path / "d") as hosts, Session(tmp_path / "d", hosts) as session:
        assert session.plans == ("default", "once")
        check_answer(session, load_plan(tmp_path / "pipeline.json"), whole, batch)


def test_the_best_assignment_is_found(network: Path, tmp_path: Path) -> None:
    """Without a scheme, alternatives are listed with no split among them; the best one is written, and says why."""
    out, cluster = tmp_path / "plan.json", uniform_cluster(2).save(tmp_path / "cluster.yaml")
    said = cli("partition", network, "--cluster", cluster, "--out", out)
    assert said.exit_code == 0, said.output
    assert "device 0 alone, on 1 thread, answers sooner than any split" in said.output
    assert "partition granularity: the whole network" in said.output
    assert all(name in said.output for name in ("no split", "rows", "pipeline", "latency", "throughput", "memory"))
    plan = load_plan(out)
    told = json.loads(cli("partition", network, "--cluster", cluster, "--json", "--force", "--out", out).output)
    chosen = told["alternatives"][told["chosen"]]
    assert (chosen["scheme"], len(told["dimensions"])) == ("no split", 5)
    assert chosen["latency_s"] == api.simulate(plan, cluster).latency_s
    assert load_plan(out) == plan


def test_a_plan_is_replaced_only_if_asked(network: Path, tmp_path: Path) -> None:
    """`partition` and `plan` leave an existing file as it is before they compute anything; --force replaces it."""
    out = tmp_path / "plan.json"
    out.write_text("mine")
    for words in (("partition", network, "--scheme", "rows", "-n", 2), ("plan", "resnext20_4x16d", "--devices", 2)):
        with pytest.raises(
            StorageError, match=r"plan\.json: exists already, perhaps with another network's plan.*--force"
        ):
            cli(*words, "--out", out)
        assert out.read_text() == "mine"
    cli("partition", network, "--scheme", "rows", "-n", 2, "--force", "--out", out)
    assert load_plan(out) == api.partition(network, "rows", 2)


@pytest.mark.parametrize(
    "words",
    [
        ("partition", "{}", "--scheme", "rows", "-n", "2"),
        ("describe", "{}"),
        ("export", "{}", "deployment", "--plan", "plan.json"),
        ("evaluate", "{}"),
        ("report", "--training", "{}"),
        ("report", "--evaluation", "{}"),
        ("infer", "{}", "image.png"),
        ("pick", "{}"),
    ],
)
def test_a_missing_folder_is_named_with_what_was_expected(
    words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each command names the folder that is not there, and what should be, or the command that makes it."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SepnasError, match=rf"{tmp_path}/none\b.*(expected|name the|not the folder of)"):
        cli(*(word.format(tmp_path / "none") for word in words))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_workers_run_the_best_assignment(network: Path, tmp_path: Path) -> None:
    """On slow devices that are near each other a split wins, and worker processes give the network's answers by it."""
    slow = uniform_cluster(2, flops_per_s=2e8, bandwidth_bytes_per_s=1e9, latency_s=1e-5)
    cluster, out = slow.save(tmp_path / "cluster.yaml"), tmp_path / "plan.json"
    said = cli("partition", network, "--cluster", cluster, "--bound", "latency_s<=1s", "--out", out)
    assert said.exit_code == 0, said.output
    assert "times as long" in said.output
    plan = load_plan(out)
    assert plan.payload_bytes() > 0
    assert cli("export", network, tmp_path / "d", "--engine", "torch", "--plan", out).exit_code == 0
    whole, batch = load_partitioned(network), np.random.default_rng(0).standard_normal((2, 3, 21, 21), np.float32)
    with worker_processes(tmp_path / "d", 2, engine="torch") as (_, hosts), Session(tmp_path / "d", hosts) as session:
        check_answer(session, plan, whole, batch)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["-n", 2, "--shares", "1,1"], "needs --scheme"),
        (["-n", 2, "--scheme", "rows", "--bound", "latency_s<=1s"], "belongs to a search"),
        (["-n", 2, "--bound", "accuracy>=0.9"], "unknown objective 'accuracy'"),
        (["--scheme", "rows"], "needs --devices, --shares or --cluster"),
        (["--scheme", "rows", "--shares", "1,x"], "is no list of numbers: '1,x'"),
        (["--scheme", "rows", "--shares", "1,1", "-n", 3], "one share for each device"),
    ],
)
def test_wrong_options_are_refused(options: list[object], says: str, network: Path, tmp_path: Path) -> None:
    """What is missing or no number is said, and nothing is written."""
    result = cli("partition", network, *options, "--out", tmp_path / "plan.json")
    assert result.exit_code == 2
    assert says in " ".join(result.output.replace("│", " ").split())
    assert not (tmp_path / "plan.json").exists()


def test_wrong_values_are_refused(network: Path, tmp_path: Path) -> None:
    """Unknown schemes and formats, more devices than rows, and an export without a plan are errors that say so."""
    with pytest.raises(SpecError, match="scheme 'diagonal' is none of"):
        api.partition(network, "diagonal", 2)
    with pytest.raises(SpecError, match="wire format 'int9' is none of"):
        api.partition(network, "rows", 2, wire="int9")
    with pytest.raises(PlanError, match="scheme rows finds work for 21 of 30 devices in network 'chain'"):
        api.partition(network, "rows", 30)
    with pytest.raises(SpecError, match="an imported network is cut by a plan"):
        api.export(network, tmp_path / "d")
