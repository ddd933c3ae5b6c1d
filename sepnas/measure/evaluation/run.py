"""Runs an evaluation: the images through a network, and through another one beside it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import tee
from typing import TypeAlias

import numpy as np

from sepnas.measure.evaluation.class_matching import MatchedClasses
from sepnas.measure.evaluation.networks import Classifier, InProcess
from sepnas.measure.evaluation.scores import ImageAnswers, Indices, scores_of
from sepnas.measure.evaluation.split_images import SplitImages
from sepnas.runtime.tensors.codec import Array
from sepnas.spec.evaluation import Agreement, ClassificationScores
from sepnas.spec.image_file import Images

Progress: TypeAlias = Callable[[int, int, str], None]


@dataclass(frozen=True)
class MeasuredScores:
    """The scores of a network on images, and how it agrees with another one; ``content_sha256`` is that of the images
    as they were computed, and their labels."""

    scores: ClassificationScores
    agreement: Agreement | None
    content_sha256: str


class _Agreement:
    """Counts equal classes, and keeps the largest difference of a score."""

    def __init__(self) -> None:
        self.images = self.same = 0
        self.largest = 0.0

    def add(self, logits_BK: Array, whole_BK: Array) -> None:
        self.images += len(logits_BK)
        self.same += int((logits_BK.argmax(1) == whole_BK.argmax(1)).sum())
        largest = np.maximum(np.abs(whole_BK).max(1), np.finfo(np.float32).tiny)
        self.largest = max(self.largest, float((np.abs(logits_BK - whole_BK).max(1) / largest).max()))


def measure(
    classifier: Classifier,
    images: SplitImages,
    matched: MatchedClasses,
    progress: Progress,
    whole: InProcess | None = None,
    whole_name: str = "",
) -> MeasuredScores:
    """Evaluate a network; with ``whole`` another one computes the same images in one process.

    Raises :class:`DataError` for an image that cannot be read, and the errors of a session.
    """
    digest, total, done = hashlib.sha256(), len(images.labels), 0
    labels: Indices = np.array(matched.indices, np.int64)[images.labels]
    present = np.array(sorted(matched.indices), np.int64)
    batches = _hashed(images.batches(classifier.head.batch), digest.update)
    batches, again = tee(batches)
    agreement, parts = _Agreement(), []
    for logits_BK in classifier.logits(batches):
        parts.append(ImageAnswers.of(logits_BK, labels[done : done + len(logits_BK)], present))
        done += len(logits_BK)
        pixels = next(again)  # in step, so that nothing is kept
        if whole is not None:
            [whole_BK] = whole.logits([pixels])
            agreement.add(logits_BK, whole_BK)
        progress(done, total, "images")
    digest.update(images.labels.tobytes())
    return MeasuredScores(
        scores_of(ImageAnswers.joined(parts), classifier.head.classes, len(present)),
        None if whole is None else _agreement(agreement, whole_name),
        digest.hexdigest(),
    )


def _hashed(batches: Iterator[Images], update: Callable[[bytes], object]) -> Iterator[Images]:
    for batch in batches:
        update(batch.tobytes())
        yield batch


def _agreement(found: _Agreement, name: str) -> Agreement:
    return Agreement(network=name, images=found.images, same=found.same, largest_difference=found.largest)
