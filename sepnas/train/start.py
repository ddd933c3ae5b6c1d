"""The initial network of a training, from a seed or from a trained network."""

from __future__ import annotations

import torch

from sepnas.errors import TrainingError
from sepnas.nets.scales import calibrate_scales
from sepnas.nets.separable import SeparableNetwork, of_channels
from sepnas.separable.architecture import Architecture
from sepnas.spec.document import short
from sepnas.spec.memory import images_at_once
from sepnas.train.checkpoint import new_network, tensors_sha256
from sepnas.train.checks import check_fits
from sepnas.train.images import ImageData

CALIBRATION_IMAGES = 256


def first_network(
    architecture: Architecture,
    data: ImageData,
    seed: int = 0,
    start: SeparableNetwork | None = None,
    where: str = "`start`",
) -> SeparableNetwork:
    """A network with weights from ``seed`` or from ``start``, which may have another policy.

    Learned message scales that ``start`` lacks are calibrated on some training images. Raises :class:`TrainingError`
    if the seed or the images do not fit, or if ``start`` is another network; the latter message starts with ``where``.
    """
    check_fits(architecture, data)
    network = new_network(architecture, seed)
    names = set(network.log_scales)
    if start is not None:
        take_over(network, start, where)
        names -= set(start.log_scales)
    if names:
        count = images_at_once(min(CALIBRATION_IMAGES, len(data.train)), data.image_size)
        places = torch.linspace(0, len(data.train) - 1, count).long()
        network.train(start is None)
        calibrate_scales(network, data.normalise(data.train.images[places]), names)
    return network.train()


def digest_of(start: SeparableNetwork | None) -> str:
    """The digest of the initial weights for :func:`sepnas.train.loop.train_network`; empty for None."""
    return tensors_sha256(start.state_dict()) if start else ""


def _check_same_architecture(wanted: Architecture, found: Architecture, where: str) -> None:
    """Raise :class:`TrainingError` unless both are equal except for policy and name."""
    stem = "stem", "stem_channels", "stem_stride"
    for field in ("backbone", "depth", *stem, "in_channels", "image_size", "num_classes", "parts"):
        here, there = getattr(wanted, field), getattr(found, field)
        if here != there:
            raise TrainingError(
                f"{where}: the trained network has `{field}` {short(there)}, the network to train {short(here)}; only "
                "the policy may differ"
            )


def take_over(network: SeparableNetwork, start: SeparableNetwork, where: str) -> None:
    """Copy the weights of a network that differs at most in its policy; weights of the new policy only are kept.

    Raises :class:`TrainingError`, whose message starts with ``where``.
    """
    _check_same_architecture(network.architecture, start.architecture, where)
    wanted, found = network.state_dict(), start.state_dict()
    for name in wanted:
        if name in found:
            wanted[name] = of_channels(found[name], wanted[name])
        elif name.startswith("heads."):
            raise TrainingError(
                f"{where}: the trained network has no classifier on device {name.split('.')[1]}, which the policy "
                "reads out; train it with that `readout` first"
            )
    network.load_state_dict(wanted)
