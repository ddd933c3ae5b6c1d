"""``sepnas demo``: the whole way on handwritten digits, three processes for three devices."""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Annotated, ClassVar

import typer
from rich.text import Text

from sepnas.cli.chain import (
    ARCHITECTURE_FILE,
    CLUSTER_FILE,
    DEPLOYMENT,
    SEARCH,
    TRACE_FILE,
    TRAINING,
    Answers,
    Chain,
    Outcome,
    local_cluster,
    run_chain,
)
from sepnas.cli.common import FILE, FOLDER, MAX_COUNT, number, resumable, say, seconds
from sepnas.cli.pages import counted_bytes, link_bytes, machine_rows, shown_timeline, training_curves
from sepnas.cli.search_page import search_parts
from sepnas.cli.tables import DataColumn, DataTable, print_table, text_column
from sepnas.cli.traced import measured_timeline
from sepnas.cost.simulator import simulate
from sepnas.cost.timeline import Timeline, predicted_timeline
from sepnas.errors import ExchangeError, SpecError
from sepnas.plan.build import build_plan
from sepnas.report.content import Accuracy, ClassAccuracy, ReportContent, SummaryRow
from sepnas.report.provenance import command_line
from sepnas.report.recorder import Recorder
from sepnas.spec.cluster import Cluster
from sepnas.spec.document import Document
from sepnas.spec.folder_lock import LOCK_FILE, held
from sepnas.spec.space import SearchSpace

RATE_SAMPLE_S = 2.0
REPORT, RESULT, MARKER = "report.html", "result.json", "demo.json"
WRITTEN = (SEARCH, TRAINING, DEPLOYMENT, ARCHITECTURE_FILE, CLUSTER_FILE, TRACE_FILE, REPORT, RESULT, MARKER)


class DemoMarker(Document):
    """Says that a folder is a demo's, so that the next one may replace what this one wrote."""

    format_name: ClassVar[str] = "sepnas.demo"


DEMO_SPACE = Path("search_spaces/demo.yaml")


def demo(
    out: Annotated[
        Path, typer.Option(**FOLDER, help="Where everything goes; an earlier demo there is replaced.")
    ] = Path("runs/demo"),
    result: Annotated[Path | None, typer.Option(**FILE, help="Write the measures to this file too.")] = None,
    space: Annotated[Path, typer.Option(**FILE, help="The search space.")] = DEMO_SPACE,
    candidates: Annotated[int, typer.Option(min=1, max=MAX_COUNT, help="How many candidates to evaluate.")] = 200,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of everything.")] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where an interrupted demo stopped.")] = False,
) -> None:
    """Search, train, cut and run a small separable network on scikit-learn's handwritten digits.

    A supernet is trained, NNI judges candidates on it, one point of the front is trained from scratch and exported for
    three devices, and three processes answer the whole test split over TLS. Takes a minute or two on two cores.

    Example: `sepnas demo --out runs/demo`
    """
    from sepnas.report.page import write_report
    from sepnas.train.data import load_dataset

    if space == DEMO_SPACE and not space.exists():
        raise SpecError(f"{space}: no such file; run the demo in sepnas' repository, or name its file with --space")
    started = time.perf_counter()
    wanted, data = SearchSpace.load(space), load_dataset("digits")
    with _prepared(out, resume), Recorder(out / RESULT, seeds=(seed,)) as record:
        cluster = local_cluster(out, wanted.num_devices, resume, wanted.architecture_of(wanted.largest()))
        chain = Chain(wanted, cluster, data, out, "digits", candidates, seed, resume=resume)
        with resumable(out, MARKER):
            outcome = run_chain(chain)
        rate_per_s = simulation_rate(chain.space, cluster, seed)
        write_report(out / REPORT, report_content(chain, outcome, "sepnas demo: handwritten digits on three devices"))
        record_outcome(record, outcome, rate_per_s)
        # not among what every chain reports: beside other programs it says nothing of the chain
        record.measure("latency_predicted_over_measured", outcome.latency_ratio, goal="<= 1.2")
        record.measure("measured_over_predicted", 1 / outcome.latency_ratio, goal="<= 1.2")
        record.measure("others_share_of_processors", outcome.answers.others)
        record.measure("demo_wall_s", time.perf_counter() - started, "s", goal="<= 180")
        record.table("stages", [{"stage": s, "seconds": round(t, 2)} for s, t in outcome.duration_s.items()])
    if result is not None:
        record.result().save(result)
    print_outcome(outcome, out / REPORT)
    wrong = [row.name for row in _summary(outcome) if row.agree is False]
    if wrong:
        raise ExchangeError(f"the devices do not do what the plan says: {'; '.join(wrong)}")


