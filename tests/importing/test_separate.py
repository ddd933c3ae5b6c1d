"""Separating an imported network: the folder it writes, its answers through real devices, and what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from sepnas import api
from sepnas.errors import DataError, PlanError, SepnasError, SpecError, StorageError
from sepnas.nets.graph import load_graph_network
from sepnas.nets.partitioned import load_partitioned
from sepnas.nets.planned import lookup_of, run_plan
from sepnas.nets.trainable import load_trainable
from sepnas.partition.graph import NetworkTraits, load_graph
from sepnas.plan.document import load_plan
from sepnas.plan.schedule import schedule
from sepnas.runtime.client.session import Session
from sepnas.separation.document import Separation
from sepnas.spec.cluster import Cluster, uniform_cluster
from sepnas.testing.graphs import Builder
from sepnas.train.data import load_dataset
from tests.helpers_runtime import worker_processes
from tests.separation.networks import Small, error, small

ENGINES = ("torch", "onnxruntime")


def imported(of: Small, folder: Path) -> Path:
    """The folder of a small network, as an import writes it."""
    folder.mkdir()
    of.graph.save(folder / "graph.json")
    save_file(dict(of.weights), folder / "weights.safetensors")
    return folder


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return imported(small("residual"), tmp_path_factory.mktemp("separate") / "residual")


def test_the_folder_is_a_network_with_a_plan(network: Path, tmp_path: Path) -> None:
    """With all bytes its answers are the original's, in one process and by its plan; both documents can be read."""
    out = tmp_path / "separated"
    found = api.separate(network, out, devices=3)
    assert sorted(path.name for path in out.iterdir()) == [
        "graph.json", "plan.json", "separation.json", "weights.safetensors"
    ]  # fmt: skip
    assert found.payload_bytes == found.exact_bytes == load_plan(out / "plan.json").payload_bytes()
    assert found.deviation <= 1e-5
    x, of = small("residual").x, load_graph_network(network)
    with torch.no_grad():
        assert error(load_graph_network(out)(x), of(x)) <= 1e-5
        [planned] = run_plan(
            schedule(load_plan(out / "plan.json")), lookup_of(load_partitioned(out)), {"image": x}
        ).values()
        assert error(planned, of(x)) <= 1e-5
    assert Separation.load(out / "separation.json") == found.separation


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "devices", "tiles_until", "wire"),
    [
        ("residual", 2, "none", "fp32"), ("residual", 2, "none", "int8"), ("residual", 2, "none", "auto"),
        ("separable", 4, "hardswish6", "int8"), ("separable", 3, "hardswish2", "auto"),
    ],
)  # fmt: skip
def test_real_devices_answer_as_the_plan_in_one_process(
    tmp_path: Path, name: str, devices: int, tiles_until: str, wire: str
) -> None:
    """Worker processes of both engines: the answers of the rounded network, and the predicted bytes."""
    out, deployment, of = tmp_path / "separated", tmp_path / "deployment", small(name)
    network = imported(of, tmp_path / "network")
    found = api.separate(network, out, devices=devices, budget=0.15, tiles_until=tiles_until, wire=wire)
    assert any(each.mixtures for each in found.separation.crossings)
    assert (found.separation.tiles is None) == (tiles_until == "none")
    api.export(out, deployment, plan=out / "plan.json", engines=ENGINES)
    x = of.x
    with torch.no_grad():
        [wanted] = run_plan(schedule(found.plan), lookup_of(load_partitioned(out)), {"image": x}).values()
        assert error(load_trainable(out)(x), wanted) <= 1e-6
    for engine in ENGINES:
        with (
            worker_processes(deployment, devices, engine) as (_, hosts),
            Session(deployment, hosts, timeout_s=60) as session,
        ):
            answer = session.infer(x.numpy())
            assert session.counters().payload_bytes == found.payload_bytes
        np.testing.assert_allclose(answer, wanted, rtol=1e-4, atol=1e-4 * float(wanted.abs().max()))


