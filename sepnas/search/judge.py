"""The dear half of judging a candidate: its accuracy over the supernet's weights, on validation images only.

Where the space asks for it, also what is left of it with one device lost.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from functools import lru_cache
from statistics import fmean

import torch

from sepnas.nets.outage import Outage
from sepnas.nets.separable import SeparableResNeXt
from sepnas.nets.supernet import Supernet, bare, recalibrate_batch_norm
from sepnas.spec.architecture import Architecture
from sepnas.spec.policy import TransmissionPolicy
from sepnas.spec.space import Genotype
from sepnas.train.images import ImageData

CALIBRATION_IMAGES = 256
BATCH = 512
KEPT_NETWORKS = 16


def calibration_data(data: ImageData, seed: int, images: int = CALIBRATION_IMAGES) -> ImageData:
    """``data`` with only those training images that a judge calibrates with."""
    chosen = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(seed))[:images]
    return replace(data, train=data.train.take(chosen))


class SupernetJudge:
    """Accuracy of an architecture of the space: its batch norm statistics are measured on training images, then
    validation counts. The supernet's weights are read once for each network; they must not change afterwards.
    Without a ``seed`` it calibrates with all training images, in their order (see :func:`calibration_data`).
    """

    def __init__(
        self,
        supernet: Supernet,
        data: ImageData,
        seed: int | None,
        device: torch.device,
        images: int = CALIBRATION_IMAGES,
    ) -> None:
        self.supernet = supernet.to(device)
        train = data.train if seed is None else calibration_data(data, seed, images).train
        self.calibration_BCHW = data.normalise(train.images.to(device))
        self.images_BCHW = data.normalise(data.val.images.to(device))
        self.labels_B = data.val.labels.to(device)
        self._network = lru_cache(maxsize=KEPT_NETWORKS)(self._extract)

    def __call__(self, genotype: Genotype) -> dict[str, float]:
        """The accuracies of a point of the supernet's space that the space has for objectives, by their names."""
        space = self.supernet.space
        architecture = space.architecture_of(genotype)
        found = {"accuracy": self.accuracy(architecture)}
        if "accuracy_one_lost" in space.objectives:
            found["accuracy_one_lost"] = self.accuracy_one_lost(architecture)
        return found

    def accuracy(self, architecture: Architecture) -> float:
        """The fraction of the validation images that are answered rightly."""
        return self._right(self._calibrated(architecture), architecture.policy, lost=())

    def accuracy_one_lost(self, architecture: Architecture) -> float:
        """The same with one device lost, the mean over all devices that can be: the only classifier's cannot."""
        network, readout = self._calibrated(architecture), architecture.policy.readout
        ranks = range(architecture.num_devices)
        losable = [rank for rank in ranks if readout.kind == "mean" or rank != readout.device]
        return fmean(self._right(network, architecture.policy, lost=(rank,)) for rank in losable)

    @torch.inference_mode()
    def _calibrated(self, architecture: Architecture) -> SeparableResNeXt:
        network = self._network(bare(architecture))
        batches = -(-len(self.calibration_BCHW) // BATCH)
        recalibrate_batch_norm(network, architecture.policy, self.calibration_BCHW, batches)
        return network

    @torch.inference_mode()
    def _right(self, network: SeparableResNeXt, policy: TransmissionPolicy, lost: Collection[int]) -> float:
        found = []
        for x_BCHW in torch.split(self.images_BCHW, BATCH):
            outage = Outage.of(lost, len(network.parts), len(x_BCHW), x_BCHW.device) if lost else None
            found.append(network(x_BCHW, policy, outage).argmax(1))
        return (torch.cat(found) == self.labels_B).float().mean().item()

    def _extract(self, architecture: Architecture) -> SeparableResNeXt:
        return self.supernet.extract(architecture, every_policy=True)
