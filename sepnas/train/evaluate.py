"""What a network answers on a split, and how often it is right."""

from __future__ import annotations

from collections.abc import Callable, Collection
from itertools import combinations
from statistics import fmean

import torch
from torch import Tensor, nn

from sepnas.errors import TrainingError
from sepnas.nets.outage import Outage
from sepnas.nets.separable import SeparableResNeXt
from sepnas.train.display import track
from sepnas.train.images import ImageData, Split

EVALUATION_BATCH = 256
_MANY_BATCHES = 8
"""From here on a person at a terminal sees a bar."""

Tick = Callable[[int, int], None]
"""Called with how many images are answered, and of how many."""


def predict_logits(
    network: nn.Module,
    images_NCHW: Tensor,
    data: ImageData,
    batch_size: int = EVALUATION_BATCH,
    device: str | torch.device | None = None,
    lost: Collection[int] = (),
    tick: Tick | None = None,
) -> Tensor:
    """Logits ``(N, num_classes)`` float32 on the CPU, of uint8 images that ``data`` normalises.

    The network is run in eval mode, in its own precision, where it lies or on ``device`` (it is moved there), and
    gets its mode back. Of a separable network devices may be ``lost``; raises ``PlanError`` if nobody can answer then.
    ``tick`` hears how far it is, instead of a bar on a terminal.
    """

    def answer(x_BCHW: Tensor) -> Tensor:
        if not lost:
            return network(x_BCHW)  # type: ignore[no-any-return]
        assert isinstance(network, SeparableResNeXt)
        outage = Outage.of(lost, network.architecture.num_devices, len(x_BCHW), place)
        return network(x_BCHW, outage=outage)  # type: ignore[no-any-return]

    place = _device_of(network) if device is None else torch.device(device)
    was_training, answers, done = network.training, [], 0
    batches = torch.split(images_NCHW, batch_size)
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
    # outside of inference mode: the caller may train on these
    return torch.cat(answers)


def accuracy(
    network: nn.Module,
    split: Split,
    data: ImageData,
    batch_size: int = EVALUATION_BATCH,
    device: str | torch.device | None = None,
    lost: Collection[int] = (),
    tick: Tick | None = None,
) -> float:
    """The share of images whose highest logit is that of their label, 0..1; without the devices that are ``lost``."""
    answers = chosen_classes(predict_logits(network, split.images, data, batch_size, device, lost, tick))
    return float((answers == split.labels).double().mean())


def chosen_classes(logits_BK: Tensor) -> Tensor:
    """The class of each image's highest logit ``(B,)``; -1, which is no class, where a logit is NaN or infinite."""
    return torch.where(logits_BK.isfinite().all(1), logits_BK.argmax(1), -1)


def accuracy_with_lost(network: SeparableResNeXt, split: Split, data: ImageData, num_lost: int) -> float:
    """The mean accuracy over all ways to lose so many devices, 0..1.

    A device that alone has the classifier is never among them: without it there is no answer. Raises
    :class:`TrainingError` where not so many can be lost.
    """
    num_devices = network.architecture.num_devices
    if not 0 <= num_lost < num_devices:
        raise TrainingError(
            f"`num_lost` must lie in 0..{num_devices - 1}, for a device must be left to answer; got {num_lost}"
        )
    losable = network.policy.readout.losable(num_devices)
    return fmean(accuracy(network, split, data, lost=lost) for lost in combinations(losable, num_lost))


def _device_of(network: nn.Module) -> torch.device:
    tensor = next(network.parameters(), next(network.buffers(), torch.empty(0)))
    return tensor.device
