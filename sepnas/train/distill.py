"""Distillation from teachers: their logits and their attention maps."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from sepnas.errors import TrainingError
from sepnas.nets.separable import SeparableNetwork
from sepnas.separable.architecture import Architecture
from sepnas.separable.layers import stage_sides
from sepnas.train.checkpoint import tensors_sha256
from sepnas.train.recipe import Distillation

Stages = Sequence[Sequence[Tensor]]


class Teachers:
    """Trained networks that provide targets for each batch; their weights never change.

    Raises :class:`TrainingError` if a teacher's inputs, classes or (for attention) feature sizes differ from the
    student's.
    """

    def __init__(
        self, networks: Sequence[SeparableNetwork], settings: Distillation, student: Architecture, device: torch.device
    ) -> None:
        self.settings = settings
        for network in networks:
            _check_teaches(network.architecture, student, bool(settings.features))
        self.networks = [network.to(device).eval().requires_grad_(False) for network in networks]

    def identity(self) -> list[str]:
        """A digest of each teacher's weights; a run resumes only with the same teachers."""
        return [tensors_sha256({k: x.cpu() for k, x in network.state_dict().items()}) for network in self.networks]

    def loss(self, own: Tensor, logits_BK: Tensor, stages: Stages, images_BCHW: Tensor) -> Tensor:
        """The student's ``own`` loss from the labels, combined with each teacher's loss; the mean over the teachers."""
        weight, temperature = self.settings.weight, self.settings.temperature
        losses = []
        for network in self.networks:
            with torch.no_grad():
                taught_BK, looked = network.with_stages(images_BCHW)
            loss = (1 - weight) * own
            if weight:
                loss = loss + weight * softened_divergence(logits_BK, taught_BK, temperature)
            if self.settings.features:
                loss = loss + self.settings.features * attention_gap(stages, looked)
            losses.append(loss)
        return torch.stack(losses).mean()


def softened_divergence(logits_BK: Tensor, taught_BK: Tensor, temperature: float) -> Tensor:
    """The KL divergence between softened teacher and student outputs, times the squared temperature.

    The factor makes its gradient as large as that of cross entropy (arXiv 1503.02531).
    """
    student, teacher = (each.float() / temperature for each in (logits_BK, taught_BK))
    divergence = functional.kl_div(
        student.log_softmax(1), teacher.log_softmax(1), reduction="batchmean", log_target=True
    )
    return temperature**2 * divergence


def attention_gap(stages: Stages, others: Stages) -> Tensor:
    """The mean squared distance between the attention maps after each stage, summed over stages (arXiv 1612.03928).

    A map is the sum of squares over the channels of all devices, normalised to length 1, so widths may differ.
    """
    gaps = [
        (_attention(own) - _attention(other)).square().sum(1).mean() for own, other in zip(stages, others, strict=True)
    ]
    return torch.stack(gaps).sum()


def _attention(features: Sequence[Tensor]) -> Tensor:
    """The attention map ``(B, H * W)`` of features ``(B, C, H, W)``."""
    power_BHW = torch.stack([x.float().square().sum(1) for x in features]).sum(0)
    return functional.normalize(power_BHW.flatten(1), dim=1)


def _check_teaches(teacher: Architecture, student: Architecture, features: bool) -> None:
    fields = ["in_channels", "image_size", "num_classes", *(["stem_stride"] if features else [])]
    for field in fields:
        wanted, found = getattr(student, field), getattr(teacher, field)
        if wanted != found:
            raise TrainingError(
                f"teacher {teacher.name!r} has `{field}` {found}, the network to train has {wanted}; "
                "a teacher must be trained on the same data" + (", or set `features` to 0" if features else "")
            )
    sides = [stage_sides(each) for each in (teacher, student)]
    if features and sides[0] != sides[1]:
        raise TrainingError(
            f"teacher {teacher.name!r} has feature maps of {_listed(sides[0])} pixels a side after its stages, the "
            f"network to train has {_listed(sides[1])}; choose another teacher, or set `features` to 0"
        )


def _listed(sides: Sequence[int]) -> str:
    return ", ".join(map(str, sides))
