"""The dear half of judging a candidate: its accuracy over the supernet's weights, on validation images only."""

from __future__ import annotations

import torch

from sepnas.nets.supernet import Supernet, recalibrate_batch_norm
from sepnas.spec.policy import TransmissionPolicy
from sepnas.train.images import ImageData

CALIBRATION_IMAGES = 256
BATCH = 512


class SupernetJudge:
    """Accuracy of a policy: batch norm statistics are measured anew on training images, then validation counts."""

    def __init__(
        self, network: Supernet, data: ImageData, seed: int, device: torch.device, images: int = CALIBRATION_IMAGES
    ) -> None:
        self.network = network.to(device)
        chosen = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(seed))[:images]
        self.calibration_BCHW = data.normalise(data.train.images[chosen].to(device))
        self.images_BCHW = data.normalise(data.val.images.to(device))
        self.labels_B = data.val.labels.to(device)

    @torch.inference_mode()
    def accuracy(self, policy: TransmissionPolicy) -> float:
        """The fraction of the validation images that are answered rightly."""
        batches = -(-len(self.calibration_BCHW) // BATCH)
        with recalibrate_batch_norm(self.network, policy, self.calibration_BCHW, batches):
            found = [self.network(x_BCHW, policy).argmax(1) for x_BCHW in torch.split(self.images_BCHW, BATCH)]
        return (torch.cat(found) == self.labels_B).float().mean().item()
