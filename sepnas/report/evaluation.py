"""The section about evaluations: accuracy of each class, confusions, and a reliability diagram."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

from sepnas.report.body import LONG, Picture, Section, SortableCell, Table, picture
from sepnas.report.content import ReportContent
from sepnas.report.figures.evaluation import class_bars_drawing, confusion_drawing, reliability_drawing
from sepnas.spec.evaluation import NUM_BINS, ClassificationScores, ClassifierEvaluation
from sepnas.units import format_count, format_share

MAX_BARS = 24
MAX_SQUARES = 20
"""Maximum number of classes in the pictures; the tables have them all."""
_MAX_CONFUSIONS = 40


def evaluation_section(content: ReportContent) -> Section | None:
    """All evaluations in a table, and the pictures of the newest."""
    if not content.classifiers:
        return None
    newest = content.classifiers[-1]
    return Section(
        "evaluation",
        "Evaluation",
        _lead(content.classifiers),
        tuple(_pictures(newest.scores)),
        (_overview(content.classifiers), *_tables(newest)),
    )


def _lead(evaluations: Sequence[ClassifierEvaluation]) -> str:
    newest = evaluations[-1]
    sentences = [
        f"{newest.network}: {format_share(newest.scores.accuracy)} of {newest.data_words} are right, computed by "
        f"{newest.through_words}."
    ]
    if newest.classes_in_data < newest.num_classes:
        sentences.append(
            f"The data have {newest.classes_in_data:,} of the network's {format_count(newest.num_classes, 'class')}."
        )
    if newest.bytes_words is not None:
        sentences.append(f"Counted: {newest.bytes_words}.")
    if newest.agreement is not None:
        sentences.append(f"{newest.agreement}.")
    if tested := [each for each in evaluations if each.split == "test"]:
        uses = format_count(len(tested), "evaluation")
        sentences.append(
            f"The test split was used by {uses} here: its accuracy is that of the final network only if it selected "
            "nothing."
        )
    return " ".join(sentences)


def _pictures(scores: ClassificationScores) -> Iterator[Picture]:
    shown = scores.shown_classes
    lowest = sorted(shown, key=lambda each: each.accuracy)[:MAX_BARS]
    which = "each class" if len(lowest) == len(shown) else f"the {MAX_BARS} lowest of {len(shown):,} classes"
    yield picture(partial(class_bars_drawing, lowest), f"Accuracy of {which}.")
    worst = sorted(shown, key=lambda each: each.right - each.images)[:MAX_SQUARES]
    rows = sorted(worst, key=lambda each: each.index)
    which = "all classes" if len(rows) == len(shown) else f"the {MAX_SQUARES} classes with most errors"
    caption = f"Confusion matrix of {which}: shares of each row's images."
    yield picture(partial(confusion_drawing, rows, scores.confusions), caption)
    yield picture(
        partial(reliability_drawing, scores),
        f"Reliability: accuracy in {NUM_BINS} intervals of confidence. A calibrated network is on the diagonal.",
    )


def _overview(evaluations: Sequence[ClassifierEvaluation]) -> Table:
    header = (
        "network", "data", "split", "through", "images", "accuracy", "top 5", "calibration error", "NLL",
        "bytes between devices, an image",
    )  # fmt: skip
    rows = tuple(
        (
            each.network, each.data, each.split, each.through_words, SortableCell(f"{each.images:,}", each.images),
            _share(each.scores.accuracy), _share(each.scores.top5_accuracy), _share(each.scores.calibration_error),
            SortableCell(f"{each.scores.negative_log_likelihood:.3f}", each.scores.negative_log_likelihood),
            _payload(each),
        )
        for each in reversed(evaluations)
    )  # fmt: skip
    return Table("Evaluations, the newest first", header, rows, num_text_columns=4)


def _tables(newest: ClassifierEvaluation) -> Iterator[Table]:
    scores, names = newest.scores, {each.index: each.name for each in newest.scores.classes}
    classes = tuple(
        (each.name, SortableCell(f"{each.images:,}", each.images), _share(each.accuracy), _share(each.precision))
        for each in scores.shown_classes
    )
    yield Table(
        f"Accuracy of {format_count(len(classes), 'class')}", ("class", "images", "accuracy", "precision"), classes,
        folded=len(classes) > LONG,
    )  # fmt: skip
    confusions = tuple(
        (names[true], names[predicted], SortableCell(f"{images:,}", images))
        for true, predicted, images in scores.confusions[:_MAX_CONFUSIONS]
    )
    if confusions:
        header = ("class", "taken for", "images")
        yield Table("The most frequent confusions", header, confusions, folded=True, num_text_columns=2)
    facts = {
        "command": newest.command, "commit": newest.commit or "", "measured (UTC)": newest.date,
        "weights": newest.weights, "pixels and labels": newest.content_sha256, "classes found by": newest.matched_by,
    }  # fmt: skip
    yield Table("How it was measured", ("what", "value"), tuple(facts.items()), folded=True, num_text_columns=2)


def _payload(evaluation: ClassifierEvaluation) -> str:
    if evaluation.exchanged is None:
        return ""
    bytes_per_image = evaluation.exchanged.payload_bytes / evaluation.images
    return SortableCell(f"{bytes_per_image:,.0f}", bytes_per_image)


def _share(value: float | None) -> str:
    return "" if value is None else SortableCell(format_share(value), value)
