"""The comparison of plans on one cluster: its figures are the simulator's, and its sentences say what they show."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

import pytest

from sepnas import api
from sepnas.errors import PlanError, SpecError
from sepnas.partition.graph import GRAPH_NAME, Graph
from sepnas.partition.schemes.registry import SCHEMES
from sepnas.plan.document import save_plan
from sepnas.report.comparison.splits import SEARCHED
from sepnas.report.comparison.values import Comparison, PricedPlan
from sepnas.report.comparison.verdict import verdict
from sepnas.report.content import ReportContent
from sepnas.report.figures.comparison import accuracy_drawing
from sepnas.report.figures.svg import inline_svg
from sepnas.report.from_plans import PlanParts, plan_parts
from sepnas.report.page import render_report
from sepnas.separable.architecture import named_architecture
from sepnas.separable.build import build_plan
from sepnas.separable.space import SearchSpace
from sepnas.spec.cluster import Cluster, uniform_cluster
from sepnas.spec.evaluation import EVALUATION_NAME, keep_evaluation
from tests.helpers_runtime import export_tiny, lively_network, tiny_architecture, transfer
from tests.helpers_search import evaluated_run
from tests.partition.chains import equal_chain
from tests.report.test_evaluation import evaluation
from tests.report.test_report import Page

CLUSTER = uniform_cluster(3, bandwidth_bytes_per_s=125e6, latency_s=1e-4)
SLOW_LINKS = uniform_cluster(3, bandwidth_bytes_per_s=1e4, latency_s=0.1)


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an imported chain of layers that is large enough to be worth a split."""
    folder = tmp_path_factory.mktemp("imported") / "chain-net"
    folder.mkdir()
    made = equal_chain(4, 24, 48)
    made.head(10)
    made.graph().save(folder / GRAPH_NAME)
    return folder


@pytest.fixture(scope="module")
def parts(network: Path) -> PlanParts:
    return plan_parts([network], CLUSTER, {"chain-net": 0.75})


@pytest.fixture(scope="module")
def page(parts: PlanParts) -> str:
    return render_report(ReportContent(comparison=parts["comparison"], maps=parts["maps"]))


def split_plans(parts: PlanParts) -> list[PricedPlan]:
    return [plan for plan in parts["comparison"].plans if plan.family == "split"]


def test_prices_are_those_of_the_simulator(parts: PlanParts, network: Path) -> None:
    """Each scheme over each number of devices has the latency and bytes of `api.partition` and `api.simulate`."""
    graph = Graph.load(network / GRAPH_NAME)
    found = {(plan.series, plan.label): plan for plan in split_plans(parts)}
    refused = {(each.scheme, each.num_devices) for each in parts["comparison"].refused}
    for scheme in SCHEMES:
        for count in (2, 3):
            if (scheme, count) in refused:
                with pytest.raises(PlanError):
                    api.partition(graph, scheme, count)
                continue
            expected = api.simulate(api.partition(graph, scheme, count), CLUSTER)
            price = found[scheme, f"{scheme} over {count}"]
            assert (price.latency_s, price.payload_bytes) == (expected.latency_s, expected.payload_bytes)
            assert price.total_bytes == expected.simulation.total_bytes
            assert price.peak_memory_bytes == max(expected.simulation.peak_memory_bytes)
            assert (price.accuracy, price.accuracy_of) == (0.75, "given")


def test_one_device_alone_is_the_reference(parts: PlanParts, page: str) -> None:
    """One device alone sends nothing to another one, and the table tells every plan's latency in terms of its own."""
    [alone] = parts["comparison"].alone
    assert (alone.payload_bytes, alone.num_devices) == (0, 1)
    assert f"{min(p.latency_s for p in split_plans(parts)) / alone.latency_s:.2f} x" in page


def test_a_split_that_pays_is_told(parts: PlanParts) -> None:
    """The sentence names the fastest split, its speed against one device alone, and how many splits lose."""
    best = min(split_plans(parts), key=lambda plan: plan.latency_s)
    [alone] = parts["comparison"].alone
    said = verdict(parts["comparison"])
    assert f"is fastest with {best.label} devices" in said
    assert f"{alone.latency_s / best.latency_s:.2f} times as fast as device0 alone, 1 thread" in said


def test_splits_that_do_not_pay_are_told(network: Path) -> None:
    """On slow links no split beats one device, and a sentence says it; another one that the accuracy is not known."""
    found = plan_parts([network], SLOW_LINKS, {}, [2, 3])
    assert min(p.latency_s for p in split_plans(found)) > found["comparison"].alone[0].latency_s
    said = verdict(found["comparison"])
    assert "No split of chain beats device0 alone" in said
    assert "their accuracy is that of the network, which is not known here" in said


def test_the_page_has_a_mark_and_a_row_for_each_plan(parts: PlanParts, page: str) -> None:
    """Each plan is a mark in each picture and a row of the table; the page is well formed and needs no other file."""
    parsed = Page(page)
    assert parsed.sections() == ["comparison", "map"]
    assert "://" not in page
    for plan in split_plans(parts):
        assert page.count(f'data-key="{plan.key}"') == 3
        assert f'class="text">{plan.label}</th>' in page
    labels = [attributes.get("aria-label") for tag, attributes in parsed.elements if tag == "svg"]
    assert all(labels)