@contextmanager
def _prepared(out: Path, resume: bool) -> Iterator[None]:
    """A prepared folder that no other process writes in."""
    _refuse_file(out)
    with held(out, "showing a demo"):
        _prepare(out, resume)
        yield


def _refuse_file(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise SpecError(f"--out {out}: is a file; name a folder")


def _prepare(out: Path, resume: bool) -> None:
    """A folder that is empty or a demo's; what an earlier demo wrote there is removed unless it goes on."""
    marker = out / MARKER
    _refuse_file(out)
    if marker.exists():
        DemoMarker.load(marker)
    elif out.exists() and any(path.name != LOCK_FILE for path in out.iterdir()):
        raise SpecError(f"--out {out}: is not empty and not a demo's folder (it has no {MARKER}); name another")
    if not resume:
        for name in WRITTEN:
            _remove(out / name)
    DemoMarker().save(marker)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def simulation_rate(space: SearchSpace, cluster: Cluster, seed: int, sample_s: float = RATE_SAMPLE_S) -> float:
    """Random candidates of a space lowered and simulated a second, on one core."""
    draw = random.Random(seed).randrange
    count, start = 0, time.perf_counter()
    while time.perf_counter() - start < sample_s:
        simulate(build_plan(space.architecture_of(space.sample(draw))), cluster)
        count += 1
    return count / (time.perf_counter() - start)


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


def _summary(outcome: Outcome) -> list[SummaryRow]:
    answers = outcome.answers
    predicted, counted = answers.payload_bytes_predicted, answers.counters.payload_bytes
    return [
        SummaryRow(
            f"test accuracy ({len(answers.labels)} images): whole network, through the devices",
            f"{answers.accuracy_whole:.2%}",
            f"{answers.accuracy_devices:.2%}",
            answers.num_different == 0,
        ),
        SummaryRow("answers that differ", "0", str(answers.num_different), answers.num_different == 0),
        SummaryRow(
            "payload bytes between devices: predicted, counted on the sockets",
            number(predicted), number(counted), predicted == counted,
        ),
        SummaryRow(
            "with frame headers",
            number(answers.wire_bytes_predicted), number(answers.counters.wire_bytes),
            answers.wire_bytes_predicted == answers.counters.wire_bytes,
        ),
        SummaryRow("share of all-to-all's payload bytes", "", f"{_share(outcome):.2%}"),
        SummaryRow(
            "latency of one image on this machine: predicted, measured (median)" + _because(outcome),
            seconds(outcome.simulation.latency_s), seconds(answers.bench.latency_median_s),
        ),
    ]  # fmt: skip


def _because(outcome: Outcome) -> str:
    reason = outcome.why_latency_differs
    return f"; they differ: {reason}" if reason else ""


def print_outcome(outcome: Outcome, report: Path) -> None:
    """The table at the end."""
    numbers = DataColumn("predicted /\nwhole"), DataColumn("measured /\ndevices")
    table = DataTable((text_column("what came out"), *numbers, text_column("agree")))
    for row in _summary(outcome):
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
            f"{outcome.search.candidates} candidates were judged; the chosen one sends {_share(outcome):.1%} of what "
            "all-to-all exchange sends. It was trained from scratch, cut for its devices and run by one process for "
            "each over TLS 1.3."
        ),
        summary=tuple(_summary(outcome)),
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


def _accuracy(chain: Chain, answers: Answers) -> Accuracy:
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
