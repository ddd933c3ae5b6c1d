"""The report's section about evaluations: figures of the newest, a table of all, and what is said of the test split."""

from __future__ import annotations

import re

import numpy as np
import pytest

from sepnas.measure.evaluation.scores import ImageAnswers, scores_of
from sepnas.report.content import ReportContent
from sepnas.report.page import render_report
from sepnas.spec.evaluation import Agreement, ClassifierEvaluation


def evaluation(classes: int, present: int, seed: int = 0, **changes: object) -> ClassifierEvaluation:
    """100 images of ``present`` classes, about half of them right."""
    numbers = np.random.default_rng(seed)
    labels = np.arange(100) % present
    logits = numbers.standard_normal((100, classes)).astype(np.float32) + 3 * np.eye(classes, dtype=np.float32)[labels]
    answers = ImageAnswers.of(logits, labels, np.arange(present))
    facts = {
        "network": "runs/training", "kind": "run", "weights": "a" * 64, "num_classes": classes, "through": "process",
        "data": "folder:birds", "split": "validation", "images": 100, "images_in_split": 100,
        "classes_in_data": present, "matched_by": "name", "content_sha256": "b" * 64,
        "scores": scores_of(answers, [f"bird {k}" for k in range(classes)], present), "command": "sepnas evaluate",
        "date": "2026-01-31T00:00:00+00:00", "duration_s": 1.0,
    }  # fmt: skip
    return ClassifierEvaluation.model_validate(facts | changes)


def page(*evaluations: ClassifierEvaluation) -> str:
    return render_report(ReportContent(classifiers=evaluations))


@pytest.mark.parametrize(("classes", "present"), [(30, 30), (1000, 10)])
def test_each_class_and_confusion_has_a_mark(classes: int, present: int) -> None:
    """Bars, squares and intervals tell their numbers; many classes are cut to the lowest, and the caption says so."""
    found = evaluation(classes, present)
    text = page(found)
    assert len(re.findall(r"bird \d+: [\d.]+ % of \d+ images? right", text)) == min(present, 24)
    squares = re.findall(r"bird \d+, (?:recognised|taken for [^:]+): (\d+) images?, ", text)
    assert sum(map(int, squares)) == 100 if present <= 20 else len(squares) > 20
    assert len(re.findall(r"confidence [\d.]+ % on average", text)) >= sum(
        b.images > 0 for b in found.scores.reliability
    )
    assert ("the 24 lowest of 30 classes" in text) == (present == 30)
    assert ("The data have 10 of the network" in text) == (classes == 1000)


def test_all_evaluations_are_in_one_table() -> None:
    """The newest comes first; the use of the test split, and agreement with one process, are said; no id is random."""
    agreement = Agreement(network="runs/training", images=100, same=99, largest_difference=1e-6)
    tested = evaluation(3, 3, split="test")
    newest = evaluation(
        3, 3, kind="deployment", through="devices", plan="few", num_devices=2, agreement=agreement
    )  # fmt: skip
    text = page(tested, newest)
    assert text.index("2 devices, plan few</td>") < text.index("one process</td>")
    assert "99 of 100 images get the same class from runs/training in one process." in text
    assert "The test split was used by 1 evaluation here" in text
    assert text == page(tested, newest)
    assert 'id="evaluation"' not in page()
