"""The dear half of judging a candidate: its accuracy over the supernet's weights, on validation images only."""

from __future__ import annotations

from functools import lru_cache

import torch

from sepnas.nets.separable import SeparableResNeXt
from sepnas.nets.supernet import Supernet, bare, recalibrate_batch_norm
from sepnas.spec.architecture import Architecture
from sepnas.train.images import ImageData

CALIBRATION_IMAGES = 256
BATCH = 512
KEPT_NETWORKS = 16


class SupernetJudge:
    """Accuracy of an architecture of the space: its batch norm statistics are measured on training images, then
    validation counts. The supernet's weights are read once for each network; they must not change afterwards.
    """

    def __init__(
        self, supernet: Supernet, data: ImageData, seed: int, device: torch.device, images: int = CALIBRATION_IMAGES
    ) -> None:
        self.supernet = supernet.to(device)
        chosen = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(seed))[:images]
        self.calibration_BCHW = data.normalise(data.train.images[chosen].to(device))
        self.images_BCHW = data.normalise(data.val.images.to(device))
        self.labels_B = data.val.labels.to(device)
        self._network = lru_cache(maxsize=KEPT_NETWORKS)(self._extract)

    @torch.inference_mode()
    def accuracy(self, architecture: Architecture) -> float:
        """The fraction of the validation images that are answered rightly."""
        network = self._network(bare(architecture))
        batches = -(-len(self.calibration_BCHW) // BATCH)
        recalibrate_batch_norm(network, architecture.policy, self.calibration_BCHW, batches)
        found = [network(x_BCHW, architecture.policy).argmax(1) for x_BCHW in torch.split(self.images_BCHW, BATCH)]
        return (torch.cat(found) == self.labels_B).float().mean().item()

    def _extract(self, architecture: Architecture) -> SeparableResNeXt:
        return self.supernet.extract(architecture, every_policy=True)
