"""Accuracy of a trained network on a split, overall and per class, stored beside the run's history."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path
from statistics import fmean
from typing import Annotated, ClassVar, Literal

from pydantic import Field
from torch import nn

from sepnas.spec.document import Document, Part
from sepnas.spec.files import is_there
from sepnas.train.evaluate import accuracy, chosen_classes, predict_logits
from sepnas.train.images import ImageData, Split, content_sha256

Share = Annotated[float, Field(ge=0, le=1)]
SplitName = Literal["validation", "test"]
MAX_WORST = 3
MIN_LEARNED = 0.2
"""Minimum accuracy above chance for a statement about mirrored images."""
MIN_KEPT = 0.8
"""Minimum share of that accuracy on mirrored images for mirroring to preserve classes."""


class EvaluatedClass(Part):
    """A class, its number of images in the split, and its accuracy."""

    name: str
    images: Annotated[int, Field(ge=1)]
    accuracy: Share


class Evaluation(Document):
    """Accuracies of a run's best epoch on a split, with the command and the date (UTC) of the measurement.

    ``mirrored_accuracy``: accuracy on mirrored images, if training mirrored none. ``with_lost``: mean accuracy with
    1, 2, ... devices lost, for a network trained with dropout.
    """

    format_name: ClassVar[str] = "sepnas.evaluation"

    split: SplitName
    images: Annotated[int, Field(ge=1)]
    accuracy: Share
    classes: Annotated[tuple[EvaluatedClass, ...], Field(min_length=1)]
    mirrored_accuracy: Share | None = None
    with_lost: tuple[Share, ...] = ()
    content_sha256: str
    command: str
    date: str

    @property
    def mean_of_classes(self) -> float:
        """The mean of the class accuracies, with equal weight for each class."""
        return fmean(each.accuracy for each in self.classes)

    def about_mirroring(self) -> str:
        """A remark on whether mirror images keep their class, judged by a network that saw none in training."""
        chance = 1 / len(self.classes)
        learned = self.accuracy - chance
        if self.mirrored_accuracy is None or learned < MIN_LEARNED:
            return ""
        kept = (self.mirrored_accuracy - chance) / learned
        told = f"mirrored images: {self.mirrored_accuracy:.2%}"
        if kept >= MIN_KEPT:
            return f"{told}; they keep their class, so training with flips may be better"
        return f"{told}; if they belong to other classes, like arrows or letters, train without flips"

    def __str__(self) -> str:
        worst = sorted(self.classes, key=lambda each: each.accuracy)[:MAX_WORST]
        told = ", ".join(f"{each.name!r} {each.accuracy:.2%} of {each.images:,}" for each in worst)
        of_all = f"{self.split} accuracy {self.accuracy:.2%} of {self.images:,} images"
        return f"{of_all}, {self.mean_of_classes:.2%} with each class counted alike; lowest: {told}"

    def keep(self, run: Path) -> Path:
        """Save the evaluation in the run's folder."""
        return self.save(run / evaluation_file(self.split))


def evaluation_file(split: SplitName) -> str:
    return f"{split}.json"


def evaluate_split(
    network: nn.Module, data: ImageData, split: SplitName, command: str, mirrored: bool = False
) -> Evaluation:
    """Evaluate a network on its current device, with ``mirrored`` on mirrored images too."""
    part = data.val if split == "validation" else data.test
    right = chosen_classes(predict_logits(network, part.images, data)) == part.labels
    flipped = accuracy(network, Split(part.images.flip(3), part.labels), data) if mirrored else None
    of_class = ((name, right[part.labels == label]) for label, name in enumerate(data.classes))
    return Evaluation(
        split=split,
        images=len(part),
        accuracy=float(right.double().mean()),
        classes=tuple(
            EvaluatedClass(name=name, images=len(found), accuracy=float(found.double().mean()))
            for name, found in of_class
            if len(found)
        ),
        mirrored_accuracy=flipped,
        content_sha256=content_sha256(part),
        command=command,
        date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
    )


def read_evaluations(run: Path) -> tuple[Evaluation, ...]:
    """The evaluations of a run, validation first."""
    splits: tuple[SplitName, ...] = ("validation", "test")
    files = [run / evaluation_file(split) for split in splits]
    return tuple(Evaluation.load(file) for file in files if is_there(file))
