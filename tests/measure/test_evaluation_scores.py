"""Scores from logits are those of scikit-learn, whatever the batches."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.calibration import calibration_curve
from sklearn.metrics import accuracy_score, confusion_matrix, log_loss, recall_score, top_k_accuracy_score

from sepnas.errors import DataError
from sepnas.measure.evaluation.scores import ImageAnswers, calibration_error, reliability, scores_of
from sepnas.report.figures.evaluation import confusion_matrix as drawn_matrix
from sepnas.spec.evaluation import NUM_BINS, ClassificationScores

CLASSES = tuple(f"class {index}" for index in range(7))


def scored(logits: np.ndarray, labels: np.ndarray, batch: int = 1000) -> ClassificationScores:
    present = np.unique(labels)
    parts = [
        ImageAnswers.of(logits[i : i + batch], labels[i : i + batch], present) for i in range(0, len(labels), batch)
    ]  # fmt: skip
    return scores_of(ImageAnswers.joined(parts), CLASSES, len(present))


@st.composite
def answered(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Logits without ties, and labels of some of the classes."""
    numbers = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    count, present = draw(st.integers(1, 60)), draw(st.integers(1, len(CLASSES)))
    logits = numbers.standard_normal((count, len(CLASSES))) * draw(st.sampled_from((0.1, 1.0, 4.0)))
    return logits.astype(np.float32), numbers.integers(0, present, count)


@pytest.mark.filterwarnings("ignore:A single label was found")
@settings(max_examples=25, deadline=None)
@given(answered(), st.integers(1, 20))
def test_scores_are_those_of_scikit_learn(found: tuple[np.ndarray, np.ndarray], batch: int) -> None:
    """Accuracy, top 5, recall of each class, confusions and the likelihood, in batches of any size."""
    logits, labels = found
    scores, predicted, every = scored(logits, labels, batch), logits.argmax(1), range(len(CLASSES))
    shifted = np.exp(logits.astype(np.float64) - logits.max(1, keepdims=True))
    shares = shifted / shifted.sum(1, keepdims=True)
    assert scores.accuracy == pytest.approx(accuracy_score(labels, predicted))
    assert scores.top5_accuracy == pytest.approx(top_k_accuracy_score(labels, logits, k=5, labels=every))
    recalls = recall_score(labels, predicted, labels=every, average=None, zero_division=0)
    assert [each.accuracy for each in scores.shown_classes] == pytest.approx(recalls[np.unique(labels)].tolist())
    assert scores.mean_of_classes == pytest.approx(recalls[np.unique(labels)].mean())
    wanted = confusion_matrix(labels, predicted, labels=[each.index for each in scores.classes])
    assert (drawn_matrix(scores.classes, scores.confusions) == wanted).all()
    likelihood = log_loss(labels, np.maximum(shares, 1e-300), labels=every)
    assert scores.negative_log_likelihood == pytest.approx(likelihood, rel=1e-6)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=80))
def test_the_calibration_error_is_that_of_its_definition(found: list[tuple[float, bool]]) -> None:
    """Bins are those of scikit-learn; the error is the mean distance, each bin by its images (Guo et al., eq. 5)."""
    confidence, right = (np.array(each) for each in zip(*found, strict=True))
    bins = reliability(confidence, right)
    shown = [each for each in bins if each.images]
    shares, means = calibration_curve(right, confidence, n_bins=NUM_BINS, strategy="uniform", pos_label=True)
    assert [each.accuracy for each in shown] == pytest.approx(shares.tolist())
    assert [each.confidence for each in shown] == pytest.approx(means.tolist())
    assert sum(each.images for each in bins) == len(found)
    weights = np.array([each.images for each in shown]) / len(found)
    assert calibration_error(bins) == pytest.approx(float((weights * np.abs(shares - means)).sum()))


def test_a_subset_of_the_classes_has_an_accuracy_of_its_own() -> None:
    """With two of seven classes in the data, the accuracy among these is higher; with all of them there is none."""
    logits = np.zeros((2, 7), np.float32)
    logits[:, 5], logits[0, 1], logits[1, 2] = 3, 2, 2
    scores = scored(logits, np.array([1, 2]))
    assert (scores.accuracy, scores.present_accuracy, scores.top5_accuracy) == (0, 1, 1)
    assert scores.confusions == ((1, 5, 1), (2, 5, 1))
    assert scored(np.eye(7, dtype=np.float32), np.arange(7)).present_accuracy is None


def test_ties_go_to_the_first_class() -> None:
    """The rank of a class among equal scores is its place, as of the prediction."""
    answers = ImageAnswers.of(np.zeros((7, 7), np.float32), np.arange(7), np.arange(7))
    assert answers.rank.tolist() == list(range(7))
    assert answers.predicted.tolist() == [0] * 7


def test_scores_that_are_not_finite_are_refused() -> None:
    """A network that answers NaN has no accuracy."""
    with pytest.raises(DataError, match="NaN or infinity"):
        scored(np.full((1, 7), np.nan, np.float32), np.array([0]))


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"confusions": [(0, 99, 1)]}, "`confusions.0` is of classes 0 and 99"),
        ({"classes": [{"index": 0, "name": "a", "images": 0, "predicted": 1, "right": 0}]}, "must have `images`"),
        ({"classes": [{"index": 0, "name": "a", "images": 1, "predicted": 1, "right": 2}]}, "must be at most 1, got 2"),
        ({"classes": [{"index": 0, "name": "a", "images": 1, "predicted": 1, "right": 1}] * 2}, "two have the same"),
    ],
)
def test_scores_that_contradict_themselves_are_refused(changed: dict[str, object], says: str) -> None:
    """A file whose confusions are of unknown classes, or with more right answers than images, is not drawn."""
    data = scored(np.eye(7, dtype=np.float32)[[0, 1, 2]], np.array([0, 1, 1])).model_dump(mode="json")
    with pytest.raises(ValueError, match=says):
        ClassificationScores.model_validate({**data, "confusions": [], **changed})
