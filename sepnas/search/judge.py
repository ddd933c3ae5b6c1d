"""The dear half of judging a candidate: its accuracy over the supernet's weights, on validation images only."""

from __future__ import annotations

from dataclasses import replace

import torch

from sepnas.nets.supernet import Supernet, recalibrate_batch_norm
from sepnas.spec.policy import TransmissionPolicy
from sepnas.spec.space import Genotype
from sepnas.train.images import ImageData

CALIBRATION_IMAGES = 256
BATCH = 512


def calibration_data(data: ImageData, seed: int, images: int = CALIBRATION_IMAGES) -> ImageData:
    """``data`` with only those training images that a judge calibrates with."""
    chosen = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(seed))[:images]
    return replace(data, train=data.train.take(chosen))


class SupernetJudge:
    """Accuracy of a policy: batch norm statistics are measured anew on training images, then validation counts.

    Without a ``seed`` all training images are used, in their order (see :func:`calibration_data`).
    """

    def __init__(
        self,
        network: Supernet,
        data: ImageData,
        seed: int | None,
        device: torch.device,
        images: int = CALIBRATION_IMAGES,
    ) -> None:
        self.network = network.to(device)
        train = data.train if seed is None else calibration_data(data, seed, images).train
        self.calibration_BCHW = data.normalise(train.images.to(device))
        self.images_BCHW = data.normalise(data.val.images.to(device))
        self.labels_B = data.val.labels.to(device)

    def __call__(self, genotype: Genotype) -> float:
        """The accuracy of a point of the supernet's space."""
        return self.accuracy(self.network.space.policy_of(genotype))

    @torch.inference_mode()
    def accuracy(self, policy: TransmissionPolicy) -> float:
        """The fraction of the validation images that are answered rightly."""
        batches = -(-len(self.calibration_BCHW) // BATCH)
        with recalibrate_batch_norm(self.network, policy, self.calibration_BCHW, batches):
            found = [self.network(x_BCHW, policy).argmax(1) for x_BCHW in torch.split(self.images_BCHW, BATCH)]
        return (torch.cat(found) == self.labels_B).float().mean().item()
