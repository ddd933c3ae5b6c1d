"""Converts a plan, a trace and a training run into the report's parts about one inference."""

from __future__ import annotations

from pathlib import Path
from typing import TypedDict

from sepnas.cost.simulator import Simulation, simulate
from sepnas.cost.timeline import predicted_timeline
from sepnas.errors import SpecError
from sepnas.plan.plan import Plan
from sepnas.plan.steps import CLIENT
from sepnas.report.content import ShownLink, ShownTimeline, SummaryRow
from sepnas.report.from_run import link_bytes, shown_timeline, traced_bytes, traced_client_bytes
from sepnas.report.from_trace import check_request, load_trace, measured_timeline
from sepnas.runtime.client.trace import RequestRecord
from sepnas.spec.cluster import Cluster
from sepnas.units import number, seconds


class InferenceParts(TypedDict):
    """The parts of :class:`ReportContent` about one inference."""

    summary: tuple[SummaryRow, ...]
    timelines: tuple[ShownTimeline, ...]
    links: tuple[ShownLink, ...]
    cluster: str


def inference_parts(
    plan: Plan | None, cluster: Cluster, trace: Path | None, training: Path | None, plan_name: str = "the plan"
) -> InferenceParts:
    """The prediction for ``plan`` on ``cluster``, compared with the last request of ``trace``.

    Raises :class:`SpecError`, which names ``plan_name`` and the trace, if the request followed another plan.
    """
    rows: list[SummaryRow] = []
    timelines: list[ShownTimeline] = []
    links: tuple[ShownLink, ...] = ()
    if training is not None:
        rows.append(_accuracy_row(training))
    request = None if trace is None else _last_request(trace, plan, plan_name)
    batch = 1 if request is None else request.batch
    if plan is not None:
        simulation = simulate(plan, cluster, batch, timeline=True)
        if request is not None:
            links = link_bytes(simulation, traced_bytes(request) | traced_client_bytes(request))
        timelines.append(shown_timeline(predicted_timeline(plan, simulation, batch)))
        rows += _cost_rows(simulation, request, cluster)
    if request is not None:
        timelines.append(shown_timeline(measured_timeline(request)))
    name = "" if plan is None else cluster.name
    return InferenceParts(summary=tuple(rows), timelines=tuple(timelines), links=links, cluster=name)


def _last_request(path: Path, plan: Plan | None, plan_name: str) -> RequestRecord:
    trace = load_trace(path)
    if plan is not None:
        try:
            check_request(plan, trace, len(trace.requests) - 1, path)
        except SpecError as error:
            raise SpecError(f"{path} was not taken with {plan_name}: {error}") from error
    return trace.requests[-1]


def _accuracy_row(training: Path) -> SummaryRow:
    from sepnas.train.record import best_of, read_history

    best = best_of(tuple(read_history(training)))
    return SummaryRow(f"validation accuracy, epoch {best.epoch}", "", f"{best.val_accuracy:.2%}")


def _cost_rows(simulation: Simulation, request: RequestRecord | None, cluster: Cluster) -> list[SummaryRow]:
    """Latency and bytes, predicted for a cluster and, if a request was traced, measured."""
    latency = f"latency of one inference, predicted for cluster {cluster.name!r}"
    sent, taken = "payload bytes between devices, predicted", "input bytes from the client, predicted"
    predicted_s, nbytes, input_bytes = seconds(simulation.latency_s), simulation.payload_bytes, simulation.input_bytes
    if request is None:
        return [
            SummaryRow(latency, predicted_s),
            SummaryRow(sent, number(nbytes)),
            SummaryRow(taken, number(input_bytes)),
        ]
    counted = sum(traced_bytes(request).values())
    counted_input = sum(size for pair, size in traced_client_bytes(request).items() if pair[0] == CLIENT)
    how = ", and counted by the devices"
    return [
        SummaryRow(f"{latency}, and measured", predicted_s, seconds(request.latency_s)),
        SummaryRow(f"{sent}{how}", number(nbytes), number(counted), counted == nbytes),
        SummaryRow(f"{taken}{how}", number(input_bytes), number(counted_input), counted_input == input_bytes),
    ]
