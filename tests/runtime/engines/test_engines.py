"""Engines: onnxruntime computes what torch computes, without torch, and a worker takes the faster."""

import json
import re
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from PIL import Image

from sepnas.deploy.export import export_deployment
from sepnas.deploy.onnx_graphs import TOLERANCE
from sepnas.deployment.engines.registry import engines
from sepnas.deployment.onnx_session import open_session
from sepnas.errors import DeploymentError, SpecError
from sepnas.local.processes import Launch, LocalWorkers
from sepnas.plan.steps import Compute
from sepnas.runtime.client.bench import random_batch
from sepnas.runtime.client.session import Session
from sepnas.runtime.engines.choice import make_engine, pass_s, usable_engines
from sepnas.runtime.engines.denormals import flush_denormals
from sepnas.runtime.engines.onnx_engine import OnnxEngine
from sepnas.runtime.engines.shard import load_shard
from sepnas.runtime.engines.torch_engine import TorchEngine
from tests.helpers_runtime import export_tiny, threads

ROOT = Path(__file__).resolve().parents[3]


def assert_near(found, wanted):
    assert np.abs(found - wanted).max() <= TOLERANCE * max(1.0, np.abs(wanted).max())


@pytest.mark.parametrize("rank", [0, 1])
def test_onnxruntime_computes_what_torch_computes(exported, rank):
    """Each segment gives the same within a ten-thousandth, for any batch; its batch norms are those of the weights."""
    shard = load_shard(exported / f"device{rank}")
    engines = TorchEngine(shard), OnnxEngine(shard)
    for step in shard.first.program:
        if isinstance(step, Compute):
            shape = shard.first.shapes[step.inputs[0]]
            for batch in (1, 3):
                x_BCHW = np.random.default_rng(batch).random((batch, *shape.dims), "f4")
                wanted, found = (engine.run(step.segment, [x_BCHW])[0] for engine in engines)
                assert found.dtype == np.float32
                assert_near(found, wanted)


def test_a_graph_holds_neither_weights_nor_its_origin(exported):
    """An .onnx file has initializers whose data lie elsewhere, and nothing of the machine that exported it."""
    shard = load_shard(exported / "device0")
    for segment in shard.manifest.segments.values():
        path = shard.folder / segment.files["onnxruntime"]
        graph = onnx.load(path, load_external_data=False).graph
        weights = [each for each in graph.initializer if each.data_location == TensorProto.EXTERNAL]
        assert [each.name for each in weights] == [f"w:{index}" for index in range(len(segment.weights))]
        assert not any(each.raw_data for each in weights)
        assert path.stat().st_size < 10_000
        assert b"sepnas" not in path.read_bytes()
        assert b"site-packages" not in path.read_bytes()


def test_devices_of_both_engines_answer_together(exported, network):
    """Workers with onnxruntime give the network's own answers, and so do those with torch."""
    for engine in (OnnxEngine, TorchEngine):
        with threads(exported, engine=engine) as hosts, Session(exported, hosts) as session:
            images = random_batch(session.manifest, 2)
            found = session.infer(images)
        import torch

        with torch.inference_mode():
            wanted = network(torch.from_numpy(images)).numpy()
        assert_near(found, wanted)


def test_a_worker_with_onnxruntime_has_no_torch(exported):
    """A worker process with `--engine onnxruntime` answers, and has not a library of torch in its memory."""
    launches = [Launch(options=("--engine", "onnxruntime"))] * 2
    with LocalWorkers(exported, 2, launches) as workers, Session(exported, workers.hosts) as session:
        assert session.infer(random_batch(session.manifest, 1)).shape == (1, 5)
        for worker in workers._workers:
            maps = Path(f"/proc/{worker.process.pid}/maps").read_text()
            assert "onnxruntime" in maps
            assert "libtorch" not in maps


