"""int8 in the engine: what is exported, what devices then answer, and what they refuse."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor

from sepnas.deploy.int8 import Int8Calibration, int8_graph
from sepnas.deploy.segments import SegmentExporter, segment_weights
from sepnas.deployment.manifest import Manifest
from sepnas.deployment.onnx_session import open_session
from sepnas.errors import DataError, DeploymentError, SpecError, StorageError
from sepnas.measure.deployed_network import deployed_network
from sepnas.nets.separable import SeparableNetwork
from sepnas.runtime.client.session import Session
from sepnas.runtime.engines.choice import make_engine, usable_engines
from sepnas.runtime.engines.onnx_check import check_onnx_graph
from sepnas.runtime.engines.onnx_engine import Int8OnnxEngine, OnnxEngine
from sepnas.runtime.engines.shard import load_shard
from sepnas.separable.architecture import named_architecture
from sepnas.separable.build import build_plan
from sepnas.separable.layers import device_layers
from tests.cli.test_train_command import error_of, said
from tests.cli.test_train_command import run as run_command
from tests.helpers_runtime import export_tiny, threads
from tests.train.test_data import make_folder

INT8 = "onnxruntime-int8"
ENGINES = ("torch", "onnxruntime", INT8)


def images_of(network: SeparableNetwork, count: int, seed: int = 0) -> Tensor:
    side, channels = network.architecture.image_size, network.architecture.in_channels
    return torch.randn(count, channels, side, side, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def quantised(network: SeparableNetwork, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``network`` as a deployment for all engines; not to be changed."""
    folder = tmp_path_factory.mktemp("int8") / "deployment"
    export_tiny(network, folder, ENGINES, calibration_NCHW=images_of(network, 64))
    return folder


@pytest.mark.parametrize("rank", [0, 1])
def test_an_int8_segment_is_near_and_really_in_8_bits(quantised: Path, network: SeparableNetwork, rank: int) -> None:
    """Weights of convolutions are 8 bits wide; outputs differ from fp32's, by a twentieth of the largest at most."""
    taken = Int8Calibration(network, build_plan(network.architecture), images_of(network, 64))
    shard = load_shard(quantised / f"device{rank}")
    exact, rounded = OnnxEngine(shard), Int8OnnxEngine(shard)
    for name, segment in shard.manifest.segments.items():
        graph = onnx.load(shard.folder / segment.files[INT8]).graph
        values = {each.name: each for each in graph.initializer}
        scaled = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "DequantizeLinear"}
        convolutions = [node for node in graph.node if node.op_type == "Conv"]
        assert not any(node.op_type == "Relu" for node in graph.node)  # the scales cut where it would
        assert bool(convolutions) == any(layer != "head" for layer in segment.layers)
        for node in convolutions:
            assert values[scaled[node.input[1]]].data_type == onnx.TensorProto.INT8
        [x_BCHW] = [tensor.numpy() for tensor in taken.inputs(rank, name).values()]
        [wanted], [found] = exact.run(name, [x_BCHW]), rounded.run(name, [x_BCHW])
        off = np.abs(found - wanted).max() / np.abs(wanted).max()
        assert off < 0.05
        assert (off > 0) == bool(convolutions)
        np.testing.assert_allclose(rounded.run(name, [x_BCHW[:1]])[0], found[:1], atol=1e-5)


