"""Predictions and accuracy of a network on a split."""

from __future__ import annotations

from collections.abc import Callable, Collection
from itertools import combinations
from statistics import fmean

import torch
from torch import Tensor, nn

from sepnas.errors import TrainingError
from sepnas.nets.outage import Outage
from sepnas.nets.separable import SeparableNetwork
from sepnas.plan.liveness import losable
from sepnas.spec.memory import images_at_once
from sepnas.train.display import track
from sepnas.train.images import ImageData, Split

EVALUATION_BATCH = 256
_MANY_BATCHES = 8
"""Minimum number of batches for a progress bar on a terminal."""

Tick = Callable[[int, int], None]
"""Called with the number of images done and the total."""


def predict_logits(
    network: nn.Module,
    images_NCHW: Tensor,
    data: ImageData,
    batch_size: int | None = None,
    device: str | torch.device | None = None,
    lost: Collection[int] = (),
    tick: Tick | None = None,
) -> Tensor:
    """Logits ``(N, num_classes)`` float32 on the CPU, for uint8 images that ``data`` normalises.

    The network runs in eval mode and its own precision, on its current device or moved to ``device``; its mode is
    restored. By default batches have ``EVALUATION_BATCH`` images, or fewer large ones. Devices of a separable network
    may be ``lost``; raises ``PlanError`` if no device can answer. ``tick`` receives the progress instead of a bar on a
    terminal.
    """

    def answer(x_BCHW: Tensor) -> Tensor:
        if not lost:
            return network(x_BCHW)  # type: ignore[no-any-return]
        assert isinstance(network, SeparableNetwork)
        outage = Outage.of(lost, network.architecture.num_devices, len(x_BCHW), place)
        return network(x_BCHW, outage=outage)  # type: ignore[no-any-return]

    place = _device_of(network) if device is None else torch.device(device)
    was_training, answers, done = network.training, [], 0
    batches = torch.split(images_NCHW, batch_size or images_at_once(EVALUATION_BATCH, images_NCHW.shape[-1]))
    network.to(place).eval()
    try:
        with torch.inference_mode():
            for x in batches if tick else track(batches, "evaluating", _MANY_BATCHES):
                answers.append(answer(data.normalise(x.to(place))).float().cpu())
                done += len(x)
                if tick:
                    tick(done, len(images_NCHW))
    finally:
        network.train(was_training)
    # outside inference mode, because the caller may train on the result
    return torch.cat(answers)


def accuracy(
    network: nn.Module,
    split: Split,
    data: ImageData,
    batch_size: int | None = None,
    device: str | torch.device | None = None,
    lost: Collection[int] = (),
    tick: Tick | None = None,
) -> float:
    """Top-1 accuracy, 0..1, without the ``lost`` devices."""
    answers = chosen_classes(predict_logits(network, split.images, data, batch_size, device, lost, tick))
    return float((answers == split.labels).double().mean())


def chosen_classes(logits_BK: Tensor) -> Tensor:
    """The class of the highest logit of each image ``(B,)``; -1 (no class) if a logit is NaN or infinite."""
    return torch.where(logits_BK.isfinite().all(1), logits_BK.argmax(1), -1)


def accuracy_with_lost(network: SeparableNetwork, split: Split, data: ImageData, num_lost: int) -> float:
    """The mean accuracy over all ways to lose ``num_lost`` devices, 0..1.

    A device that alone answers is never lost, because no other can answer. Raises :class:`TrainingError`
    if fewer devices can be lost.
    """
    num_devices = network.architecture.num_devices
    if not 0 <= num_lost < num_devices:
        raise TrainingError(
            f"`num_lost` must lie in 0..{num_devices - 1}, because one device must remain to answer; got {num_lost}"
        )
    ways = combinations(losable(network.plan), num_lost)
    return fmean(accuracy(network, split, data, lost=lost) for lost in ways)


def _device_of(network: nn.Module) -> torch.device:
    tensor = next(network.parameters(), next(network.buffers(), torch.empty(0)))
    return tensor.device
