"""A plan that no front end wrote, on real workers: segments of several inputs and outputs, slices, pieces, regions."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sepnas.deploy.int8 import Int8Calibration
from sepnas.deploy.playthrough import segment_inputs
from sepnas.deploy.shard_writer import NamedPlan
from sepnas.deploy.writer import DeploymentWriter
from sepnas.deployment.engines.registry import engines
from sepnas.deployment.network_facts import ImageInput, InputFacts, NetworkFacts, OutputFacts
from sepnas.deployment.plans import DEFAULT_PLAN
from sepnas.deployment.serial import deployed_plan
from sepnas.deployment.verify import verify_deployment
from sepnas.nets.blocks import conv_bn
from sepnas.nets.planned import lookup_of, run_plan
from sepnas.plan.plan import Piece, Plan, Port, Segment, WeightSlice
from sepnas.plan.schedule import schedule
from sepnas.plan.serial import shape_to_data
from sepnas.plan.shapes import Region, Shape
from sepnas.plan.steps import CLIENT, Compute, Merge, Recv, Send, Slice
from sepnas.plan.validation import check_plan
from sepnas.runtime.client.session import Session
from sepnas.runtime.engines.choice import make_engine, usable_engines
from sepnas.runtime.engines.shard import Shard, load_shard
from sepnas.runtime.engines.torch_engine import Engine
from sepnas.runtime.tensors.codec import normalise
from tests.helpers_runtime import threads, tiny_architecture

IMAGE, MAPS, CLASSES = Shape.chw(1, 8, 8), Shape.chw(4, 8, 8), 5
TOP, LOW = Shape.chw(4, 4, 8), Shape.chw(1, 6, 8)
LOGITS = Shape.vector(CLASSES)
ENGINES = [*engines()]


class Split(nn.Module):
    """Two feature maps of one image: two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = conv_bn(1, 4, 3), conv_bn(1, 4, 3)

    def forward(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        return torch.relu(self.one(x_BCHW)), self.two(x_BCHW)


class Join(nn.Module):
    """Feature maps and an image: two inputs, of different channels."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = conv_bn(1, 4, 3)

    def forward(self, x_BCHW: Tensor, u_BCHW: Tensor) -> Tensor:
        return torch.relu(self.layer(x_BCHW) + u_BCHW)


class Read(nn.Module):
    """The logits of two feature maps."""

    def __init__(self) -> None:
        super().__init__()
        self.classifier = nn.Linear(4, CLASSES)

    def forward(self, u_BCHW: Tensor, w_BCHW: Tensor) -> Tensor:
        logits: Tensor = self.classifier(torch.relu(u_BCHW + w_BCHW).mean((2, 3)))
        return logits


class HandMade(nn.Module):
    """The whole network, and its layers by the names that the plan gives them."""

    def __init__(self) -> None:
        super().__init__()
        self.split, self.join, self.read = Split(), Join(), Read()
        self.architecture = tiny_architecture([], devices=2)  # for the manifest: how many devices and classes

    def forward(self, x_BCHW: Tensor) -> Tensor:
        u, v = self.split(x_BCHW)
        z = self.join(x_BCHW, u)
        return self.read(u, torch.cat((v[:, :, :4], z[:, :, 4:]), 2))  # type: ignore[no-any-return]

    def segment(self, rank: int, layers: tuple[str, ...]) -> nn.Module:
        [layer] = layers
        return {"split": self.split, "join": self.join, "read": self.read}[layer]

    def merge_weights(self, rank: int) -> dict[str, Tensor]:
        return {}

    def scale(self, name: str) -> Tensor:
        return torch.tensor({"maps": 0.25}[name])


def hand_made_plan(network: HandMade, there: str = "fp32", back: str = "fp32", scale: str | None = None) -> Plan:
    """Device 0 splits, device 1 joins the lower rows, device 0 assembles both and answers.

    For its four rows device 1 is sent six of the image and of the maps: a halo. It is sent them as bytes, and device 0
    the whole image in fp32. ``there`` and ``back`` are wire formats, ``scale`` names the learned step of messages to
    device 1.
    """

    def segment(name: str, rank: int, layer: str, inputs: tuple[str, ...], outputs: tuple[str, ...]) -> Segment:
        module = getattr(network, layer)
        weights = tuple(
            WeightSlice(f"{layer}.{key}", Region(tuple((0, size) for size in tensor.shape)))
            for key, tensor in (*module.named_parameters(), *module.named_buffers())
            if not key.endswith("num_batches_tracked")
        )
        stored = sum(weight.region.num_values for weight in weights)
        return Segment(name, rank, (layer,), 1000, 1, 4 * stored, 4096, (), weights, inputs, outputs)

    rows = Region(((0, 4), (4, 8), (0, 8)))
    lower = Region(((0, 1), (2, 8), (0, 8)))
    halo = Region(((0, 4), (2, 8), (0, 8)))
    first = (
        Recv(0, CLIENT, "x"),
        Compute("a", ("x",), ("u", "v")),
        Send("u", halo, there, 1, 2, scale),
        Slice("v", Region(((0, 4), (0, 4), (0, 8))), "top"),
        Recv(3, 1, "r"),
        Merge("assemble", ("top", "r"), "w", offsets=((0, 0, 0), (0, 4, 0))),
        Compute("b", ("u", "w"), ("y",)),
        Send("y", Region.whole(LOGITS), "fp32", CLIENT, 4),
    )
    second = (
        Recv(1, CLIENT, "x"),
        Recv(2, 0, "u"),
        Compute("c", ("x", "u"), ("z",)),
        Send("z", Region(((0, 4), (2, 6), (0, 8))), back, 0, 3),
    )
    image = Port("image", IMAGE, (Piece(Region.whole(IMAGE), 0, 0), Piece(lower, 1, 1, "uint8")))
    wide = halo.shape(MAPS)
    return Plan(
        programs=(first, second),
        segments=(
            {
                "a": segment("a", 0, "split", ("image",), ("plain", "raw")),
                "b": segment("b", 0, "read", ("left", "right"), ("logits",)),
            },
            {"c": segment("c", 1, "join", ("image", "maps"), ("joined",))},
        ),
        shapes=(
            {"x": IMAGE, "u": MAPS, "v": MAPS, "top": TOP, "r": rows.shape(MAPS), "w": MAPS, "y": LOGITS},
            {"x": LOW, "u": wide, "z": wide},
        ),
        inputs=(image,),
        outputs=(Port.whole("logits", LOGITS, (0, 4)),),
    )


@pytest.fixture(scope="module")
def network() -> HandMade:
    torch.manual_seed(0)
    found = HandMade()
    for name, tensor in found.named_buffers():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 2.0)
    return found.eval()


def deploy(network: HandMade, folder: Path, plan: Plan, *engine_names: str) -> Path:
    check_plan(plan)
    images, kinds = torch.randn(40, 1, 8, 8), tuple(engines()[name] for name in engine_names)
    named = NamedPlan(DEFAULT_PLAN, plan, network, Int8Calibration(network, plan, images))
    writer = DeploymentWriter(network, [named], folder, "hand-made", 1.0, lambda *_: None, kinds)
    image = ImageInput(channels=1, height=8, width=8, mean=(0.25,), std=(0.5,))
    facts = NetworkFacts(
        inputs={"image": InputFacts(shape=shape_to_data(IMAGE), image=image)},
        outputs={"logits": OutputFacts(shape=shape_to_data(LOGITS), classes=tuple("abcde"))},
    )
    writer.write(facts, None)
    return folder


@pytest.fixture(scope="module")
def deployment(network: HandMade, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Exported by its plan, which names the layers and their weights."""
    return deploy(network, tmp_path_factory.mktemp("hand-made"), hand_made_plan(network), *ENGINES)


@pytest.fixture(scope="module")
def batch() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((3, 1, 8, 8), dtype=np.float32)


@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize("engine", ENGINES)
def test_workers_compute_what_the_whole_network_computes(
    engine: str, normalised: bool, network: HandMade, deployment: Path, batch: np.ndarray
) -> None:
    """Each engine runs segments of several named inputs and outputs; a device is sent only its rows of the image."""
    images = np.random.default_rng(0).integers(0, 256, batch.shape, np.uint8)
    if not normalised:
        batch = normalise(images, np.float32([[0.25], [0.5]]))
    with torch.inference_mode():
        whole = network(torch.from_numpy(batch)).numpy()
    if engine not in usable_engines(load_shard(deployment / "device0")):
        pytest.skip(f"{engine} is not installed")
    with threads(deployment, engine=partial(_engine, engine)) as hosts, Session(deployment, hosts) as session:
        answer = session.infer(batch if normalised else images)
        counters = session.counters()
    tolerance = 0.1 if engine == "onnxruntime-int8" else 1e-5
    assert np.abs(answer - whole).max() <= tolerance * np.abs(whole).max()
    assert np.isfinite(answer).all()
    plan = deployed_plan(deployment)
    assert counters.payload_bytes == plan.payload_bytes(len(batch))
    given = {link.destination: link.sent.payload_bytes for link in counters.links if link.source == CLIENT}
    assert given == {0: 4 * 64 * len(batch), 1: (4 if normalised else 1) * 48 * len(batch)}
    if not normalised:
        assert counters.total_bytes == plan.total_bytes(len(batch))


def _engine(name: str, shard: Shard, threads: int) -> Engine:
    return make_engine(name, shard, threads).engine


def test_the_plan_of_a_deployment_is_the_one_it_was_cut_by(network: HandMade, deployment: Path) -> None:
    """The deployment's own plan file is the plan, and every listed file is as it was written."""
    assert deployed_plan(deployment) == hand_made_plan(network)
    assert verify_deployment(deployment).working == (0, 1)


def test_a_plan_says_what_segments_take(network: HandMade, batch: np.ndarray) -> None:
    """Played through in one process, each segment takes its tensors by the names in its graph."""
    plan = hand_made_plan(network)
    taken = segment_inputs(plan, network, {"image": torch.from_numpy(batch)}, 0)
    assert {name: list(each) for name, each in taken.items()} == {"a": ["image"], "b": ["left", "right"]}
    with torch.inference_mode():
        found = network.read(*taken["b"].values())
        np.testing.assert_allclose(found, network(torch.from_numpy(batch)), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("there", "back", "scale"), [("fp32", "fp32", None), ("int8", "fp16", None), ("int4", "int2", "maps")]
)
def test_one_process_computes_what_workers_compute(
    there: str, back: str, scale: str | None, network: HandMade, batch: np.ndarray, tmp_path: Path
) -> None:
    """Executed differentiably, the plan gives the workers' answer, quantised messages included."""
    plan = hand_made_plan(network, there, back, scale)
    deploy(network, tmp_path / "d", plan, "torch")
    with threads(tmp_path / "d") as hosts, Session(tmp_path / "d", hosts) as session:
        answer = session.infer(batch)
    found = run_plan(schedule(plan), lookup_of(network), {"image": torch.from_numpy(batch)})["logits"]
    assert np.abs(answer - found.detach().numpy()).max() <= 1e-5 * np.abs(answer).max()
    found.sum().backward()  # type: ignore[no-untyped-call]
    assert all(weight.grad is not None for weight in network.join.parameters())
    network.zero_grad()
