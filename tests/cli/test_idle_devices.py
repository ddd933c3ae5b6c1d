"""A network that does not need all of its devices says so wherever it is looked at."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from sepnas.cli.export import _say_next
from sepnas.cli.main import app
from sepnas.deployment.manifest import Manifest
from sepnas.plan.liveness import devices_used
from sepnas.runtime.worker.server import Worker
from sepnas.search.found import Found
from sepnas.separable.build import build_plan
from sepnas.separable.space import SearchSpace
from sepnas.spec.hosts import Hosts
from tests.helpers_runtime import export_tiny, free_ports, lively_network, serving, tiny_architecture, transfer
from tests.helpers_search import evaluated_run

SPACE = SearchSpace.load(Path(__file__).parents[2] / "search_spaces" / "demo.yaml")
ONE_IDLE = tiny_architecture([{"after": 0, "transfers": [transfer(1, 0)]}], depth=11)
"""Device 0 answers with what device 1 sends; nothing of device 2 gets there."""
IDLE = "device 2 is not needed: nothing that it computes reaches the answer"


def cli(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("idle") / "search"
    evaluated_run(folder, SPACE, 30)
    return folder


def test_describe_names_the_devices_that_are_used(tmp_path: Path) -> None:
    """`describe` counts the ranks that are used, and warns of the others."""
    path = ONE_IDLE.save(tmp_path / "a.json")
    assert json.loads(cli("describe", path, "--json").stdout)["devices_used"] == [0, 1]
    result = cli("describe", path)
    assert re.search(r"^devices_used +0, 1 *$", result.stdout, re.MULTILINE)
    assert f"warning: {IDLE}" in result.stderr
    assert "not needed" not in cli("describe", "resnext11_2x4d", "-n", "2").output


def test_front_shows_how_many_devices_each_point_uses(run: Path) -> None:
    """Each line of the table and each point of the JSON says how many of its devices a candidate uses."""
    found, table = Found.load(run), cli("front", run).output
    points = {point["candidate"]: point for point in json.loads(cli("front", run, "--json").stdout)["candidates"]}
    for candidate in found.front:
        used = devices_used(build_plan(candidate.architecture))
        assert re.search(rf"^{candidate.index}( knee)? .* {len(used)} of 3 ", table, re.MULTILINE)
        assert (points[candidate.index]["devices_used"], points[candidate.index]["devices"]) == (list(used), 3)


def test_pick_warns_of_devices_that_are_not_needed(run: Path, tmp_path: Path) -> None:
    """`pick` warns exactly where the candidate leaves a device idle, and says what a search is told to avoid it."""
    for candidate in Found.load(run).candidates[:12]:
        idle = 3 - len(devices_used(build_plan(candidate.architecture)))
        said = cli("pick", run, "--candidate", candidate.index, "--out", tmp_path / "a.json").stderr
        assert ("not needed" in said) == (idle > 0)
        assert ("constraints: {devices_used: N}" in said) == (idle > 0)


def test_status_and_export_tell_which_worker_need_not_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The device is named at the export; without its worker `status` is content, and says that it is not needed."""
    export_tiny(lively_network(ONE_IDLE), tmp_path / "d")
    manifest = Manifest.load(tmp_path / "d/manifest.json")
    _say_next(manifest, tmp_path / "d", Hosts.local(3))
    assert f"{IDLE}; it needs no worker" in capsys.readouterr().err
    (nobody,) = free_ports(1)
    workers = [Worker(tmp_path / f"d/device{rank}", "127.0.0.1", 0) for rank in (0, 1)]
    addresses = [worker.address for worker in workers]
    hosts = Hosts.on([*addresses, f"127.0.0.1:{nobody}"]).save(tmp_path / "hosts.yaml")
    with serving(workers):
        result = cli("status", tmp_path / "d", "--devices", hosts)
        assert result.exit_code == 0, result.output
        assert re.search(r"^2 +not needed", result.stdout, re.MULTILINE)
        rows = json.loads(cli("status", tmp_path / "d", "--devices", hosts, "--json").stdout)
        assert [row["state"] for row in rows] == ["ready", "ready", "not needed"]
