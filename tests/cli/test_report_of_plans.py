"""``sepnas report NETWORK PLAN ...``: one page for one cluster."""

from __future__ import annotations

from pathlib import Path

import pytest

from sepnas.errors import SpecError
from sepnas.partition.graph import GRAPH_NAME
from sepnas.spec.cluster import uniform_cluster
from tests.cli.test_plan_command import cli
from tests.partition.chains import equal_chain


@pytest.fixture
def network(tmp_path: Path) -> Path:
    folder = tmp_path / "small-net"
    folder.mkdir()
    made = equal_chain(2, 8, 16)
    made.head(5)
    made.graph().save(folder / GRAPH_NAME)
    return folder


def test_a_network_and_a_plan_are_on_one_page(network: Path, tmp_path: Path) -> None:
    """The page compares every scheme and the plan on the cluster, and draws the maps of both."""
    cluster = uniform_cluster(2, name="two-boards").save(tmp_path / "cluster.yaml")
    plan, page = tmp_path / "mine.json", tmp_path / "page.html"
    cli("partition", network, "--scheme", "rows", "--shares", "3,1", "--out", plan)
    said = cli(
        "report", network, plan, "--cluster", cluster, "--accuracy", "small-net=75%", "--devices", "2", "--out", page
    )
    assert said.output.splitlines()[-1].startswith("written: file://")
    text = page.read_text()
    for words in ("cluster two-boards", "rows over 2", "mine.json", "75.00 %", 'id="map-1"', "When each device works"):
        assert words in text


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--accuracy", "0.8"), "is no NAME=SHARE: '0.8'"),
        (("--accuracy", "small-net=good"), "small-net: 'good' cannot be read"),
        (("--devices", "two"), "is no list of numbers: 'two'"),
        (("--devices", "9"), "must be 1 to 4, the cluster's; got 9"),
    ],
)
def test_options_that_cannot_be_read_are_named(options: tuple[str, str], says: str, network: Path) -> None:
    """A wrong share or number of devices is refused with what is allowed."""
    result = cli("report", network, *options)
    assert result.exit_code == 2
    assert says in " ".join(result.output.replace("│", " ").split())


def test_what_a_report_does_not_take_is_named(tmp_path: Path) -> None:
    """A file of another kind is refused with all that a report takes."""
    cluster = uniform_cluster(2).save(tmp_path / "cluster.yaml")
    with pytest.raises(SpecError, match=r"is a file of format sepnas\.cluster; a report takes the folder of an import"):
        cli("report", cluster)