def test_the_usual_tiles_suit_the_cluster(tmp_path: Path) -> None:
    """Tiles where they are nearly the fastest; none where links are missing, or by choice."""
    network, x = imported(small("separable"), tmp_path / "network"), small("separable").x

    def tiles_for(cluster: Cluster, tiles_until: str = "auto") -> str | None:
        found = api.separate(
            network, tmp_path / "separated", cluster=cluster, budget=0.2, tiles_until=tiles_until, force=True
        ).separation
        return found.tiles and found.tiles.tensor

    quick = uniform_cluster(3, latency_s=1e-5, bandwidth_bytes_per_s=1e6)
    assert tiles_for(quick) == "hardswish2"
    chosen = Separation.load(tmp_path / "separated" / "separation.json")
    assert tiles_for(quick, "hardswish2") == "hardswish2"
    assert Separation.load(tmp_path / "separated" / "separation.json") == chosen
    assert tiles_for(quick, "none") is None
    assert tiles_for(Cluster(name="unlinked", devices=quick.devices, links=())) is None
    exact = api.separate(network, tmp_path / "exact", cluster=quick)
    with torch.no_grad():
        assert error(load_graph_network(tmp_path / "exact")(x), load_graph_network(network)(x)) <= 1e-5
    assert exact.payload_bytes <= exact.exact_bytes
    assert not exact.repeated_layers


def test_usual_tiles_leave_enough_channels_behind(tmp_path: Path) -> None:
    """Without enough for all devices there are no tiles; asked for by name, they are refused. One device needs none."""
    made = Builder(3, 32, 32)
    made.conv(8, 3, padding=(1, 1))
    made.then("relu")
    made.conv(3, 3, padding=(1, 1))
    made.head(2)
    network = imported(Small(made.graph(), made.weights), tmp_path / "network")
    assert api.separate(network, tmp_path / "four", devices=4).separation.tiles is None
    assert api.separate(network, tmp_path / "one", devices=1).separation.tiles is None
    with pytest.raises(PlanError, match="for 4 devices behind the tiles, which end with 'relu1': layer 'conv2' has"):
        api.separate(network, tmp_path / "refused", devices=4, tiles_until="relu1")


def test_fast_devices_get_more_channels(network: Path, tmp_path: Path) -> None:
    """Channels are given out by the speeds of a cluster's devices."""
    equal = uniform_cluster(2)
    fast = equal.devices[0].model_copy(update={"flops_per_s": 3 * equal.devices[0].flops_per_s})
    cluster = Cluster(name="uneven", devices=(fast, equal.devices[1]), links=equal.links)
    found = api.separate(network, tmp_path / "separated", cluster=cluster)
    assert [np.bincount(space.devices).tolist() for space in found.separation.spaces] == [[18, 6]] * 3


def test_the_same_seed_gives_the_same_folder(network: Path, tmp_path: Path) -> None:
    """File for file."""
    for name in ("a", "b"):
        api.separate(network, tmp_path / name, devices=3, budget=0.2, seed=7)
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()


def test_what_cannot_be_separated_is_refused(network: Path, tmp_path: Path) -> None:
    """A network without weights or that is separated already, an unknown format, too many devices, too few bytes."""
    out = tmp_path / "separated"
    bare = tmp_path / "bare"
    bare.mkdir()
    load_graph(network).save(bare / "graph.json")
    for arguments, kind, message in (
        ({"network": bare, "devices": 2}, SpecError, r"weights\.safetensors: no such file"),
        ({"devices": 2, "tiles_until": "relu9"}, SpecError, "the tiles cannot end with 'relu9'; they may with none"),
        ({"devices": 2, "wire": "int7"}, SpecError, "`wire=` 'int7': allowed are auto, fp32"),
        ({"devices": 2, "read_out": 2}, SpecError, r"`read_out=` 2: must be one of 0\.\.1"),
        ({"devices": 40}, PlanError, "too few channels for 40 devices: layer 'conv0' has most, 24"),
        ({"devices": 2, "budget": 1e-4}, SpecError, r"a budget of \d+ bytes is \d+ short of the 48"),
        ({}, SpecError, "give the number of `devices`, or a `cluster`"),
        ({"devices": 2, "data": "digits"}, DataError, "takes no images whose mean and standard deviation are known"),
    ):
        with pytest.raises(kind, match=message):
            api.separate(**{"network": network, "out": out, **arguments})  # type: ignore[arg-type]
        assert not out.exists()
    api.separate(network, out, devices=2, budget=0)
    with pytest.raises(SpecError, match="is separated already"):
        api.separate(out, tmp_path / "again", devices=2)
    with pytest.raises(StorageError, match="a network stands there already"):
        api.separate(network, out, devices=2)
    api.separate(network, out, devices=2, force=True)
    weights = load_file(out / "weights.safetensors")
    assert set(load_graph(out).weights) == set(weights)


