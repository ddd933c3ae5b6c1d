"""What a comparison amounts to, in sentences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sepnas.report.comparison.values import Comparison, PricedPlan, ratio_of
from sepnas.units import format_bytes, format_seconds, format_share

_NOTICEABLE = 0.01
"""A split that is faster by a smaller share does not pay: predictions are not that exact."""


def verdict(comparison: Comparison) -> str:
    """Whether anything beats one device alone, for each network."""
    return " ".join(_sentences(comparison))


def _sentences(comparison: Comparison) -> Iterator[str]:
    for alone in comparison.alone:
        mine = [plan for plan in comparison.plans if plan.network == alone.network and plan.family == "split"]
        if mine:
            yield split_sentence(alone, mine)
    others = [plan for plan in comparison.plans if plan.family == "separable"]
    if others and comparison.alone:
        yield _separable_sentence(comparison.alone[0], others)
    if comparison.alone and any(plan.family == "split" for plan in comparison.plans):
        yield from _accuracy_sentence(comparison)


def split_sentence(alone: PricedPlan, splits: Sequence[PricedPlan]) -> str:
    """The fastest split of a network against one device alone."""
    best = min(splits, key=lambda plan: plan.latency_s)
    reference = f"{alone.label} ({format_seconds(alone.latency_s)})"
    if best.latency_s >= alone.latency_s * (1 - _NOTICEABLE):
        return (
            f"No split of {alone.network} beats {reference}: the nearest, {best.label} devices, takes "
            f"{format_seconds(best.latency_s)}, {ratio_of(best.latency_s, alone.latency_s):.2f} times as long."
        )
    losing = sum(plan.latency_s >= alone.latency_s for plan in splits)
    rest = f" {losing} of {len(splits)} splits are slower than that device alone." if losing else ""
    return (
        f"{alone.network} is fastest with {best.label} devices: {format_seconds(best.latency_s)} with "
        f"{format_bytes(best.payload_bytes)} between devices, {ratio_of(alone.latency_s, best.latency_s):.2f} times as "
        f"fast as {reference}.{rest}"
    )


def _separable_sentence(alone: PricedPlan, plans: Sequence[PricedPlan]) -> str:
    fastest = min(plans, key=lambda plan: plan.latency_s)
    accuracy = "" if fastest.accuracy is None else f" at {format_share(fastest.accuracy)} accuracy"
    ratio = ratio_of(alone.latency_s, fastest.latency_s)
    compared = (
        f"{ratio:.2f} times as fast as"
        if ratio >= 1
        else f"{ratio_of(fastest.latency_s, alone.latency_s):.2f} times as long as"
    )
    return (
        f"The fastest separable network ({fastest.label}) takes {format_seconds(fastest.latency_s)}{accuracy}, "
        f"{compared} {alone.label} with {alone.network}."
    )


def accuracy_varies(comparison: Comparison) -> bool:
    """Whether plans of different accuracies are compared."""
    return len({plan.accuracy for plan in comparison.plans if plan.accuracy is not None}) > 1


def _accuracy_sentence(comparison: Comparison) -> Iterator[str]:
    known = [(plan.accuracy, plan.accuracy_of) for plan in comparison.everything if plan.accuracy is not None]
    if not known:
        yield (
            "Splits are exact: their accuracy is that of the network, which is not known here (`sepnas evaluate`, or "
            "--accuracy)."
        )
    elif not accuracy_varies(comparison):
        yield f"Splits are exact: all have the network's accuracy, {format_share(known[0][0])} ({known[0][1]})."
