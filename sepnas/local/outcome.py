"""The outcome of a whole chain as measures, as a table and as a page."""

from __future__ import annotations

from datetime import date
from pathlib import Path

from rich.text import Text

from sepnas.console import say
from sepnas.cost.timeline import Timeline, predicted_timeline
from sepnas.local.pipeline import SEARCH, TRAINING, Chain, Outcome, SplitAnswers
from sepnas.report.content import Accuracy, ClassAccuracy, ReportContent, SummaryRow
from sepnas.report.from_run import counted_bytes, link_bytes, machine_rows, shown_timeline, training_curves
from sepnas.report.from_search import search_parts
from sepnas.report.from_trace import measured_timeline
from sepnas.results.provenance import command_line
from sepnas.results.recorder import Recorder
from sepnas.tables import DataColumn, DataTable, print_table, text_column
from sepnas.units import number, seconds


def record_outcome(record: Recorder, outcome: Outcome, rate_per_s: float) -> None:
    """The measures that every run of the whole chain reports."""
    answers, requests = outcome.answers, outcome.answers.counters.requests
    record.measure("accuracy_whole", answers.accuracy_whole, n=len(answers.labels))
    record.measure("accuracy_devices", answers.accuracy_devices, n=len(answers.labels))
    record.measure("answers_that_differ", answers.num_different, n=len(answers.labels), goal="== 0")
    record.measure("largest_relative_difference_of_logits", answers.largest_difference, goal="<= 1e-5")
    predicted, counted = answers.payload_bytes_predicted, answers.counters.payload_bytes
    record.measure("payload_bytes_predicted", predicted, "B", n=requests)
    record.measure("payload_bytes_counted", counted, "B", n=requests, goal=f"== {predicted}")
    predicted, counted = answers.input_bytes_predicted, answers.counters.input_bytes
    record.measure("input_bytes_counted", counted, "B", n=requests, goal=f"== {predicted}")
    predicted, counted = answers.total_bytes_predicted, answers.counters.total_bytes
    record.measure("total_bytes_counted", counted, "B", n=requests, goal=f"== {predicted}")
    predicted = answers.wire_bytes_predicted
    record.measure("wire_bytes_counted", answers.counters.wire_bytes, "B", n=requests, goal=f"== {predicted}")
    record.measure("payload_share_of_all_to_all", _share(outcome))
    bench = answers.bench
    record.measure("latency_predicted_s", outcome.simulation.latency_s, "s")
    record.measure(
        "latency_measured_s", bench.latency_median_s, "s", bench.latency_min_s, bench.latency_p99_s, bench.requests
    )
    record.measure("candidates", outcome.search.candidates)
    record.measure("candidates_simulated_per_s", rate_per_s, "1/s")


def _share(outcome: Outcome) -> float:
    return outcome.plan.payload_bytes() / outcome.baseline_bytes


def summary_rows(outcome: Outcome) -> list[SummaryRow]:
    answers, counters = outcome.answers, outcome.answers.counters
    return [
        SummaryRow(
            f"test accuracy ({len(answers.labels)} images): whole network, through the devices",
            f"{answers.accuracy_whole:.2%}",
            f"{answers.accuracy_devices:.2%}",
            answers.num_different == 0,
        ),
        SummaryRow("answers that differ", "0", str(answers.num_different), answers.num_different == 0),
        _bytes_row(
            "payload bytes between devices: predicted, counted on the sockets",
            answers.payload_bytes_predicted, counters.payload_bytes,
        ),
        _bytes_row("with frame headers", answers.wire_bytes_predicted, counters.wire_bytes),
        _bytes_row("input bytes, from the client", answers.input_bytes_predicted, counters.input_bytes),
        _bytes_row("total: input, output and between devices", answers.total_bytes_predicted, counters.total_bytes),
        SummaryRow("share of all-to-all's payload bytes between devices", "", f"{_share(outcome):.2%}"),
        SummaryRow(
            "latency of one image on this machine: predicted, measured (median)" + _because(outcome),
            seconds(outcome.simulation.latency_s), seconds(answers.bench.latency_median_s),
        ),
    ]  # fmt: skip


def _bytes_row(name: str, predicted: int, counted: int) -> SummaryRow:
    return SummaryRow(name, number(predicted), number(counted), predicted == counted)


def _because(outcome: Outcome) -> str:
    reason = outcome.why_latency_differs
    return f"; they differ: {reason}" if reason else ""


def print_outcome(outcome: Outcome, report: Path) -> None:
    """The table at the end."""
    numbers = DataColumn("predicted /\nwhole"), DataColumn("measured /\ndevices")
    table = DataTable((text_column("what came out"), *numbers, text_column("agree")))
    for row in summary_rows(outcome):
        agree = {None: Text(""), True: Text("yes"), False: Text("NO", "bold red")}[row.agree]
        table.add(row.name, row.expected, row.observed, agree)
    print_table(table)
    say(f"report: {report.resolve().as_uri()}")


def report_content(chain: Chain, outcome: Outcome, title: str) -> ReportContent:
    """The page of a whole chain."""
    answers = outcome.answers
    return ReportContent(
        title=title,
        lead=(
            f"{outcome.search.candidates} candidates were evaluated; the chosen one sends {_share(outcome):.1%} of the "
            "bytes of all-to-all exchange. It was trained from scratch, cut for its devices and run by one process for "
            "each over TLS 1.3."
        ),
        summary=tuple(summary_rows(outcome)),
        **search_parts(chain.out / SEARCH, outcome.chosen.key),
        cluster=chain.cluster.name,
        about=f"{chain.out}, {chain.data.name}, {date.today():%Y-%m-%d}",
        timelines=tuple(shown_timeline(timeline) for timeline in _timelines(outcome)),
        links=link_bytes(outcome.simulation, counted_bytes(answers.counters)),
        accuracy=_accuracy(chain, answers),
        architecture=outcome.chosen.architecture,
        history=training_curves(chain.out / TRAINING),
        machine=machine_rows(),
        commands=(command_line(),),
    )


def _timelines(outcome: Outcome) -> tuple[Timeline, Timeline]:
    """One request as predicted and the last one as measured."""
    measured = measured_timeline(outcome.answers.trace.requests[-1])
    return predicted_timeline(outcome.plan, outcome.simulation), measured


def _accuracy(chain: Chain, answers: SplitAnswers) -> Accuracy:
    def share(logits, index: int) -> float:  # type: ignore[no-untyped-def]
        mine = answers.labels == index
        return float((logits[mine].argmax(1) == index).mean()) if mine.any() else 0.0

    classes = tuple(
        ClassAccuracy(name, share(answers.whole, index), share(answers.devices, index))
        for index, name in enumerate(chain.data.classes)
    )
    return Accuracy(
        answers.accuracy_whole, answers.accuracy_devices, len(answers.labels), answers.num_different, classes
    )
