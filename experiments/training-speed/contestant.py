"""Steps of training and evaluation with the package of one tree, this one's or an earlier commit's.

It reads kinds of steps line by line, does a round of each, and writes the CPU seconds that it took.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional

from sepnas.nets.supernet import Supernet
from sepnas.separable.architecture import Architecture, named_architecture
from sepnas.separable.policy import Readout
from sepnas.separable.space import SearchSpace
from sepnas.train.checkpoint import new_network
from sepnas.train.supernet import SandwichStep

STEPS = {"training": 2, "training_small": 20, "supernet": 3, "evaluation": 2}
"""The kinds of steps, and the steps in a round."""
BATCH = {"training": 128, "training_small": 8, "supernet": 64, "evaluation": 64}


def training(name: str, size: int, stem_stride: int, bf16: bool, batch: int) -> Callable[[], None]:
    """A step as the recipe `cifar-sgd` takes it, always on the same images."""
    network, images, labels = _network(name, size, stem_stride), torch.randn(batch, 3, size, size), torch.arange(batch)
    network.to(memory_format=torch.channels_last).train()
    images = images.contiguous(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(network.parameters(), 0.1, 0.9, nesterov=True, weight_decay=5e-4)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = functional.cross_entropy(network(images), labels % 100, label_smoothing=0.1)
        loss.backward()
        optimizer.step()

    return step


def evaluation(batch: int) -> Callable[[], None]:
    network, images = _network("resnext20_4x16d", 32, 2).eval(), torch.randn(batch, 3, 32, 32)

    def step() -> None:
        with torch.inference_mode():
            network(images)

    return step


def supernet(batch: int) -> Callable[[], None]:
    """A step of the sandwich rule in the space of the demo."""
    space = SearchSpace.load("search_spaces/demo.yaml")
    sizes = space.network.in_channels, space.network.image_size, space.network.image_size
    network, images, labels = Supernet(space), torch.randn(batch, *sizes), torch.arange(batch) % 10
    sandwich, draws = SandwichStep(space), torch.Generator().manual_seed(0)
    optimizer = torch.optim.SGD(network.parameters(), 0.01)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        sandwich(network, images, labels, draws).backward()
        optimizer.step()

    return step


def _network(name: str, size: int, stem_stride: int) -> nn.Module:
    architecture = named_architecture(name, 4, "hand-made", 100, image_size=size, stem_stride=stem_stride)
    policy = architecture.policy.model_copy(update={"readout": Readout(kind="mean")})
    return new_network(Architecture.from_data(architecture.to_data() | {"policy": policy.to_data()}))


def serve() -> None:
    """Do a round of each kind that is named on the input, and tell its CPU seconds."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    makers = {
        "training": lambda: training("resnext20_4x16d", 32, 2, True, BATCH["training"]),
        "training_small": lambda: training("resnext11_4x4d", 8, 1, False, BATCH["training_small"]),
        "supernet": lambda: supernet(BATCH["supernet"]),
        "evaluation": lambda: evaluation(BATCH["evaluation"]),
    }
    made: dict[str, Callable[[], None]] = {}
    for line in sys.stdin:
        kind = line.strip()
        if kind not in made:
            torch.manual_seed(0)
            made[kind] = makers[kind]()
        started = time.process_time()
        for _ in range(STEPS[kind]):
            made[kind]()
        print(time.process_time() - started, flush=True)


if __name__ == "__main__":
    serve()
