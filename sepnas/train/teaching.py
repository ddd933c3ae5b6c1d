"""The teachers of a run: those that answer each batch anew, kept answers, and feature maps."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from sepnas.errors import TrainingError
from sepnas.nets.separable import SeparableNetwork
from sepnas.nets.trainable import TrainableGraph
from sepnas.options import option
from sepnas.separable.architecture import Architecture
from sepnas.train.distill import Teachers
from sepnas.train.feature_gap import FeatureGap
from sepnas.train.images import ImageData
from sepnas.train.kept_answers import KeptAnswers, KeptTeacher
from sepnas.train.recipe import Recipe
from sepnas.train.steps import distillation_of

AnyTeacher = SeparableNetwork | KeptTeacher


class Teaching:
    """What a network learns from teachers under a recipe; each part is None if there is nothing to learn in that way.

    Raises :class:`TrainingError` if the recipe needs a teacher and there is none, or for one that cannot teach.
    """

    def __init__(
        self,
        network: nn.Module,
        data: ImageData,
        recipe: Recipe,
        device: torch.device,
        teachers: Sequence[AnyTeacher] = (),
    ) -> None:
        if recipe.distillation and not teachers:
            named = option("--teacher RUN", "teachers=")
            raise TrainingError(f"the recipe has `distillation`, but there is no teacher; name one with {named}")
        self._settings, self._data, self._recipe = distillation_of(recipe), data, recipe
        self._each = [each for each in teachers if isinstance(each, KeptTeacher)]
        self.live = self._live(network, [each for each in teachers if isinstance(each, SeparableNetwork)], device)
        self.kept = self._kept(network)
        self.features = self._features(network, device)

    @property
    def alternates(self) -> bool:
        """Whether images are mirrored in every second epoch; kept answers need to know which are mirrored."""
        augmentation = self._recipe.augmentation
        return augmentation.alternates or (augmentation.flip and self.kept is not None)

    def identity(self) -> list[str]:
        """A digest of each teacher; a run resumes only with the same ones."""
        return (self.live.identity() if self.live else []) + [each.identity for each in self._each]

    def _live(self, network: nn.Module, teachers: Sequence[SeparableNetwork], device: torch.device) -> Teachers | None:
        if not teachers:
            return None
        student = getattr(network, "architecture", None)
        if not isinstance(student, Architecture):
            raise TrainingError("separable networks that answer each batch anew teach separable networks only")
        return Teachers(teachers, self._settings, student, device)

    def _kept(self, network: nn.Module) -> KeptAnswers | None:
        if not self._each:
            return None
        if self._recipe.mixup or self._recipe.cutmix:
            raise TrainingError("kept answers are for single images; set the recipe's `mixup` and `cutmix` to 0")
        if self._settings.features and not isinstance(network, TrainableGraph):
            raise TrainingError(
                f"teacher {self._each[0].name}: `distillation.features` compares separable networks, or graphs; set it "
                "to 0"
            )
        if not self._settings.weight:
            return None
        return KeptAnswers(self._each, self._data, self._recipe.augmentation.flip, self._recipe.precision)

    def _features(self, network: nn.Module, device: torch.device) -> FeatureGap | None:
        if not self._each or not self._settings.features or not isinstance(network, TrainableGraph):
            return None
        graphs = [each.network for each in self._each if each.has_maps_for(self._data)]
        if not graphs:
            raise TrainingError(
                "`distillation.features` compares graphs whose images are normalised alike, and no teacher is one; set "
                "it to 0"
            )
        maps_of = [each for each in graphs if isinstance(each, TrainableGraph)]
        return FeatureGap(network.graph, maps_of, device, self._each[0].separation)
