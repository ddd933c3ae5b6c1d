"""Networks that are split as they are, on real workers: each scheme is exact, and costs the bytes of its plan."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sepnas.deploy.graph_export import export_graph, graph_facts
from sepnas.deployment.serial import deployed_plan
from sepnas.deployment.verify import verify_deployment
from sepnas.errors import DeploymentError, PlanError, SpecError
from sepnas.nets.partitioned import PartitionedNetwork
from sepnas.nets.planned import lookup_of, run_plan
from sepnas.partition.graph import NetworkTraits
from sepnas.partition.schemes.registry import SCHEMES, partition
from sepnas.plan.plan import Plan, Segment
from sepnas.plan.schedule import schedule
from sepnas.runtime.client.images import normalise
from sepnas.runtime.client.session import Session
from sepnas.runtime.engines.choice import make_engine
from sepnas.runtime.engines.shard import Shard
from sepnas.runtime.engines.torch_engine import Engine
from sepnas.spec.preparation import Preparation
from sepnas.testing.graphs import SMALL_GRAPHS, Builder
from tests.helpers_runtime import threads, worker_processes
from tests.partition.test_batches import ConvolvedWindows, NormOfTokens, SamplesBehind, WrittenPlaces
from tests.partition.test_trace import traced

ENGINES = ("torch", "onnxruntime")
BATCH = 2
OTHER_FAMILIES = (
    ("transformer", "pairs"),
    ("gated", "grid"),
    ("gated", "fused-tiles"),
    ("video", "rows"),
    ("branches", "output-channels"),
    ("branches", "minimum-cut"),
)
QUICK = ("rows", "pipeline")
"""The schemes with the fewest graphs to export."""


def network_of(*, seed: int = 0) -> PartitionedNetwork:
    """A stem of stride 2, a residual block with groups, padded pooling, a reshape and a classifier; 13x13 images."""
    torch.manual_seed(seed)
    made = Builder(3, 13, 13)
    made.conv(6, 3, padding=(1, 1), stride=(2, 2))
    made.norm()
    before = made.add("relu", {"self": made.last})
    made.conv(6, 3, groups=2, padding=(1, 1))
    made.add("add", {"self": made.last, "other": before})
    made.add("max_pool2d", {"self": made.last}, kernel_size=(3, 3), stride=(2, 2), padding=(1, 1))
    made.conv(8, 1)
    made.add("relu", {"self": made.last})
    made.conv(4, 3)
    made.add("mean", {"self": made.last}, dim=(2, 3), keepdim=True)
    made.add("reshape", {"self": made.last}, size=(1, 4))
    made.add("linear", {"input": made.last, "weight": made.weight(5, 4), "bias": made.weight(5)})
    return PartitionedNetwork(made.graph(), made.weights).eval()


@pytest.fixture(scope="module")
def network() -> PartitionedNetwork:
    return network_of()


@pytest.fixture(scope="module")
def batch() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((BATCH, 3, 13, 13), dtype=np.float32)


def whole(network: PartitionedNetwork, batch: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        found: list[Tensor] = [network(each) for each in torch.from_numpy(batch).split(1)]  # type: ignore[misc]
    return torch.cat(found).numpy()


def _engine(name: str, shard: Shard, threads: int) -> Engine:
    return make_engine(name, shard, threads).engine


def check_answer(session: Session, plan: Plan, network: PartitionedNetwork, batch: np.ndarray) -> None:
    answer, wanted = session.infer(batch), whole(network, batch)
    assert np.abs(answer - wanted).max() <= 1e-4 * np.abs(wanted).max()
    assert session.counters().payload_bytes == plan.payload_bytes(len(batch))


@pytest.mark.parametrize(
    "scheme", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in SCHEMES]
)
def test_workers_compute_what_the_whole_network_computes(
    scheme: str, network: PartitionedNetwork, batch: np.ndarray, tmp_path: Path
) -> None:
    """In both engines, on a batch, and with the bytes between devices that the plan says, to the unit."""
    plan = partition(network.graph, scheme, [1, 1])
    export_graph(network, tmp_path / "d", {"default": plan}, name=scheme, engines=ENGINES)
    assert deployed_plan(tmp_path / "d") == plan
    assert verify_deployment(tmp_path / "d").working == (0, 1)
    for engine in ENGINES:
        with (
            threads(tmp_path / "d", engine=partial(_engine, engine)) as hosts,
            Session(tmp_path / "d", hosts) as session,
        ):
            check_answer(session, plan, network, batch)


def test_worker_processes_run_several_schemes_of_one_deployment(
    network: PartitionedNetwork, batch: np.ndarray, tmp_path: Path
) -> None:
    """Three processes with uneven shares: one deployment has two schemes, and a request chooses."""
    plans = {name: partition(network.graph, name, [2, 1, 1]) for name in ("rows", "output-channels")}
    export_graph(network, tmp_path / "d", plans, name="both", engines=["torch"])
    with worker_processes(tmp_path / "d", 3, engine="torch") as (_, hosts):
        for name, plan in plans.items():
            with Session(tmp_path / "d", hosts, plans=[name]) as session:
                check_answer(session, plan, network, batch)


@pytest.mark.slow
def test_worker_processes_exchange_shares_of_global_means(tmp_path: Path) -> None:
    """Squeeze and excite by rows over three processes, in both engines: channels travel instead of maps."""
    torch.manual_seed(0)
    made = SMALL_GRAPHS["gated"]()
    own = PartitionedNetwork(made.graph(), made.weights).eval()
    plan = partition(own.graph, "rows", [2, 1, 1])
    shares = [m for m in plan.transfers() if m.shape.dims[1:] in ((), (1, 1))]
    assert sum(m.payload_bytes() for m in shares) == 4 * (3 * 2 * 16 * 2 + 2 * 8)
    export_graph(own, tmp_path / "d", {"default": plan}, name="gated", engines=ENGINES)
    batch = np.random.default_rng(0).standard_normal((BATCH, 3, 17, 17), dtype=np.float32)
    for engine in ENGINES:
        with (
            worker_processes(tmp_path / "d", 3, engine=engine) as (_, hosts),
            Session(tmp_path / "d", hosts) as session,
        ):
            check_answer(session, plan, own, batch)


def test_a_class_token_is_joined_to_each_sample(tmp_path: Path) -> None:
    """A token that is a weight, beside those of an image, in both engines: one sample, and several."""
    torch.manual_seed(0)
    made = Builder(3, 4, 4)
    made.then("reshape", size=(1, 3, 16))
    made.then("permute", dims=(0, 2, 1))
    made.linear(8)
    made.add("cat", {"tensors.0": made.weight(1, 1, 8), "tensors.1": made.last}, dim=1)
    made.plus(made.weight(1, 17, 8))
    made.linear(8)
    made.then("select", dim=1, index=0)
    made.linear(10)
    own = PartitionedNetwork(made.graph(), made.weights).eval()
    plan = partition(own.graph, "pipeline", [1, 1])
    export_graph(own, tmp_path / "d", {"default": plan}, name="token", engines=ENGINES)
    batch = np.random.default_rng(0).standard_normal((BATCH, 3, 4, 4), dtype=np.float32)
    for engine in ENGINES:
        for each in (batch[:1], batch):
            with (
                threads(tmp_path / "d", engine=partial(_engine, engine)) as hosts,
                Session(tmp_path / "d", hosts) as session,
            ):
                check_answer(session, plan, own, each)


@pytest.mark.parametrize("engine", ["torch", pytest.param("onnxruntime", marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", [ConvolvedWindows, NormOfTokens, SamplesBehind])
def test_workers_compute_batches_where_samples_share_an_axis(kind: type, engine: str, tmp_path: Path) -> None:
    """Windows or tokens along the axis of samples, or samples behind another axis: a batch is computed exactly."""
    torch.manual_seed(0)
    graph, weights, _ = traced(kind().eval(), (3, 16, 16))
    own, plan = PartitionedNetwork(graph, weights).eval(), partition(graph, "rows", [1, 1])
    export_graph(own, tmp_path / "d", {"default": plan}, name="samples", engines=[engine])
    batch = np.random.default_rng(0).standard_normal((BATCH, 3, 16, 16), dtype=np.float32)
    with threads(tmp_path / "d", engine=partial(_engine, engine)) as hosts, Session(tmp_path / "d", hosts) as session:
        check_answer(session, plan, own, batch)


def test_what_computes_sample_by_sample_is_not_exported(tmp_path: Path) -> None:
    """An operator without a kind takes one sample at a time: workers, which get any number, do not get it."""
    graph, weights, _ = traced(WrittenPlaces().eval(), (3, 16, 16))
    own, plan = PartitionedNetwork(graph, weights).eval(), partition(graph, "rows", [1, 1])
    with pytest.raises(PlanError, match=r"'index_put' \(aten.index_put.default\) computes one sample after the other"):
        export_graph(own, tmp_path / "d", {"default": plan}, name="opaque", engines=["torch"])


@pytest.mark.parametrize("scheme", ["rows", "input-channels"])
def test_images_travel_as_bytes(scheme: str, network: PartitionedNetwork, tmp_path: Path) -> None:
    """With a mean and a deviation, each device is sent its region of the image as bytes, and normalises it itself."""
    traits = NetworkTraits(mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25), crop=0.9, interpolation="bicubic")
    graph = network.graph.model_copy(update={"traits": traits})
    pictured = PartitionedNetwork(graph, network.weights_by_name).eval()
    plan = partition(graph, scheme, [2, 1])
    assert {piece.wire for piece in plan.inputs[0].pieces} == {"uint8"}
    manifest = export_graph(pictured, tmp_path / "d", {"default": plan}, name="x", engines=["torch"])
    assert manifest.image.preparation == Preparation(fit="cover", height=14, width=14, interpolation="bicubic")
    images = np.random.default_rng(1).integers(0, 256, (BATCH, 3, 13, 13), np.uint8)
    normalised = normalise(images, manifest.image)
    wanted = whole(network, normalised)
    with threads(tmp_path / "d", engine=partial(_engine, "torch")) as hosts, Session(tmp_path / "d", hosts) as session:
        answer = session.infer(images)
        assert session.counters().input_bytes == plan.input_bytes(BATCH)
        assert session.counters().payload_bytes == plan.payload_bytes(BATCH)
        np.testing.assert_array_equal(session.infer(normalised), answer)
    assert np.abs(answer - wanted).max() <= 1e-4 * np.abs(wanted).max()


def test_a_device_has_only_its_part_of_the_weights(network: PartitionedNetwork, tmp_path: Path) -> None:
    """Split by output channels, two devices together store each weight of a layer once."""
    plan = partition(network.graph, "output-channels", [1, 1])
    stored = [sum(segment.weight_bytes for segment in segments.values()) for segments in plan.segments]
    assert sum(stored) == 4 * network.graph.num_weights
    names = [
        weight.stored(network.tensor(weight.name).shape) for s in plan.segments[1].values() for weight in s.weights
    ]
    assert "w0[3:6,0:3,0:3,0:3]" in names


def _with_other_operators(item: tuple[str, Segment]) -> tuple[str, Segment]:
    name, segment = item
    nodes = tuple(replace(each, operator="neg") if each.operator == "relu" else each for each in segment.nodes)
    return name, replace(segment, nodes=nodes)


def test_a_plan_of_another_network_is_refused(network: PartitionedNetwork, tmp_path: Path) -> None:
    """A plan whose segments compute something else is found by its answer, before anything is written."""
    plan = partition(network.graph, "rows", [1, 1])
    swapped = tuple(dict(map(_with_other_operators, segments.items())) for segments in plan.segments)
    wrong = replace(plan, segments=swapped)
    with pytest.raises(DeploymentError, match="does not compute network 'chain': its output 'scores' is off by"):
        export_graph(network, tmp_path / "d", {"default": wrong}, name="x", engines=["torch"])
    assert not (tmp_path / "d").exists()
    plans = {"two": plan, "three": partition(network.graph, "rows", [1, 1, 1])}
    with pytest.raises(SpecError, match=r"for one number of devices, got \[2, 3\]"):
        export_graph(network, tmp_path / "d", plans, name="x", engines=["torch"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "a/b"}, "`name` must be 1..255 printable"),
        ({"validity_days": float("nan")}, "`validity_days` must be more than 0"),
        ({"on_missing": "later"}, "`on_missing` must be strict or degrade, got 'later'"),
        ({"plans": ["../x"]}, "plan '../x': a plan's name has"),
        ({"plans": ["a", "A"]}, "plan 'A': this name is used twice"),
        ({"plans": [f"p{place}" for place in range(17)]}, "at most 16 plans"),
    ],
)
def test_names_and_options_are_those_of_any_deployment(
    network: PartitionedNetwork, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    """They are refused before anything is computed or written."""
    plan = partition(network.graph, "rows", [1, 1])
    plans = dict.fromkeys(options.pop("plans", ["default"]), plan)
    with pytest.raises(SpecError, match=re.escape(message)):
        export_graph(network, tmp_path / "d", plans, **{"name": "n", **options})
    assert not (tmp_path / "d").exists()


def test_messages_may_be_rounded(network: PartitionedNetwork, batch: np.ndarray, tmp_path: Path) -> None:
    """A plan with int8 messages is compared with the network without their rounding, and answers with it."""
    plan = partition(network.graph, "rows", [1, 1], "int8")
    export_graph(network, tmp_path / "d", {"default": plan}, name="rounded", engines=["torch"])
    with torch.no_grad():
        turns, inputs = schedule(plan), {plan.inputs[0].name: torch.from_numpy(batch)}
        [wanted] = run_plan(turns, lookup_of(network), inputs).values()
    with threads(tmp_path / "d", engine=partial(_engine, "torch")) as hosts, Session(tmp_path / "d", hosts) as session:
        answer = session.infer(batch)
        assert session.counters().payload_bytes == plan.payload_bytes(len(batch))
    np.testing.assert_allclose(answer, wanted, rtol=0, atol=1e-5 * float(wanted.abs().max()))
    assert 0 < np.abs(answer - whole(network, batch)).max() < 0.1 * float(wanted.abs().max())


def test_traits_that_are_no_facts_are_refused(network: PartitionedNetwork) -> None:
    """A graph's file may say of images what no device can compute with."""
    traits = NetworkTraits(mean=(0.0, 0.0, 0.0), std=(1.0, 0.0, 1.0))
    with pytest.raises(SpecError, match=r"network 'chain': `std.1`: .*greater than 0"):
        graph_facts(network.graph.model_copy(update={"traits": traits}))


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("name", "scheme"), OTHER_FAMILIES)
def test_networks_of_other_families_run_on_workers(name: str, scheme: str, engine: str, tmp_path: Path) -> None:
    """Attention by heads, gates by tiles, clips by rows, up-sampling by channels: exact, with the plan's bytes."""
    torch.manual_seed(0)
    made = SMALL_GRAPHS[name]()
    own = PartitionedNetwork(made.graph(), made.weights).eval()
    plan = partition(own.graph, scheme, [1, 1])
    export_graph(own, tmp_path / "d", {"default": plan}, name=name, engines=[engine])
    dims = own.graph.tensors["image"].dims[1:]
    batch = np.random.default_rng(0).standard_normal((BATCH, *dims), dtype=np.float32)
    with threads(tmp_path / "d", engine=partial(_engine, engine)) as hosts, Session(tmp_path / "d", hosts) as session:
        check_answer(session, plan, own, batch)