def test_auto_takes_the_faster_and_says_so(exported):
    """`auto` names the times of all exact engines, of which its engine's is the least, and that engine works."""
    shard = load_shard(exported / "device0")
    chosen = make_engine("auto", shard)
    name, _, told = chosen.told.partition(": ")
    times = {words.split()[-1]: float(words.split()[0]) for words in told.split(", ")}
    assert [*times] == usable_engines(shard)
    assert name == chosen.name
    assert times[name] == min(times.values())
    assert isinstance(chosen.engine, TorchEngine if name == "torch" else OnnxEngine)
    assert pass_s(chosen.engine, shard) > 0


CRASHES = {
    "ended by SIGILL": "import os, signal; os.kill(os.getpid(), signal.SIGILL)",
    "ended by SIGSEGV": "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)",
    "cannot be loaded: no such library": "raise ImportError('no such library')",
}


@pytest.mark.parametrize(
    "says", [pytest.param(each, marks=pytest.mark.slow if "SIG" in each else ()) for each in CRASHES]
)
def test_auto_survives_an_engine_that_cannot_load(says, exported, tmp_path, monkeypatch):
    """An engine whose import fails, or ends the process, is passed over with the reason."""
    shard = load_shard(exported / "device0")
    others = [name for name in usable_engines(shard) if name != "torch"]
    for name in others:
        (tmp_path / f"{engines()[name].package}.py").write_text(CRASHES[says])
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    chosen = make_engine("auto", shard)
    failed = "; ".join(rf"{name} does not run here \(.*{says}.*\)" for name in others)
    assert re.fullmatch(f"torch: {failed}", chosen.told)


def test_an_engine_that_cannot_load_is_an_error_of_ours(exported, tmp_path, monkeypatch):
    """A named engine whose import fails, and `auto` where none loads, say which engine and why."""
    shard = load_shard(exported / "device0")
    for name in usable_engines(shard):
        (tmp_path / f"{engines()[name].package}.py").write_text(CRASHES["cannot be loaded: no such library"])
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(
        DeploymentError, match=r"no engine runs here: torch: .* no such lib.*; onnxruntime: .* no such lib"
    ):
        make_engine("auto", shard)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "onnxruntime", raising=False)
    with pytest.raises(DeploymentError, match="onnxruntime is installed, and cannot be loaded: no such library"):
        make_engine("onnxruntime", shard)


def test_an_engine_that_is_not_there_is_named(network, exported, tmp_path, monkeypatch):
    """An unknown engine, one that was not exported and one that is not installed are refused with what to do."""
    shard = load_shard(exported / "device0")
    assert make_engine(None, shard).told == "torch"
    with pytest.raises(
        DeploymentError, match="engine 'tvm' is unknown; allowed: torch, onnxruntime, litert, onnxruntime-int8, auto"
    ):
        make_engine("tvm", shard)
    export_tiny(network, tmp_path / "one")
    one = load_shard(tmp_path / "one/device0")
    assert not list((tmp_path / "one").rglob("*.onnx"))
    says = "was exported for torch, not for onnxruntime; export it again with --engine onnxruntime, or start"
    with pytest.raises(DeploymentError, match=says):
        make_engine("onnxruntime", one)
    assert make_engine("auto", one).told == "torch, the only one here"
    monkeypatch.setattr("sepnas.runtime.engines.choice._installed", lambda name: name == "torch")
    with pytest.raises(DeploymentError, match=r"not installed: pip install 'sepnas\[onnxruntime\]'"):
        make_engine("onnxruntime", shard)
    assert make_engine("auto", shard).name == "torch"
    monkeypatch.setattr("sepnas.runtime.engines.choice._installed", lambda name: name == "onnxruntime")
    assert make_engine(None, shard).name == "onnxruntime"
    monkeypatch.setattr("sepnas.runtime.engines.choice._installed", lambda name: False)
    for choice in ("auto", None):
        with pytest.raises(DeploymentError, match="runs in torch or onnxruntime or litert, which is not installed"):
            make_engine(choice, shard)
    with pytest.raises(
        SpecError,
        match=r"one or more of torch, onnxruntime, litert, onnxruntime-int8, got \['tvm'\]",
    ):
        export_tiny(network, tmp_path / "none", engines=("tvm",))


