"""Presets of devices and links, and the command that writes a cluster of them."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from sepnas.cli.main import app
from sepnas.cost.simulator import Simulation, simulate
from sepnas.errors import SpecError, StorageError
from sepnas.separable.architecture import named_architecture
from sepnas.separable.build import build_plan
from sepnas.spec.cluster import Cluster
from sepnas.spec.document import read_data
from sepnas.spec.presets import (
    Presets,
    device_preset,
    link_preset,
    load_presets,
    preset_cluster,
    preset_names,
    preset_sources,
)

FROM_SLOW_TO_FAST = ("bluetooth-le", "wifi-2.4ghz", "wifi-5ghz", "ethernet-100mbit", "ethernet-1gbit")


def call(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["cluster", *arguments], env={"COLUMNS": "80"})


def simulated(cluster: Cluster) -> Simulation:
    return simulate(build_plan(named_architecture("resnext20_4x4d", 4, "hand-made")), cluster)


@pytest.mark.parametrize("name", preset_names().devices)
def test_device_presets(name: str) -> None:
    """Every device preset becomes a device that draws power and takes time for each layer, and names its sources."""
    device = device_preset(name, "a")
    assert device.name == "a"
    assert device.layer_overhead_s > 0
    assert device.power.idle_w > 0
    assert device.power.compute_w > 0
    assert load_presets().devices[name].sources()


@pytest.mark.parametrize("name", preset_names().links)
def test_link_presets(name: str) -> None:
    """Every link preset becomes a link between all devices, shares the air when it is radio, and names its sources."""
    link = link_preset(name)
    assert link.between == "all"
    assert link.medium == ("switch" if name.startswith("ethernet") else "shared")
    assert load_presets().links[name].sources()


@pytest.mark.parametrize("spoil", ["no source", "unknown source", "unused source"])
def test_figures_need_sources(spoil: str) -> None:
    """A figure that is no estimate must name a source, and the list of sources is the one that figures name."""
    data = load_presets().to_data()
    figure = data["devices"]["raspberry-pi-5"]["idle_w"]
    if spoil == "unused source":
        data["sources"]["more"] = {"title": "a", "address": "https://b.c"}
    else:
        figure["sources"] = [] if spoil == "no source" else ["nobody"]
    with pytest.raises(SpecError, match="sources"):
        Presets.from_data(data)


def test_unknown_names_are_refused_with_what_there_is() -> None:
    """An unknown device or link is refused with the list of those that exist."""
    with pytest.raises(SpecError, match=r"unknown device preset 'vax'; allowed: .*jetson-nano"):
        device_preset("vax", "a")
    with pytest.raises(SpecError, match=r"unknown link preset 'pigeon'; allowed: .*wifi-5ghz"):
        link_preset("pigeon")
    with pytest.raises(SpecError, match="unknown link preset 'pigeon'"):
        device_preset("jetson-nano", "a", "pigeon")


def test_faster_links_make_no_longer_makespan() -> None:
    """From Bluetooth to gigabit Ethernet the makespan of a policy that exchanges only falls."""
    assert set(FROM_SLOW_TO_FAST) == set(preset_names().links)
    clusters = [preset_cluster(["raspberry-pi-4b"] * 4, link) for link in FROM_SLOW_TO_FAST]
    makespans_s = [simulated(cluster).makespan_s for cluster in clusters]
    assert all(slow >= fast for slow, fast in pairwise(makespans_s))
    assert makespans_s[0] > makespans_s[-1]


def test_the_link_says_what_a_byte_costs() -> None:
    """The energy of a byte comes from the link's preset: the radio's is more than the cable's."""
    wifi, cable = (preset_cluster(["jetson-nano"] * 4, link) for link in ("wifi-5ghz", "ethernet-1gbit"))
    assert wifi.devices[0].power.energy_per_byte_j > cable.devices[0].power.energy_per_byte_j == 0
    assert device_preset("jetson-nano", "jetson-nano-0", "wifi-5ghz") == wifi.devices[0]


def test_written_cluster_simulates(tmp_path: Path) -> None:
    """The file that the command writes is the cluster of its presets, one device a rank, and can be simulated."""
    path = tmp_path / "cluster.yaml"
    result = call("--device", "raspberry-pi-4b:3", "--device", "jetson-nano", "--link", "wifi-5ghz", "--out", str(path))
    assert result.exit_code == 0, result.output
    cluster = Cluster.load(path)
    assert [device.name for device in cluster.devices] == [
        "raspberry-pi-4b-0", "raspberry-pi-4b-1", "raspberry-pi-4b-2", "jetson-nano-3",
    ]  # fmt: skip
    assert cluster == preset_cluster(["raspberry-pi-4b"] * 3 + ["jetson-nano"], "wifi-5ghz")
    assert min(simulated(cluster).energy_j) > 0


