"""The network that a training begins with: from a seed alone, or from one that was trained before."""

from __future__ import annotations

import torch

from sepnas.errors import TrainingError
from sepnas.nets.scales import calibrate_scales
from sepnas.nets.separable import SeparableResNeXt
from sepnas.separable.architecture import Architecture
from sepnas.spec.document import short
from sepnas.train.checkpoint import new_network, tensors_sha256
from sepnas.train.checks import check_fits
from sepnas.train.images import ImageData

CALIBRATION_IMAGES = 256


def first_network(
    architecture: Architecture,
    data: ImageData,
    seed: int = 0,
    start: SeparableResNeXt | None = None,
    where: str = "`start`",
) -> SeparableResNeXt:
    """A network with the weights that depend on ``seed``, or those of ``start``; it may have another policy.

    Learned scales of messages, unless ``start`` has them, are set from some training images. Raises
    :class:`TrainingError` where the seed or the images do not fit, or the message that begins with ``where``, where
    ``start`` is no such network.
    """
    check_fits(architecture, data)
    network = new_network(architecture, seed)
    names = set(network.log_scales)
    if start is not None:
        take_over(network, start, where)
        names -= set(start.log_scales)
    if names:
        places = torch.linspace(0, len(data.train) - 1, min(CALIBRATION_IMAGES, len(data.train))).long()
        network.train(start is None)
        calibrate_scales(network, data.normalise(data.train.images[places]), names)
    return network.train()


def digest_of(start: SeparableResNeXt | None) -> str:
    """Of the weights that a training goes on from, as :func:`sepnas.train.loop.train_network` takes it; none: empty."""
    return tensors_sha256(start.state_dict()) if start else ""


def _check_alike(wanted: Architecture, found: Architecture, where: str) -> None:
    """Raise :class:`TrainingError` unless both are the same but for policy and name."""
    for field in ("depth", "stem_channels", "stem_stride", "in_channels", "image_size", "num_classes", "parts"):
        here, there = getattr(wanted, field), getattr(found, field)
        if here != there:
            raise TrainingError(
                f"{where}: the trained network has `{field}` {short(there)}, the network to train {short(here)}; only "
                "the policy may differ"
            )


def take_over(network: SeparableResNeXt, start: SeparableResNeXt, where: str) -> None:
    """Copy the weights of a network that differs at most in its policy; what belongs to the new policy alone stays.

    Raises :class:`TrainingError`, whose message begins with ``where``.
    """
    _check_alike(network.architecture, start.architecture, where)
    wanted, found = network.state_dict(), start.state_dict()
    for name in wanted:
        if name in found:
            wanted[name] = found[name]
        elif name.startswith("heads."):
            raise TrainingError(
                f"{where}: the trained network has no classifier on device {name.split('.')[1]}, which the policy "
                "reads out; train it with that `readout` first"
            )
    network.load_state_dict(wanted)
