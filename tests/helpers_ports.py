"""A network of two inputs and two outputs over two devices, its plan, and its deployment."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from sepnas.deploy.shard_writer import NamedPlan
from sepnas.deploy.writer import DeploymentWriter
from sepnas.deployment.engines.registry import engines
from sepnas.deployment.network_facts import ImageInput, InputFacts, NetworkFacts, OutputFacts
from sepnas.deployment.plans import DEFAULT_PLAN
from sepnas.nets.blocks import conv_bn
from sepnas.plan.plan import Piece, Plan, Port, Segment, WeightSlice
from sepnas.plan.serial import shape_to_data
from sepnas.plan.shapes import Region, Shape
from sepnas.plan.steps import CLIENT, Compute, Merge, Recv, Send, Slice
from sepnas.plan.wire import PIXELS

IMAGE, SOUND = Shape.chw(1, 6, 10), Shape((2, 7, 3), "CTF")
MAPS, EMBEDDING = Shape.chw(4, 6, 10), Shape.vector(5)
UPPER, LOWER = ((0, 1), (0, 4), (0, 10)), ((0, 1), (2, 6), (0, 10))
"""The rows of the image that each device is sent: three of its own and a halo of one."""
TILE = Shape.chw(1, 4, 10)
TILE_MAPS, HALF = Shape.chw(4, 4, 10), Shape.chw(4, 3, 10)


class Maps(nn.Module):
    """Feature maps of an image, of the same height and width."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = conv_bn(1, 4, 3)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return torch.relu(self.layer(x_BCHW))


class Embed(nn.Module):
    """A vector of a sound: channels, time, frequency."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.last = conv_bn(2, 3, 3), nn.Linear(3, 5)

    def forward(self, x_BCTF: Tensor) -> Tensor:
        vector: Tensor = self.last(torch.relu(self.layer(x_BCTF)).mean((2, 3)))
        return vector


class Join(nn.Module):
    """A vector of feature maps and a vector."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(4, 5)

    def forward(self, x_BCHW: Tensor, e_BC: Tensor) -> Tensor:
        vector: Tensor = self.last(x_BCHW.mean((2, 3))) + e_BC
        return vector


class TwoByTwo(nn.Module):
    """Takes an image and a sound; makes feature maps of the image and an embedding of both."""

    def __init__(self) -> None:
        super().__init__()
        self.maps, self.embed, self.join = Maps(), Embed(), Join()

    def forward(self, image_BCHW: Tensor, sound_BCTF: Tensor) -> tuple[Tensor, Tensor]:
        maps, embedding = self.maps(image_BCHW), self.embed(sound_BCTF)
        return maps, (embedding + self.join(maps[:, :, 3:], embedding)) / 2

    def segment(self, rank: int, layers: tuple[str, ...]) -> nn.Module:
        [layer] = layers
        return {"maps": self.maps, "embed": self.embed, "join": self.join}[layer]

    def merge_weights(self, rank: int) -> dict[str, Tensor]:
        return {}

    def scale(self, name: str) -> Tensor:
        raise AssertionError(name)


def two_by_two(seed: int = 0) -> TwoByTwo:
    torch.manual_seed(seed)
    return TwoByTwo().eval()