@pytest.mark.parametrize("name", ["vgg11_1x8", "mobilenetv2_6x4"])
def test_layers_of_other_families_are_near_in_8_bits(name: str) -> None:
    """Max-pools are computed in 8 bits, and the scales cut where a ReLU or ReLU6 would; the graph passes its check."""
    architecture = named_architecture(name, image_size=16)
    torch.manual_seed(0)
    module = SeparableNetwork(architecture).eval().segment(0, ("block0", "block1"))
    shape = device_layers(architecture, 0)[0].output
    images_BCHW = torch.randn(32, *shape.dims)
    graph = SegmentExporter(("onnxruntime",)).export(module, {"x": shape}, ("y",))["onnxruntime"]
    rounded = int8_graph(graph, list(segment_weights(module).values()), {"x": images_BCHW})
    check_onnx_graph(rounded, {"x": (1, *shape.dims)}, {})
    assert not {"Relu", "Clip"} & {node.op_type for node in onnx.load_model_from_string(rounded).graph.node}
    with torch.no_grad():
        wanted = module(images_BCHW).numpy()
    [found] = open_session(rounded, [], 1).run(None, {"x": images_BCHW.numpy()})
    assert 0 < np.abs(found - wanted).max() < 0.05 * np.abs(wanted).max()


def test_devices_answer_as_the_int8_network_says(quantised: Path, network: SeparableNetwork) -> None:
    """An export measures the accuracy of what workers with the same graphs answer; the network is unchanged."""
    x_BCHW = images_of(network, 3, seed=1)
    with torch.inference_mode():
        exact = network(x_BCHW).numpy()
        wanted = deployed_network(network, quantised, "default", INT8)(x_BCHW).numpy()
        np.testing.assert_array_equal(network(x_BCHW).numpy(), exact)
    with threads(quantised, engine=Int8OnnxEngine) as hosts, Session(quantised, hosts) as session:
        found = session.infer(x_BCHW.numpy())
    np.testing.assert_allclose(found, wanted, atol=1e-4 * np.abs(wanted).max())
    assert np.abs(found - exact).max() > 1e-4 * np.abs(exact).max()


@pytest.mark.slow
def test_int8_is_taken_only_where_it_is_named(quantised: Path, network: SeparableNetwork, tmp_path: Path) -> None:
    """`auto` and no choice give an exact engine; a deployment that has no int8 says how it gets it."""
    shard = load_shard(quantised / "device0")
    assert make_engine(INT8, shard).told == INT8
    assert isinstance(make_engine(INT8, shard).engine, Int8OnnxEngine)
    assert make_engine(None, shard).name == "torch"
    assert make_engine("auto", shard).name != INT8
    export_tiny(network, tmp_path / "d")
    with pytest.raises(
        DeploymentError, match="was exported for torch, not for onnxruntime-int8; export it again with --i"
    ):
        make_engine(INT8, load_shard(tmp_path / "d/device0"))


def test_the_same_network_and_images_are_the_same_deployment(
    quantised: Path, network: SeparableNetwork, tmp_path: Path
) -> None:
    """int8 graphs are the same each time, and others where the images are others; the deployment is the same."""
    for seed in (0, 1):
        export_tiny(network, tmp_path / f"{seed}", ENGINES, calibration_NCHW=images_of(network, 64, seed))
    first, again, other = (
        Manifest.load(each / "manifest.json") for each in (quantised, tmp_path / "0", tmp_path / "1")
    )
    assert first.deployment_id == again.deployment_id == other.deployment_id
    graphs = [name for name in first.files if name.endswith(".int8.onnx")]
    assert graphs
    assert all(first.files[name] == again.files[name] for name in graphs)
    assert any(first.files[name] != other.files[name] for name in graphs)


@pytest.mark.parametrize("shape", [None, (0, 1, 8, 8), (4, 3, 8, 8), (1, 8, 8)])
def test_images_of_another_shape_are_refused(
    network: SeparableNetwork, tmp_path: Path, shape: tuple[int, ...] | None
) -> None:
    """int8 without calibration images, or with those of another network, is named before anything is written."""
    images = None if shape is None else torch.zeros(shape)
    with pytest.raises(SpecError, match=r"int8 needs `calibration_NCHW`, normalised images of shape \(N, "):
        export_tiny(network, tmp_path / "d", ENGINES, calibration_NCHW=images)
    assert not (tmp_path / "d").exists()