def test_separable_networks_stand_beside_splits(network: Path, tmp_path: Path) -> None:
    """The front of a search is priced on the same cluster, and drawn with its accuracies beside the splits."""
    space = SearchSpace.load(Path(__file__).parents[2] / "search_spaces" / "demo.yaml")
    evaluated_run(tmp_path / "search", space, 6)
    found = plan_parts([network, tmp_path / "search"], CLUSTER, {"chain": 0.9}, [2])
    front = [plan for plan in found["comparison"].plans if plan.family == "separable"]
    assert front
    assert all(plan.accuracy_of == "supernet" for plan in front)
    text = inline_svg(partial(accuracy_drawing, found["comparison"]))
    assert all(f'data-key="{plan.key}"' in text for plan in (*front, *split_plans(found)))
    assert "The fastest separable network" in verdict(found["comparison"])


def test_plans_and_architectures_are_compared(network: Path, tmp_path: Path) -> None:
    """A plan's file takes the module names of the imported network on the page; an architecture is one point."""
    graph = Graph.load(network / GRAPH_NAME)
    path = save_plan(api.partition(graph, "rows", [3.0, 1.0]), tmp_path / "uneven.json")
    other = named_architecture("resnext11_2x4d", 2, "hand-made").save(tmp_path / "narrow.json")
    found = plan_parts([path, network, other], CLUSTER, {"uneven": 0.5, "narrow.json": 0.6}, [2])
    by_label = {plan.label: plan for plan in found["comparison"].plans}
    assert by_label["uneven.json"].latency_s == api.simulate(path, CLUSTER).latency_s
    assert [by_label[name].accuracy for name in ("uneven.json", "narrow.json")] == [0.5, 0.6]
    assert [drawn.folded for drawn in found["maps"]][:3] == [False] * 3


def test_the_best_split_is_searched(network: Path) -> None:
    """The split that a search finds is no slower than any scheme's, and one device alone if that is the best."""
    found = plan_parts([network], CLUSTER, {}, [2, 3], searching=True)
    latencies = {plan.series: plan.latency_s for plan in split_plans(found)}
    assert latencies[SEARCHED] <= min(latencies.values())
    alone = plan_parts([network], SLOW_LINKS, {}, [2], searching=True)
    assert SEARCHED not in {plan.series for plan in split_plans(alone)}


@pytest.mark.slow
def test_plans_of_a_deployment_are_compared(tmp_path: Path) -> None:
    """Each plan of a deployment is priced and mapped under its name."""
    architecture = tiny_architecture([{"after": 0, "transfers": [transfer(1, 0)]}], devices=2)
    export_tiny(lively_network(architecture), tmp_path / "kept")
    found = plan_parts([tmp_path / "kept"], CLUSTER, {"kept": 0.5})
    [plan] = found["comparison"].plans
    assert (plan.label, plan.accuracy) == ("plan default of kept", 0.5)
    assert plan.payload_bytes == build_plan(architecture).payload_bytes()


def test_an_evaluated_network_brings_its_accuracy(network: Path, tmp_path: Path) -> None:
    """Without a given accuracy it is the newest that `sepnas evaluate` kept in the network's folder."""
    folder = shutil.copytree(network, tmp_path / "evaluated")
    kept = evaluation(4, 4)
    keep_evaluation(kept, folder / EVALUATION_NAME)
    [alone] = plan_parts([folder], CLUSTER, {}, [1])["comparison"].alone
    assert (alone.accuracy, alone.accuracy_of) == (kept.scores.accuracy, kept.data_words)


@pytest.mark.parametrize(
    ("accuracies", "message"),
    [({"nobody": 0.5}, "--accuracy names 'nobody', which is none of chain"), ({}, "is no file or folder of sepnas")],
)
def test_what_is_not_there_is_named(accuracies: dict[str, float], message: str, network: Path, tmp_path: Path) -> None:
    """An accuracy of something that is not on the page, and a path that nothing is known about, are refused."""
    paths = [network] if accuracies else [tmp_path / "nowhere"]
    with pytest.raises(SpecError, match=message):
        plan_parts(paths, CLUSTER, accuracies, [2])


def test_a_cluster_that_is_too_small_is_told(tmp_path: Path) -> None:
    """A plan of more devices than the cluster has is refused."""
    path = named_architecture("resnext11_4x4d", 4, "none").save(tmp_path / "four.json")
    with pytest.raises(PlanError, match="needs 4 devices, but cluster 'uniform' has 3"):
        plan_parts([path], CLUSTER, {})


def test_an_empty_comparison_has_no_section() -> None:
    """Without plans there is nothing to compare."""
    assert "comparison" not in Page(render_report(ReportContent(comparison=Comparison("c", (), ())))).sections()


def test_the_cluster_is_named(parts: PlanParts) -> None:
    """The section's title has the name of the cluster."""
    named = plan_parts([], Cluster(**{**CLUSTER.model_dump(), "name": "kitchen"}), {})
    assert named["comparison"].cluster == "kitchen"
    assert parts["comparison"].cluster == CLUSTER.name