def plan_of(network: TwoByTwo) -> Plan:
    """Each device makes one half of the maps; device 1 answers with the mean of the embeddings of both.

    Device 0 has an embedding of its own, which is a fallback.
    """
    top, low = Region(((0, 4), (0, 3), (0, 10))), Region(((0, 4), (3, 6), (0, 10)))
    whole = Region.whole(EMBEDDING)
    first = (
        Recv(0, CLIENT, "x"),
        Compute("maps", ("x",), ("u",)),
        Send("u", top, "fp32", CLIENT, 3),
        Recv(1, CLIENT, "sound"),
        Compute("embed", ("sound",), ("e",)),
        Send("e", whole, "fp32", 1, 4),
    )
    second = (
        Recv(2, CLIENT, "x"),
        Compute("maps", ("x",), ("u",)),
        Slice("u", Region(((0, 4), (1, 4), (0, 10))), "low"),
        Recv(5, CLIENT, "sound"),
        Compute("embed", ("sound",), ("e",)),
        Compute("join", ("low", "e"), ("own",)),
        Recv(4, 0, "theirs"),
        Merge("mean", ("own", "theirs"), "y"),
        Send("low", Region.whole(HALF), "fp32", CLIENT, 6),
        Send("y", whole, "fp32", CLIENT, 7),
    )
    segments = {
        "maps": _segment(network, "maps", ("image",), ("maps",)),
        "embed": _segment(network, "embed", ("sound",), ("vector",)),
        "join": _segment(network, "join", ("maps", "vector"), ("joined",)),
    }
    return Plan(
        programs=(first, second),
        segments=(
            {name: segments[name](0) for name in ("maps", "embed")},
            {name: segments[name](1) for name in segments},
        ),
        shapes=(
            {"x": TILE, "u": TILE_MAPS, "sound": SOUND, "e": EMBEDDING},
            {
                "x": TILE, "u": TILE_MAPS, "low": HALF, "sound": SOUND, "e": EMBEDDING, "own": EMBEDDING,
                "theirs": EMBEDDING, "y": EMBEDDING,
            },
        ),
        inputs=(
            Port("image", IMAGE, (Piece(Region(UPPER), 0, 0, PIXELS), Piece(Region(LOWER), 1, 2, PIXELS))),
            Port.whole("sound", SOUND, (0, 1), (1, 5)),
        ),
        outputs=(
            Port("maps", MAPS, (Piece(top, 0, 3), Piece(low, 1, 6))),
            Port("embedding", EMBEDDING, (Piece(whole, 1, 7),), (Piece(whole, 0, 4),)),
        ),
    )  # fmt: skip


def _segment(network: TwoByTwo, layer: str, inputs: tuple[str, ...], outputs: tuple[str, ...]):
    module = getattr(network, layer)
    weights = tuple(
        WeightSlice(f"{layer}.{key}", Region(tuple((0, size) for size in tensor.shape)))
        for key, tensor in (*module.named_parameters(), *module.named_buffers())
        if not key.endswith("num_batches_tracked")
    )
    stored = 4 * sum(weight.region.num_values for weight in weights)
    return lambda rank: Segment(layer, rank, (layer,), 1000, 1, stored, 4096, (), weights, inputs, outputs)


FACTS = NetworkFacts(
    inputs={
        "image": InputFacts(
            shape=shape_to_data(IMAGE), image=ImageInput(channels=1, height=6, width=10, mean=(0.5,), std=(0.25,))
        ),
        "sound": InputFacts(shape=shape_to_data(SOUND)),
    },
    outputs={
        "maps": OutputFacts(shape=shape_to_data(MAPS)),
        "embedding": OutputFacts(shape=shape_to_data(EMBEDDING)),
    },
)


def deploy_two_by_two(network: TwoByTwo, folder: Path) -> Path:
    """The network as a deployment for the exact engines."""
    exact = tuple(kind for kind in engines().values() if kind.exact)
    folder.mkdir(parents=True)
    named = NamedPlan(DEFAULT_PLAN, plan_of(network), network)
    writer = DeploymentWriter(network, [named], folder, "two by two", 1.0, lambda *_: None, exact)
    writer.write(FACTS, None)
    return folder


def inputs_of(batch: int, seed: int = 0) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(seed)
    return {
        name: draw.standard_normal((batch, *shape.dims), dtype=np.float32)
        for name, shape in (("image", IMAGE), ("sound", SOUND))
    }


def whole_outputs(network: TwoByTwo, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The answer of the whole network."""
    with torch.inference_mode():
        maps, embedding = network(torch.from_numpy(inputs["image"]), torch.from_numpy(inputs["sound"]))
    return {"maps": maps.numpy(), "embedding": embedding.numpy()}
