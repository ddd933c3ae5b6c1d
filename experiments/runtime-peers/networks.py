"""The networks that are compared: one ResNeXt and its separable counterparts, trained for a moment."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from sepnas.nets.separable import SeparableNetwork
from sepnas.separable.architecture import Architecture, named_architecture
from sepnas.separable.policy import TransmissionPolicy
from sepnas.train.checkpoint import BEST, load_network, new_network, write_checkpoint
from sepnas.train.data import load_dataset
from sepnas.train.images import ImageData
from sepnas.train.loop import train_network
from sepnas.train.recipe import load_recipe

IMAGE_SIZE, TRAINING_SIZE = 32, 8
EPOCHS = 3
SEED = 0
NUM_REQUESTS = 20
CALIBRATION_BATCH, CALIBRATION_BATCHES = 32, 2


@cache
def data(image_size: int = IMAGE_SIZE) -> ImageData:
    """scikit-learn's digits: they come without a download."""
    return load_dataset("digits", image_size=image_size)


def requests() -> npt.NDArray[np.float32]:
    """Normalised test images ``(N, 1, S, S)``: each is a request of its own."""
    images: npt.NDArray[np.float32] = data().normalise(data().test.images[:NUM_REQUESTS]).numpy()
    return images


def architecture(name: str, parts: int, image_size: int = IMAGE_SIZE) -> Architecture:
    """With one part it is the original network, that has nobody to exchange with."""
    return named_architecture(name, parts, "hand-made" if parts > 1 else "none", 10, 1, image_size)


def trained(name: str, parts: int, folder: Path) -> SeparableNetwork:
    """The network in eval mode; its weights are kept in a folder of their own.

    They are trained on the digits as they are, 8x8, which a CPU does in a minute. For 32x32, the size of CIFAR's images
    and of this comparison, the statistics of the batch norms are then taken anew; the accuracy there is no matter.
    """
    run = folder / f"{name}-over{parts}"
    if not (run / BEST).exists():
        small = new_network(architecture(name, parts, TRAINING_SIZE), SEED)
        recipe = load_recipe("digits").model_copy(update={"epochs": EPOCHS, "precision": "bf16"})
        train_network(small, data(TRAINING_SIZE), recipe, run / "training", seed=SEED, device="cpu", resume=True)
        network = new_network(architecture(name, parts))
        network.load_state_dict(load_network(run / "training").state_dict())
        calibrate_norms(network, data().normalise(data().train.images))
        network.architecture.save(run / "architecture.json")
        write_checkpoint(run / BEST, network.state_dict(), {})
    return load_network(run / BEST)


@torch.no_grad()
def calibrate_norms(network: nn.Module, images: Tensor) -> None:
    """Replace the running statistics of all batch norms by the mean over some batches."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None
    network.train()
    for batch in images.split(CALIBRATION_BATCH)[:CALIBRATION_BATCHES]:
        network(batch)
    network.eval()


def under(network: SeparableNetwork, policy: TransmissionPolicy) -> SeparableNetwork:
    """The same weights under another policy of plain means that reads out at the same device."""
    other = SeparableNetwork(network.architecture.with_policy(policy))
    other.load_state_dict(network.state_dict())
    return other.eval()
