"""The network that a training begins with: from a seed alone, or from one that was trained before."""

from __future__ import annotations

import torch

from sepnas.errors import TrainingError
from sepnas.nets.calibrate import calibrate_scales
from sepnas.nets.separable import SeparableResNeXt
from sepnas.spec.architecture import Architecture
from sepnas.train.checkpoint import new_network
from sepnas.train.checks import check_fits
from sepnas.train.images import ImageData

CALIBRATION_IMAGES = 256
_OF_THE_POLICY = ("merges.", "log_scales.")


def first_network(
    architecture: Architecture, data: ImageData, seed: int = 0, start: SeparableResNeXt | None = None
) -> SeparableResNeXt:
    """A network with the weights that depend on ``seed``, or those of ``start``; it may have another policy.

    Learned scales of messages, unless ``start`` has them, are set from some training images. Raises
    :class:`TrainingError` where the seed or the images do not fit, or ``start`` lacks what the architecture needs.
    """
    check_fits(architecture, data)
    network = new_network(architecture, seed)
    names = set(network.log_scales)
    if start is not None:
        _take_over(network, start)
        names -= set(start.log_scales)
    if names:
        places = torch.linspace(0, len(data.train) - 1, min(CALIBRATION_IMAGES, len(data.train))).long()
        network.train(start is None)
        calibrate_scales(network, data.normalise(data.train.images[places]), names)
    return network


def _take_over(network: SeparableResNeXt, start: SeparableResNeXt) -> None:
    """All tensors; of those that belong to the policy alone, those that there are."""
    wanted, found = network.state_dict(), start.state_dict()
    for name, value in wanted.items():
        if name not in found and name.startswith(_OF_THE_POLICY):
            continue
        if name not in found:
            raise TrainingError(
                f"the trained network {start.architecture.name!r} cannot be the start of "
                f"{network.architecture.name!r}: it has no tensor {name!r}"
            )
        if found[name].shape != value.shape:
            raise TrainingError(
                f"the trained network {start.architecture.name!r} cannot be the start of "
                f"{network.architecture.name!r}: its tensor {name!r} has shape {tuple(found[name].shape)}, "
                f"{tuple(value.shape)} is needed"
            )
        wanted[name] = found[name]
    network.load_state_dict(wanted)
