"""What a network answers on a split, and how often it is right."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sepnas.train.images import ImageData, Split

EVALUATION_BATCH = 256


def predict_logits(
    network: nn.Module,
    images_NCHW: Tensor,
    data: ImageData,
    batch_size: int = EVALUATION_BATCH,
    device: str | torch.device | None = None,
) -> Tensor:
    """Logits ``(N, num_classes)`` float32 on the CPU, of uint8 images that ``data`` normalises.

    The network is run in eval mode, in its own precision, where it lies or on ``device`` (it is moved there), and
    gets its mode back.
    """
    place = _device_of(network) if device is None else torch.device(device)
    was_training = network.training
    network.to(place).eval()
    try:
        with torch.inference_mode():
            batches = [network(data.normalise(x.to(place))).float().cpu() for x in torch.split(images_NCHW, batch_size)]
    finally:
        network.train(was_training)
    # outside of inference mode: the caller may train on these
    return torch.cat(batches)


def accuracy(
    network: nn.Module,
    split: Split,
    data: ImageData,
    batch_size: int = EVALUATION_BATCH,
    device: str | torch.device | None = None,
) -> float:
    """The share of images whose highest logit is that of their label, 0..1."""
    answers = predict_logits(network, split.images, data, batch_size, device).argmax(1)
    return float((answers == split.labels).double().mean())


def _device_of(network: nn.Module) -> torch.device:
    tensor = next(network.parameters(), next(network.buffers(), torch.empty(0)))
    return tensor.device
