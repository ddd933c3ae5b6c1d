"""The file of a classifier's evaluations: accuracy, confusions, and how far its confidence can be trusted."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from statistics import fmean
from typing import Annotated, ClassVar, Literal, TypeAlias

from pydantic import Field, model_validator
from typing_extensions import Self

from sepnas.spec.document import Document, Part, short
from sepnas.spec.figures import Count, Index, NotNegative, Sha256, Text
from sepnas.spec.files import is_there
from sepnas.spec.folder_lock import changing

EVALUATION_NAME = "evaluation.json"
NUM_BINS = 15
"""Intervals of confidence, of equal width (Guo et al., arXiv 1706.04599)."""
MAX_CONFUSIONS = 50_000
"""Maximum number of different confusions in a file; the rarest are left out."""
MAX_KEPT = 32
"""Maximum number of evaluations in a file; the oldest are left out."""

NetworkKind: TypeAlias = Literal["run", "network", "deployment"]
SplitChoice: TypeAlias = Literal["train", "validation", "test"]
EvaluatedSplit: TypeAlias = Literal["train", "validation", "test", "whole"]
"""``whole``: a folder without splits."""
ClassMatch: TypeAlias = Literal["name", "index", "wordnet"]
"""How the classes of the data were found among those of the network."""
Share = Annotated[float, Field(ge=0, le=1)]


class ClassScore(Part):
    """A class that occurs in the data or among the answers: its images, the answers that name it, the right ones."""

    index: Index
    name: Text
    images: Index
    predicted: Index
    right: Index

    @model_validator(mode="after")
    def _check_right(self) -> Self:
        most = min(self.images, self.predicted)
        if self.right > most:
            raise ValueError(f"`right` of class {short(self.name)} must be at most {most:,}, got {self.right:,}")
        return self

    @property
    def accuracy(self) -> float:
        """The share of its images that were recognised (recall); 0 without images."""
        return self.right / max(1, self.images)

    @property
    def precision(self) -> float:
        """The share of the answers with this class that are right; 0 without answers."""
        return self.right / max(1, self.predicted)


class ReliabilityBin(Part):
    """The images whose confidence lies in one interval: their mean confidence and accuracy, 0 if there are none."""

    images: Index
    confidence: Share
    accuracy: Share


class ClassificationScores(Part):
    """Scores over all images.

    ``top5_accuracy``: None with five classes or fewer. ``present_accuracy``: among the classes that occur in the data,
    if those are not all. ``calibration_error``: the expected calibration error over :data:`NUM_BINS` intervals.
    ``negative_log_likelihood`` is the mean over images, in nats. ``confusions`` lists true class, predicted class and
    number of images, for wrong answers, the most frequent first.
    """

    accuracy: Share
    top5_accuracy: Share | None = None
    present_accuracy: Share | None = None
    calibration_error: Share
    negative_log_likelihood: NotNegative
    classes: Annotated[tuple[ClassScore, ...], Field(min_length=1)]
    confusions: Annotated[tuple[tuple[Index, Index, Count], ...], Field(max_length=MAX_CONFUSIONS)] = ()
    reliability: Annotated[tuple[ReliabilityBin, ...], Field(min_length=NUM_BINS, max_length=NUM_BINS)]

    @model_validator(mode="after")
    def _check_classes(self) -> Self:
        known = {each.index for each in self.classes}
        if len(known) < len(self.classes):
            raise ValueError("`classes` must have an `index` each, but two have the same")
        if not self.shown_classes:
            raise ValueError("`classes` must have `images`, but none has any")
        for place, (true, predicted, _) in enumerate(self.confusions):
            if not {true, predicted} <= known:
                raise ValueError(f"`confusions.{place}` is of classes {true} and {predicted}; `classes` must list both")
        return self

    @property
    def shown_classes(self) -> tuple[ClassScore, ...]:
        """The classes with images."""
        return tuple(each for each in self.classes if each.images)

    @property
    def mean_of_classes(self) -> float:
        """The mean of the class accuracies, with equal weight for each class with images."""
        return fmean(each.accuracy for each in self.shown_classes)


class Agreement(Part):
    """The same images through another network in one process: ``same`` of them get the same class.

    ``largest_difference``: of a class score, relative to the largest score of its image.
    """

    network: Text
    images: Count
    same: Index
    largest_difference: NotNegative

    def __str__(self) -> str:
        return f"{self.same:,} of {self.images:,} images get the same class from {self.network} in one process"


class ExchangedBytes(Part):
    """Bytes of tensors that were counted on the sockets: between devices, from the client, and all with the answers."""

    payload_bytes: Index
    input_bytes: Index
    total_bytes: Index

    @model_validator(mode="after")
    def _check_total(self) -> Self:
        if self.total_bytes < self.payload_bytes + self.input_bytes:
            raise ValueError(
                f"`total_bytes` must be at least {self.payload_bytes + self.input_bytes:,}, those between devices and "
                f"of the inputs, got {self.total_bytes:,}"
            )
        return self


class ClassifierEvaluation(Part):
    """One evaluation: the network and its weights, the data, the way of computing, the scores.

    ``weights`` is the digest of a run's or imported network's tensors, or the identity of a deployment. ``plan`` and
    ``num_devices`` are those of a deployment, ``exchanged`` is what it sent for all images. ``images`` of the split's
    ``images_in_split`` were evaluated, of ``classes_in_data`` of the network's ``num_classes``. ``content_sha256`` is
    the digest of pixels and labels; ``commit`` that of the tree that the command ran in. ``date`` is UTC.
    """

    network: Text
    kind: NetworkKind
    weights: Sha256
    num_classes: Count
    through: Literal["process", "devices"]
    plan: str | None = None
    num_devices: Index = 0
    exchanged: ExchangedBytes | None = None
    data: Text
    split: EvaluatedSplit
    images: Count
    images_in_split: Count
    classes_in_data: Count
    matched_by: ClassMatch
    content_sha256: Sha256
    scores: ClassificationScores
    agreement: Agreement | None = None
    command: str
    commit: str | None = None
    date: str
    duration_s: NotNegative

    @property
    def through_words(self) -> str:
        """How it was computed, in words."""
        if self.through == "process":
            return "one process"
        devices = "1 device" if self.num_devices == 1 else f"{self.num_devices} devices"
        return f"{devices}, plan {self.plan}"

    @property
    def bytes_words(self) -> str | None:
        """The bytes of an image, in words; None in one process."""
        if self.exchanged is None:
            return None
        between, total = self.exchanged.payload_bytes, self.exchanged.total_bytes
        return (
            f"{between / self.images:,.0f} bytes between devices for an image, {total / self.images:,.0f} with its "
            "input and answer"
        )

    @property
    def data_words(self) -> str:
        """The images, in words."""
        few = "" if self.images == self.images_in_split else f" of {self.images_in_split:,}"
        images = f"{self.images:,}{few} {'image' if self.images_in_split == 1 else 'images'}"
        return f"{images} of {self.data}" + ("" if self.split == "whole" else f", {self.split} split")

    def replaces(self, other: ClassifierEvaluation) -> bool:
        """Whether the other one is out of date: other weights, or the same measurement."""
        return self.weights != other.weights or self._what == other._what

    @property
    def _what(self) -> tuple[object, ...]:
        return self.through, self.plan, self.data, self.split


class EvaluationFile(Document):
    """The evaluations of a network's current weights, the newest last; it lies in the network's folder."""

    format_name: ClassVar[str] = "sepnas.classifier-evaluations"

    evaluations: Annotated[tuple[ClassifierEvaluation, ...], Field(max_length=MAX_KEPT)] = ()

    def with_new(self, evaluation: ClassifierEvaluation) -> Self:
        """With one evaluation more, in place of those that it replaces."""
        kept = [each for each in self.evaluations if not evaluation.replaces(each)]
        return self.model_copy(update={"evaluations": (*kept[1 - MAX_KEPT :], evaluation)})


def keep_evaluation(evaluation: ClassifierEvaluation, file: Path) -> None:
    """Add an evaluation to the file, which is written at once; raises :class:`StorageError`."""
    with changing(file):
        earlier_evaluations(file).with_new(evaluation).save(file)


def earlier_evaluations(file: Path) -> EvaluationFile:
    """What the file holds, or nothing yet; raises :class:`SpecError` if it is damaged."""
    return EvaluationFile.load(file) if is_there(file) else EvaluationFile()


def read_kept(files: Iterable[Path]) -> tuple[ClassifierEvaluation, ...]:
    """The evaluations in these files; raises :class:`SpecError` if one is missing or damaged."""
    return tuple(each for file in files for each in EvaluationFile.load(file).evaluations)