def test_denormals_are_zeros_in_the_thread_that_asks():
    """After the switch a thread's denormals are zeros, and those of others are not."""
    tiny = np.full(8, 1e-40, np.float32)
    found = []

    def ask():
        found.append(float((tiny * np.float32(0.5)).max()))
        assert flush_denormals()
        found.append(float((tiny * np.float32(0.5)).max()))
        assert flush_denormals(False)
        found.append(float((tiny * np.float32(0.5)).max()))

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    assert found == [pytest.approx(5e-41, rel=1e-3), 0.0, pytest.approx(5e-41, rel=1e-3)]
    assert (tiny * np.float32(0.5)).max() > 0


def test_a_shard_that_no_engine_can_run_is_named(exported):
    """Where each engine has a file of some segments only, the error says so."""
    shard = load_shard(exported / "device0")
    files = [{"torch": "a.pt2"}, *[{"onnxruntime": "a.onnx"}] * (len(shard.manifest.segments) - 1)]
    segments = {
        name: segment.model_copy(update={"files": some})
        for (name, segment), some in zip(shard.manifest.segments.items(), files, strict=True)
    }
    mixed = replace(shard, manifest=shard.manifest.model_copy(update={"segments": segments}))
    for choice in ("torch", "auto", None):
        with pytest.raises(DeploymentError, match="no engine has a file of every segment"):
            make_engine(choice, mixed)


def test_what_onnxruntime_cannot_read_is_named(exported, tmp_path):
    """A graph that is none ends in an error of ours with the file's name."""
    shard = load_shard(exported / "device0")
    for segment in shard.manifest.segments.values():
        path = tmp_path / segment.files["onnxruntime"]
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"no graph")
    with pytest.raises(DeploymentError, match=r"segments/.*\.onnx: onnxruntime cannot read this segment"):
        OnnxEngine(replace(shard, folder=tmp_path))


def test_a_graph_reads_no_other_file(tmp_path, monkeypatch):
    """An initializer whose data lie in a file somewhere else is refused, however its graph came to a device."""
    (tmp_path / "secret").write_bytes(bytes(16))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    stolen = TensorProto(name="stolen", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    stolen.external_data.add(key="location", value="../secret")
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [4]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Add", ["x", "stolen"], ["y"])], "g", values[:1], values[1:], [stolen])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    with pytest.raises(Exception, match="External data path"):
        open_session(model.SerializeToString(), [], 1)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("engine", ["onnxruntime", "litert"])
def test_a_device_needs_no_torch(engine, network, tmp_path):
    """In an environment with the base install and one light engine alone, two workers and a client do their work."""
    export_deployment(
        network, tmp_path / "d", name="light", classes=tuple("abcde"), mean=(0.5,), std=(0.5,), engines=("onnxruntime",)
    )
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", venv], check=True)
    python = venv / "bin/python"
    install = [python, "-m", "pip", "install", "-q", "-c", ROOT / "constraints.txt", f"{ROOT}[{engine}]"]
    subprocess.run(install, check=True, cwd=tmp_path)
    assert subprocess.run([python, "-c", "import torch"], capture_output=True, cwd=tmp_path).returncode
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(tmp_path / "image.png")
    launches = [Launch(options=("--engine", "auto"))] * 2
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "executable", str(python))
        patch.chdir(tmp_path)
        with LocalWorkers(tmp_path / "d", 2, launches) as workers:
            workers.hosts.save(tmp_path / "hosts.yaml")
            command = [python, "-m", "sepnas", "infer", "d", "image.png", "--devices", "hosts.yaml", "--json"]
            done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)[0]["classes"]) == 3
