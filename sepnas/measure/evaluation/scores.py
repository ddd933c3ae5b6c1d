"""Scores of a classifier from its logits, batch by batch: only a few numbers are kept of each image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt
from typing_extensions import Self

from sepnas.errors import DataError
from sepnas.runtime.tensors.codec import Array
from sepnas.spec.evaluation import MAX_CONFUSIONS, NUM_BINS, ClassificationScores, ClassScore, ReliabilityBin

Indices = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
TOP = 5
_EDGES = np.linspace(0.0, 1.0, NUM_BINS + 1)[1:-1]


@dataclass(frozen=True)
class ImageAnswers:
    """Of each image ``(N,)``: its class, the predicted one, the rank of its class (0: first), the confidence, the loss.

    ``among_present`` is the prediction if only the classes of the data may be named.
    """

    labels: Indices
    predicted: Indices
    among_present: Indices
    rank: Indices
    confidence: Floats
    loss: Floats

    @classmethod
    def of(cls, logits_BK: Array, labels_B: Indices, present: Indices) -> Self:
        """The answers of one batch; ``present`` are the classes that occur in the data.

        Raises :class:`DataError` for a logit that is NaN or infinite.
        """
        logits = np.asarray(logits_BK, np.float64)
        if not np.isfinite(logits).all():
            raise DataError("the network answers with NaN or infinity, so its predictions cannot be scored")
        shifted = logits - logits.max(axis=1, keepdims=True)
        log_shares = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
        own = logits[np.arange(len(labels_B)), labels_B][:, None]
        before = (logits == own) & (np.arange(logits.shape[1]) < labels_B[:, None])
        return cls(
            labels=labels_B,
            predicted=logits.argmax(axis=1),
            among_present=present[logits[:, present].argmax(axis=1)],
            rank=((logits > own) | before).sum(axis=1),
            confidence=np.exp(log_shares.max(axis=1)),
            loss=-log_shares[np.arange(len(labels_B)), labels_B],
        )

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """The answers of all batches."""
        names = [field.name for field in fields(cls)]
        return cls(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in names})


def scores_of(answers: ImageAnswers, classes: Sequence[str], num_present: int) -> ClassificationScores:
    """The scores of at least one image; ``classes`` are all names of the network, ``num_present`` occur in the data."""
    right = answers.predicted == answers.labels
    bins = reliability(answers.confidence, right)
    is_subset = num_present < len(classes)
    return ClassificationScores(
        accuracy=float(right.mean()),
        top5_accuracy=float((answers.rank < TOP).mean()) if len(classes) > TOP else None,
        present_accuracy=float((answers.among_present == answers.labels).mean()) if is_subset else None,
        calibration_error=calibration_error(bins),
        negative_log_likelihood=float(answers.loss.mean()),
        classes=_class_scores(answers, classes),
        confusions=_confusions(answers),
        reliability=bins,
    )


def reliability(confidence: Floats, right: npt.NDArray[np.bool_]) -> tuple[ReliabilityBin, ...]:
    """The images in each interval of confidence; a value on an edge belongs to the lower interval."""
    places = np.searchsorted(_EDGES, confidence)
    counts = np.bincount(places, minlength=NUM_BINS)
    sums = (np.bincount(places, weights, NUM_BINS) for weights in (confidence, right.astype(np.float64)))
    means = (np.minimum(each / np.maximum(counts, 1), 1.0) for each in sums)
    return tuple(
        ReliabilityBin(images=int(count), confidence=float(mean), accuracy=float(share))
        for count, mean, share in zip(counts, *means, strict=True)
    )


def calibration_error(bins: Sequence[ReliabilityBin]) -> float:
    """The expected calibration error: the mean distance of confidence and accuracy, each interval by its images."""
    total = sum(each.images for each in bins)
    return sum(each.images * abs(each.confidence - each.accuracy) for each in bins) / total


def _class_scores(answers: ImageAnswers, classes: Sequence[str]) -> tuple[ClassScore, ...]:
    right = answers.labels[answers.predicted == answers.labels]
    images, predicted, hits = (
        np.bincount(each, minlength=len(classes)) for each in (answers.labels, answers.predicted, right)
    )
    return tuple(
        ClassScore(
            index=index, name=classes[index], images=int(images[index]), predicted=int(predicted[index]),
            right=int(hits[index]),
        )
        for index in np.flatnonzero(images + predicted).tolist()
    )  # fmt: skip


def _confusions(answers: ImageAnswers) -> tuple[tuple[int, int, int], ...]:
    wrong = answers.predicted != answers.labels
    pairs = np.stack([answers.labels[wrong], answers.predicted[wrong]], axis=1)
    found, counts = np.unique(pairs, axis=0, return_counts=True)
    order = np.argsort(-counts, kind="stable")[:MAX_CONFUSIONS]
    rows = np.column_stack([found, counts])[order].tolist()
    return tuple((true, predicted, images) for true, predicted, images in rows)
