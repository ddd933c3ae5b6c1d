"""Shares of a pooling over all places: each device takes some of the places, and a merge joins what they find.

A share of a mean is the sum of its own values over the number of all, ``divisor``: the shares add up to the mean.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from sepnas.plan.kinds.kind import AtenCall, Attributes, GraphOperator, OperatorUse, Restriction, exactly
from sepnas.plan.operators import Operator
from sepnas.plan.shapes import Region


def share(
    kind: GraphOperator, use: OperatorUse, places: Region, mean: bool, attributes: Attributes | None = None
) -> Restriction:
    """The part of a pooling for some of the places that are its terms; ``attributes`` are those that differ."""
    terms = kind.terms(use)
    if terms is None:
        raise ValueError(f"{kind.name} has no terms that may be shared out")
    changed = {**(attributes or {}), **({"divisor": terms.count} if mean else {})}
    region = terms.operand(use["self"], places)
    return exactly({"self": region}, {**use.attributes, **changed}, kind.output(use))


def scaling(use: OperatorUse, axes: Sequence[int]) -> tuple[AtenCall, ...]:
    """The call that makes a mean over ``axes`` a share of one over ``divisor`` values; none without this attribute."""
    divisor = use.get("divisor")
    if divisor is None:
        return ()
    own = math.prod(use["self"][axis] for axis in axes)
    return (AtenCall("mul.Scalar", {"self": ""}, {"other": own / divisor}),)


def check_divisor(use: OperatorUse) -> None:
    divisor = use.get("divisor", 1)
    if not isinstance(divisor, int) or divisor < 1:
        raise ValueError(f"attribute `divisor` must be a number of values, at least 1, got {divisor!r}")


def pooled_whole(channels: int, height: int, width: int) -> Operator:
    """A mean over all places as devices are measured with it: over a square, of as many channels as have its values."""
    return Operator("pool", -(-channels * height // width), channels, width, width)