def test_written_cluster_names_its_sources(tmp_path: Path) -> None:
    """The file opens with a comment that says to measure and lists the sources of its presets and of no other."""
    path = tmp_path / "cluster.yaml"
    call("--device", "raspberry-pi-zero-2w", "--link", "bluetooth-le", "--out", str(path))
    comment = "".join(line for line in path.read_text().splitlines(keepends=True) if line.startswith("#"))
    assert path.read_text().startswith(comment)
    assert "sepnas profile" in comment
    wanted = preset_sources(["raspberry-pi-zero-2w"], "bluetooth-le")
    assert re.findall(r"https?://\S+", comment) == [source.address for source in wanted]
    assert 0 < len(wanted) < len(load_presets().sources)


def test_threads_are_chosen_written_and_said(tmp_path: Path) -> None:
    """`--threads` is written into the file, which predictions follow and name; without it all cores are used."""
    latencies_s = {}
    for arguments, threads in (((), 4), (("--threads", "2"), 2), (("--threads", "1"), 1)):
        path = tmp_path / f"{threads}.yaml"
        said = call("--device", "raspberry-pi-4b:2", "--out", str(path), *arguments).stdout
        assert f"{'1 thread' if threads == 1 else f'{threads} threads'} each" in " ".join(said.split())
        assert Cluster.load(path).threads == (threads, threads)
        network = ("resnext20_4x4d", "-n", "2", "--policy", "none", "--cluster", str(path))
        shown = CliRunner().invoke(app, ["simulate", *network], env={"COLUMNS": "200"}).stdout
        assert f"on {'1 thread' if threads == 1 else f'{threads} threads'} each" in shown
        data = json.loads(CliRunner().invoke(app, ["simulate", *network, "--json"]).stdout)
        assert data["threads"] == [threads, threads]
        latencies_s[threads] = data["latency_s"]
    assert latencies_s[4] < latencies_s[2] < latencies_s[1]


def test_one_device_and_json_are_enough(tmp_path: Path) -> None:
    """One device alone is a cluster, and a JSON file holds it, too, without the comment."""
    path = tmp_path / "cluster.json"
    assert call("--device", "raspberry-pi-5", "--out", str(path)).exit_code == 0
    assert read_data(path)["devices"][0]["name"] == "raspberry-pi-5-0"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "name at least one: raspberry-pi-3b-plus"),
        (["--device", "jetson-nano:0"], "a count of 1 to 1000, got 'jetson-nano:0'"),
        (["--device", "jetson-nano:"], "a count of 1 to 1000"),
        (["--device", "jetson-nano:-1"], "a count of 1 to 1000"),
        (["--device", "jetson-nano:1001"], "a count of 1 to 1000"),
        (["--device", "jetson-nano:" + "9" * 5000], "a count of 1 to 1000"),
        (["--device", ":2"], "a count of 1 to 1000"),
        (["--device", "jetson-nano", "--link", ""], "is empty"),
        (["--json"], "goes with --list"),
        (["--list", "--device", "jetson-nano"], "no --device"),
        (["--list", "--threads", "2"], "no --threads"),
        (["--device", "jetson-nano", "--threads", "0"], "be greater than or equal to 1"),
    ],
)
def test_wrong_arguments(arguments: list[str], said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No device, a count that is none and options that would be ignored end with usage, and nothing is written."""
    monkeypatch.chdir(tmp_path)
    result = call(*arguments)
    assert result.exit_code == 2
    assert said in " ".join(result.stderr.replace("│", " ").split())
    assert list(tmp_path.iterdir()) == []


def test_the_command_overwrites_no_folder(tmp_path: Path) -> None:
    """Unknown presets, more threads than cores and a folder in the file's place are refused; nothing is written."""
    assert isinstance(call("--device", "jetson-nano", "--out", str(tmp_path)).exception, StorageError)
    unknown = call("--device", "vax", "--out", str(tmp_path / "cluster.yaml"))
    assert "allowed: raspberry-pi-3b-plus" in str(unknown.exception)
    busy = call("--device", "jetson-nano", "--threads", "5", "--out", str(tmp_path / "cluster.yaml"))
    assert "'jetson-nano' has 4 cores; `threads` must be 1 to 4, got 5" in str(busy.exception)
    assert list(tmp_path.iterdir()) == []


def test_list_shows_all(tmp_path: Path) -> None:
    """`--list` shows every preset and every source whole even on a narrow terminal, and as JSON every note."""
    shown = call("--list").stdout
    for name in (*preset_names().devices, *preset_names().links):
        assert name in shown
    for source in load_presets().sources.values():
        assert source.address in shown
    assert Presets.from_data(json.loads(call("--list", "--json").stdout)) == load_presets()
