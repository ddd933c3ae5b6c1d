"""The sections about plans on one cluster: their comparison, and the maps of who computes what."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

from sepnas.report.body import Picture, Section, SortableCell, Table, picture
from sepnas.report.comparison.values import Comparison, PricedPlan, ratio_of
from sepnas.report.comparison.verdict import accuracy_varies, verdict
from sepnas.report.content import ReportContent
from sepnas.report.figures.comparison import accuracy_drawing, bytes_drawing, devices_drawing
from sepnas.report.figures.timeline import BUSY_HEADER, busy_rows, timeline_drawing
from sepnas.report.map_view import shown_map
from sepnas.units import format_bytes, format_count, format_seconds, format_share, format_threads

_MANY, _BRIEF = 16, 8
"""A longer table of plans is folded, under a brief one of the fastest."""
_OF_TOTAL = "The payload of all messages: between devices, input and output."


def comparison_section(content: ReportContent) -> Section | None:
    """Every plan on the cluster, in pictures and tables."""
    comparison = content.comparison
    if comparison is None or not comparison.everything:
        return None
    return Section(
        "comparison",
        f"Ways to run it on cluster {comparison.cluster}",
        f"{verdict(comparison)}{_threads(comparison)}".strip(),
        tuple(_pictures(comparison)) if comparison.plans else (),
        tuple(_tables(comparison)),
    )


def maps_section(content: ReportContent) -> Section | None:
    """The map of each plan; the folded ones come last."""
    if not content.maps:
        return None
    return Section(
        "map",
        "Who computes what",
        "Each card is a stretch of layers that are divided alike: above, what the devices receive for it; in the "
        "picture, the part of the layers' output that each device computes; below, each device's share of the work.",
        maps=tuple(shown_map(each.found, each.folded) for each in content.maps),
    )


def plan_timeline_section(content: ReportContent) -> Section | None:
    """When each device computes, waits, sends and receives under the first plan of the maps."""
    timeline = content.plan_timeline
    if timeline is None:
        return None
    shown = (replace(timeline, title=""),)
    return Section(
        "plan-timeline",
        "When each device works",
        f"{timeline.title}: the answer takes {format_seconds(timeline.latency_s)}.",
        (picture(partial(timeline_drawing, shown, "plan-timeline"), "One inference, predicted.", wide=True),),
        (Table("Sums for each device", _without_title(BUSY_HEADER), tuple(map(_without_title, busy_rows(shown)))),),
    )


def _without_title(row: tuple[str, ...]) -> tuple[str, ...]:
    return (row[0], *row[2:])


def _threads(comparison: Comparison) -> str:
    told = format_threads(comparison.threads) if comparison.threads else ""
    return f" Predicted for devices of {told}." if told and comparison.plans else ""


def _pictures(comparison: Comparison) -> Iterator[Picture]:
    line = " The dashed line is one device alone." if comparison.alone else ""
    if accuracy_varies(comparison):
        yield picture(partial(accuracy_drawing, comparison), f"Up and to the left is better.{line}")
    yield picture(partial(bytes_drawing, comparison), f"Latency against bytes: down and to the left is better.{line}")
    if len({plan.num_devices for plan in comparison.plans}) > 1:
        yield picture(partial(devices_drawing, comparison), f"What more devices bring.{line}")
    yield picture(partial(bytes_drawing, comparison, total=True), f"{_OF_TOTAL}{line}")


def _tables(comparison: Comparison) -> Iterator[Table]:
    plans = sorted(comparison.everything, key=lambda plan: plan.latency_s)
    columns = [_row(comparison, plan) for plan in plans]
    several = {plan.network for plan in plans} != {plans[0].network}
    shown = [
        name
        for name in columns[0]
        if (name != "network" or several)
        and (name != "accuracy" or any(plan.accuracy is not None for plan in plans))
        and (name != "accuracy from" or accuracy_varies(comparison))
    ]
    rows = [tuple(row[name] for name in shown) for row in columns]
    alone = [plan.family == "alone" for plan in plans]
    brief = [at for at in range(len(rows)) if at < _BRIEF or alone[at]]
    if len(rows) > _MANY:
        caption = f"The {_BRIEF} fastest of {len(rows)} plans"
        yield _plan_table(caption, shown, [rows[at] for at in brief], [alone[at] for at in brief], 1 + several)
    caption = f"All {len(rows)} plans" if len(rows) > _MANY else format_count(len(rows), "plan")
    yield replace(_plan_table(caption, shown, rows, alone, 1 + several), folded=len(rows) > _MANY)
    if comparison.refused:
        told = tuple((each.network, each.scheme, str(each.num_devices), each.reason) for each in comparison.refused)
        yield Table("Not possible", ("network", "scheme", "devices", "because"), told, folded=True, num_text_columns=4)


def _plan_table(
    caption: str, header: Sequence[str], rows: Sequence[tuple[str, ...]], alone: Sequence[bool], num_text_columns: int
) -> Table:
    marked = frozenset(at for at, holds in enumerate(alone) if holds)
    return Table(caption, tuple(header), tuple(rows), marked=marked, num_text_columns=num_text_columns)


def _row(comparison: Comparison, plan: PricedPlan) -> dict[str, str]:
    alone = next((each for each in comparison.alone if each.network == plan.network), None) or next(
        iter(comparison.alone), None
    )
    ratio = "" if alone is None else SortableCell(f"{ratio_of(plan.latency_s, alone.latency_s):.2f} x", plan.latency_s)
    accuracy = "" if plan.accuracy is None else SortableCell(format_share(plan.accuracy), plan.accuracy)
    return {
        "network": plan.network,
        "plan": plan.label,
        "devices": str(plan.num_devices),
        "latency": SortableCell(format_seconds(plan.latency_s), plan.latency_s),
        "against one alone": ratio,
        "between devices": _bytes(plan.payload_bytes),
        "all messages": _bytes(plan.total_bytes),
        "most memory": _bytes(plan.peak_memory_bytes),
        "MACs": SortableCell(f"{plan.macs / 1e6:,.1f} M", plan.macs),
        "accuracy": accuracy,
        "accuracy from": plan.accuracy_of,
    }


def _bytes(count: int) -> SortableCell:
    return SortableCell(format_bytes(count), count)