def network_of_digits() -> Small:
    """A network for images of digits, with the normalisation that it says."""
    torch.manual_seed(0)
    made = Builder(1, 8, 8)
    made.conv(8, 3, padding=(1, 1))
    made.then("relu")
    made.conv(8, 3, padding=(1, 1))
    made.then("relu")
    made.head(10)
    traits = NetworkTraits(mean=(0.5,), std=(0.5,), size=(8, 8))
    return Small(made.graph().model_copy(update={"traits": traits}), made.weights)


def test_images_change_what_is_sent(tmp_path: Path) -> None:
    """Images of a data set are measured by the network's own preparation; with all mixtures they change no answer."""
    folder = imported(network_of_digits(), tmp_path / "network")
    plain = api.separate(folder, tmp_path / "a", devices=2, budget=0.3)
    measured = api.separate(folder, tmp_path / "b", devices=2, budget=0.3, data="digits", images=8)
    assert plain.separation != measured.separation
    assert plain.exact_bytes == measured.exact_bytes
    exact = api.separate(folder, tmp_path / "c", devices=2, data="digits", images=8)
    assert exact.deviation <= 1e-5
    assert exact.payload_bytes == api.separate(folder, tmp_path / "d", devices=2).payload_bytes


def test_images_bring_the_answers_closer(tmp_path: Path) -> None:
    """For the same bytes, the answers on other images of the data set differ less from the network's."""
    of = network_of_digits()
    folder = imported(of, tmp_path / "network")
    images = (load_dataset("digits").val.images[:50] / 255 - 0.5) / 0.5
    errors = []
    for name, data in (("blind", None), ("seeing", "digits")):
        api.separate(folder, tmp_path / name, devices=2, budget=0.3, wire="fp32", data=data, images=64)
        with torch.no_grad():
            errors.append(error(load_trainable(tmp_path / name)(images), load_trainable(folder)(images)))
    assert errors[1] < 0.5 * errors[0]


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"budget": 2}, "budget"), ({"exchange_points": -1}, "exchange_points"), ({"wire": "int3"}, "wire"),
        ({"messages": "all"}, "messages"), ({"read_out": 2}, "read_out"), ({"seed": -1}, "seed"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_before_images_are_read(
    network: Path, tmp_path: Path, wrong: dict[str, Any], named: str
) -> None:
    """Nobody waits for a data set to be read before a wrong argument is refused."""
    absent = f"folder:{tmp_path / 'absent'}"
    for call in (api.separate, api.separate_and_train):
        with pytest.raises(SepnasError, match=named):
            call(network, tmp_path / "out", data=absent, devices=2, **wrong)
    assert not (tmp_path / "out").exists()


def test_few_messages_are_fewer(network: Path, tmp_path: Path) -> None:
    """With the latency of links as a message's cost, some are left out; their bytes go to others."""
    slow = uniform_cluster(3, latency_s=0.1)
    any_, few = (
        api.separate(network, tmp_path / each, cluster=slow, budget=0.1, tiles_until="none", messages=each)
        for each in ("any", "few")
    )
    assert len(few.plan.transfers()) < len(any_.plan.transfers())
    assert few.payload_bytes >= 0.5 * any_.payload_bytes
    with pytest.raises(SpecError, match="`messages` must be one of any, few, got 'all'"):
        api.separate(network, tmp_path / "all", devices=3, messages="all")  # type: ignore[arg-type]
    assert not (tmp_path / "all").exists()