def test_memory_bounds_the_images_of_a_large_network(
    network: SeparableNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where all images would not fit, eight at least give what segments take."""
    monkeypatch.setattr("sepnas.deploy.int8._MAX_INPUT_BYTES", 1)
    plan = build_plan(network.architecture)
    calibration = Int8Calibration(network, plan, images_of(network, 64))
    for rank in range(plan.num_devices):
        for name in plan.segments[rank]:
            assert [len(tensor) for tensor in calibration.inputs(rank, name).values()] == [8]


@pytest.mark.slow
def test_export_reports_the_loss_by_int8(tmp_path: Path) -> None:
    """Both accuracies are printed; data of other classes are refused, and nothing is written."""
    folder = make_folder(tmp_path / "images", size=8)
    run, out = tmp_path / "run", tmp_path / "out"
    said("train", "resnext11_2x4d", "-n", 2, "--threads", 1, "--data", f"folder:{folder}", "--out", run, "--epochs", 1)
    output = said("export", run, out, "--engine", "onnxruntime", "--int8")
    assert "validation images right, " in output
    assert output.count("%") == 2
    shard = load_shard(out / "device0")
    assert {file for segment in shard.manifest.segments.values() for file in segment.files} == {"onnxruntime", INT8}
    times = ", ".join(rf"\S+ \w+ in {name}" for name in reversed(usable_engines(shard)))
    assert re.search(f"a pass of device 0 takes {times} here", output)
    assert "differ from those that" not in output
    image = next(folder.glob("train/*/*.png"))
    image.write_bytes(next(folder.glob("test/*/*.png")).read_bytes())
    assert f"its images differ from those that {run} was trained on" in said("export", run, tmp_path / "new", "--int8")
    message = error_of(DataError, "export", run, tmp_path / "other", "--int8", "--data", "digits")
    assert "its 10 classes, '0' first, are not the 2 of" in message
    assert not (tmp_path / "other").exists()


@pytest.mark.slow
def test_options_of_int8_need_int8(tmp_path: Path) -> None:
    """--data alone, a data set that is not there any more, and images of other channels are named with what to do."""
    folder = make_folder(tmp_path / "images", size=8)
    run, out = tmp_path / "run", tmp_path / "out"
    said("train", "resnext11_2x4d", "-n", 2, "--threads", 1, "--data", f"folder:{folder}", "--out", run, "--epochs", 1)
    result = run_command("export", run, out, "--data", "digits")
    assert result.exit_code == 2
    assert "belongs to --int8" in result.output
    folder.rename(tmp_path / "elsewhere")
    message = error_of(DataError, "export", run, out, "--int8")
    assert f"images like those that {run} was trained on (folder:{folder})" in message
    assert "--data (folder:PATH) or --data-root" in message
    output = said("export", run, out, "--int8", "--data", f"folder:{tmp_path / 'elsewhere'}", "--systemd")
    assert "validation images right" in output
    unit = next((out / "device0").glob("*.service")).read_text()
    assert "--engine onnxruntime\n" in unit


def test_a_full_disk_is_named(network: SeparableNetwork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever onnxruntime raises: where its temporary files have no room, the error says so and where."""

    def fail(*arguments: object) -> None:
        raise RuntimeError("Protobuf serialization failed")

    monkeypatch.setattr("sepnas.deploy.int8._fuse", fail)
    with pytest.raises(DeploymentError, match="onnxruntime cannot quantise a segment: RuntimeError: Protobuf"):
        export_tiny(network, tmp_path / "d", ENGINES, calibration_NCHW=images_of(network, 8))
    monkeypatch.setattr("sepnas.deploy.int8._LITTLE_BYTES", 1 << 60)
    with pytest.raises(StorageError, match=r"int8 needs temporary files in .*, where the disk is full"):
        export_tiny(network, tmp_path / "d", ENGINES, calibration_NCHW=images_of(network, 8))
    assert not (tmp_path / "d").exists()
