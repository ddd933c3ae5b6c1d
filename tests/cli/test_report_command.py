"""``sepnas report``: the page of what a user has at hand, without a demo."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sepnas.cli.report import report
from sepnas.errors import SpecError
from sepnas.plan.document import save_plan
from sepnas.report.commands import chain_commands
from sepnas.report.from_inference import inference_parts
from sepnas.report.from_run import traced_bytes, traced_client_bytes
from sepnas.runtime.client.bench import random_inputs
from sepnas.runtime.client.session import Session
from sepnas.runtime.client.trace import Trace
from sepnas.separable.architecture import Architecture, named_architecture, named_policy
from sepnas.separable.build import build_plan
from sepnas.separable.space import SearchSpace
from sepnas.spec.cluster import uniform_cluster
from tests.helpers_runtime import export_tiny, lively_network, tiny_architecture, transfer, worker_processes
from tests.helpers_search import evaluated_run


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> tuple[Architecture, Path]:
    """An architecture and the trace of one request of two images that real workers answered."""
    folder = tmp_path_factory.mktemp("report")
    architecture = tiny_architecture([{"after": 0, "transfers": [transfer(1, 0)]}], devices=2)
    export_tiny(lively_network(architecture), folder / "deployment")
    with worker_processes(folder / "deployment", 2) as (_, hosts), Session(folder / "deployment", hosts) as session:
        session.infer(random_inputs(session.manifest, 2))
        session.trace(last=1).save(folder / "trace.json")
    return architecture, folder / "trace.json"


def test_a_trace_is_held_against_the_plan(traced: tuple[Architecture, Path]) -> None:
    """The bytes that devices say they sent are those of the plan, on each link and in the summary."""
    architecture, trace = traced
    parts = inference_parts(build_plan(architecture), uniform_cluster(2), trace, None)
    plan = build_plan(architecture)
    assert sum(traced_bytes(Trace.load(trace).requests[-1]).values()) == plan.payload_bytes(2) > 0
    assert all(link.predicted == link.counted for link in parts["links"])
    assert sum(traced_client_bytes(Trace.load(trace).requests[-1]).values()) == plan.input_bytes(2) + plan.output_bytes(
        2
    )
    assert [row.agree for row in parts["summary"]] == [None, True, True]
    assert [timeline.title for timeline in parts["timelines"]] == ["predicted", "measured"]


def test_a_trace_of_other_devices_is_refused(traced: tuple[Architecture, Path]) -> None:
    """A trace is not drawn beside the prediction of a network of other devices, or of another plan of the same ones."""
    other = named_architecture("resnext11_4x4d", 4, "all-to-all")
    with pytest.raises(SpecError, match=r"taken on the devices \[0, 1\], but the plan computes on"):
        inference_parts(build_plan(other), uniform_cluster(4), traced[1], None)
    silent = traced[0].with_policy(named_policy("none", 2, traced[0].depth))
    says = rf"^{re.escape(str(traced[1]))} was not taken with plan\.json: .*steps"
    with pytest.raises(SpecError, match=says):
        inference_parts(build_plan(silent), uniform_cluster(2), traced[1], None, "plan.json")


def test_the_page_tells_bytes_and_how_it_was_made(
    traced: tuple[Architecture, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A page of an architecture and a trace shows the summary, the bytes of each link and its command."""
    architecture, trace = traced
    path = architecture.save(tmp_path / "a.json")
    report(out=tmp_path / "r.html", architecture=path, trace=trace)
    page = (tmp_path / "r.html").read_text()
    words = ("payload bytes between devices", "input bytes from the client", "client → 0", "Equal on every link")
    for said in (*words, "latency of one inference"):
        assert re.search(said, page)


def test_a_plan_file_is_never_written_or_trained_again(tmp_path: Path) -> None:
    """The commands of a page about a plan neither pick nor train onto its file; they export a training by it."""
    plan = save_plan(build_plan(tiny_architecture([], devices=2)), tmp_path / "plan.json")
    search, training = tmp_path / "search", tmp_path / "training"
    evaluated_run(search, SearchSpace.load(Path(__file__).parents[2] / "search_spaces" / "demo.yaml"), 3)
    commands = chain_commands(search, training, plan, 1, None)[:-1]
    assert commands[-1] == f"sepnas export {training} deployment --plan {plan}"
    assert not any(command.startswith(("sepnas pick", "sepnas train")) for command in commands)
    own = chain_commands(search, training, training / "architecture.json", 1, None)
    assert [command for command in own if "pick" in command] == [
        f"sepnas pick {search} --candidate 1 --out architecture.json"
    ]
    assert str(plan) not in " ".join(chain_commands(None, None, plan, None, None)[:-1])
