"""The expensive half of evaluating a candidate: its accuracy with the supernet's weights, on validation images only.

If the space has the objective, also its accuracy with one device lost.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from functools import lru_cache, partial

import torch

from sepnas.nets.outage import Outage
from sepnas.nets.separable import SeparableNetwork, planned
from sepnas.nets.supernet import Supernet, bare, recalibrate_batch_norm
from sepnas.objectives import evaluate_answers
from sepnas.plan.liveness import losable
from sepnas.separable.architecture import Architecture
from sepnas.separable.policy import TransmissionPolicy
from sepnas.separable.space import Genotype
from sepnas.spec.memory import images_at_once
from sepnas.train.dropout import draw_outage
from sepnas.train.evaluate import chosen_classes
from sepnas.train.images import ImageData

CALIBRATION_IMAGES = 256
BATCH = 512
KEPT_NETWORKS = 16


def calibration_data(data: ImageData, seed: int, images: int = CALIBRATION_IMAGES) -> ImageData:
    """``data``, with its training images reduced to those used for calibration."""
    chosen = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(seed))[:images]
    return replace(data, train=data.train.take(chosen))


@dataclass(frozen=True)
class _SupernetAnswers:
    """Accuracies of one calibrated network (see :class:`sepnas.objectives.Answers`)."""

    losable: Collection[int]
    right: Callable[[Collection[int]], float]

    def accuracy(self, lost: Collection[int] = ()) -> float:
        return self.right(lost)


class AccuracyEvaluator:
    """Validation accuracy of an architecture of the space, after its batch norms are calibrated on training images.

    The supernet's weights are read once per network and must not change afterwards. Without a ``seed``, calibration
    uses all training images in order (see :func:`calibration_data`). It applies the training's ``dropout`` of devices
    and messages, so that the statistics match those of a network trained with it.
    """

    def __init__(
        self,
        supernet: Supernet,
        data: ImageData,
        seed: int | None,
        device: torch.device,
        images: int = CALIBRATION_IMAGES,
        dropout: tuple[float, float] = (0.0, 0.0),
    ) -> None:
        self.supernet, self.dropout = supernet.to(device), dropout
        train = data.train if seed is None else calibration_data(data, seed, images).train
        # as bytes: large images as fp32 would fill the memory
        self.calibration_BCHW, self.images_BCHW = train.images.to(device), data.val.images.to(device)
        self.normalise, self.batch = data.normalise, images_at_once(BATCH, data.image_size)
        self.labels_B = data.val.labels.to(device)
        self._network = lru_cache(maxsize=KEPT_NETWORKS)(self._extract)

    def __call__(self, genotype: Genotype) -> dict[str, float]:
        """The accuracy objectives of a genotype of the supernet's space, by name."""
        space = self.supernet.space
        return evaluate_answers(self._answers(space.architecture_of(genotype)), space.objectives)

    def accuracy(self, architecture: Architecture) -> float:
        """The fraction of validation images classified correctly."""
        return self._answers(architecture).accuracy()

    def _answers(self, architecture: Architecture) -> _SupernetAnswers:
        right = partial(self._right, self._calibrated(architecture), architecture.policy)
        return _SupernetAnswers(losable(planned(architecture).schedule.plan), right)

    @torch.inference_mode()
    def _calibrated(self, architecture: Architecture) -> SeparableNetwork:
        network = self._network(bare(architecture))
        batches = -(-len(self.calibration_BCHW) // self.batch)
        draw, device = torch.Generator().manual_seed(0), self.calibration_BCHW.device
        plan = planned(architecture).schedule.plan

        def outage_of(batch: int) -> Outage | None:
            return draw_outage(plan, batch, draw, *self.dropout, device)

        images_BCHW = self.normalise(self.calibration_BCHW)
        recalibrate_batch_norm(network, architecture.policy, images_BCHW, batches, outage_of)
        return network

    @torch.inference_mode()
    def _right(self, network: SeparableNetwork, policy: TransmissionPolicy, lost: Collection[int]) -> float:
        found = []
        for x_BCHW in map(self.normalise, torch.split(self.images_BCHW, self.batch)):
            outage = Outage.of(lost, len(network.parts), len(x_BCHW), x_BCHW.device) if lost else None
            found.append(chosen_classes(network(x_BCHW, policy, outage)))
        return (torch.cat(found) == self.labels_B).float().mean().item()

    def _extract(self, architecture: Architecture) -> SeparableNetwork:
        return self.supernet.extract(architecture, every_policy=True)
