"""torchvision's AutoAugment (arXiv 1805.09501) for whole batches, on the images' device."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from sepnas.train.vision import import_torchvision


class AutoAugment:
    """Each image gets its own draw; images with the same transform are processed together.

    Policies, magnitudes and transforms come from torchvision's private attributes, because its public interface makes
    one draw per batch.
    """

    def __init__(self, policy: str) -> None:
        transforms = import_torchvision("transforms.v2")
        self._transform = transforms.AutoAugment(getattr(transforms.AutoAugmentPolicy, policy.upper()))

    def __call__(self, images_BCHW: Tensor, generator: torch.Generator) -> Tensor:
        """Transform uint8 images of 1 or 3 channels; ``generator`` is on the CPU."""
        policies, count = self._transform._policies, len(images_BCHW)
        chosen = torch.randint(len(policies), (count,), generator=generator).tolist()
        images_BCHW = images_BCHW.clone()
        for place in range(2):
            chances = torch.rand(count, generator=generator).tolist()
            signs = torch.rand(count, generator=generator).tolist()
            changes: dict[tuple[str, float], list[int]] = {}
            for image, (policy, chance, sign) in enumerate(zip(chosen, chances, signs, strict=True)):
                name, probability, level = policies[policy][place]
                if chance <= probability:
                    magnitude = self._magnitude(name, level, images_BCHW.shape, sign <= 0.5)
                    changes.setdefault((name, magnitude), []).append(image)
            for (name, magnitude), members in changes.items():
                places = torch.tensor(members, device=images_BCHW.device)
                images_BCHW[places] = self.change(images_BCHW[places], name, magnitude)
        return images_BCHW

    def change(self, images_BCHW: Tensor, name: str, magnitude: float) -> Tensor:
        """Apply one transform, such as ``ShearX``, to all images."""
        transform = self._transform
        changed: Tensor = transform._apply_image_or_video_transform(
            images_BCHW, name, magnitude, interpolation=transform.interpolation, fill=transform._fill
        )
        return changed

    def _magnitude(self, name: str, level: int | None, shape: torch.Size, negative: bool) -> float:
        strengths, signed = _strengths(self._transform, name, shape[-2], shape[-1])
        if strengths is None or level is None:
            return 0.0
        return -strengths[level] if signed and negative else strengths[level]


@lru_cache(maxsize=1 << 10)
def _strengths(transform: Any, name: str, height: int, width: int) -> tuple[list[float] | None, bool]:
    """The magnitude of each level of a transform (None without levels), and whether its sign varies."""
    strengths_of, signed = transform._AUGMENTATION_SPACE[name]
    strengths = strengths_of(10, height, width)
    return None if strengths is None else strengths.tolist(), signed


@lru_cache
def auto_augment(policy: str) -> AutoAugment:
    """The cached instance for a policy: ``cifar10``, ``imagenet`` or ``svhn``."""
    return AutoAugment(policy)
