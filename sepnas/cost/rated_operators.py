"""Times of operators by a device's rates: arithmetic, memory traffic and a constant, one after the other."""

from __future__ import annotations

from collections.abc import Sequence

from sepnas.plan.operators import Operator
from sepnas.plan.shapes import FLOAT_BYTES
from sepnas.spec.operator_rates import OperatorRates


class RatedOperators:
    """The operators of a device that is described by rates; a call of the engine costs nothing beside them."""

    overhead_s = 0.0

    def __init__(self, rates: OperatorRates) -> None:
        self.rates = rates

    def seconds(self, operators: Sequence[Operator]) -> list[float]:
        """One time for each operator, for one sample."""
        return [rated_s(each, self.rates) for each in operators]

    def passing_s(self, operators: Sequence[Operator]) -> float:
        """Values that enter and leave a segment are a part of its operators' traffic."""
        return 0.0


def rated_s(operator: Operator, rates: OperatorRates) -> float:
    """Seconds of an operator: its FLOPs at the rate of its kind, its values at the memory's, and a constant."""
    seconds = rates.operator_s + FLOAT_BYTES * operator.values_moved / rates.bytes_per_s
    return seconds + 2 * operator.macs * s_per_flop(operator, rates) if operator.macs else seconds


def s_per_flop(operator: Operator, rates: OperatorRates) -> float:
    """Seconds of a FLOP: between those of a depthwise and of a dense convolution."""
    share = depthwise_share(operator)
    dense = rates.conv3x3_flops_per_s if is_winograd(operator) else rates.dense_flops_per_s
    return (1 - share) / dense + share / rates.depthwise_flops_per_s


def depthwise_share(operator: Operator) -> float:
    """1 for sums as short as those of a 3x3 depthwise convolution, and less in proportion for longer rows of terms.

    Short sums cannot use an engine's tiles: on a Xeon, 3x3 convolutions of 256 channels reach 0.73 of the dense rate in
    groups of 32 channels and 0.41 in groups of 8, which is this proportion.
    """
    return min(1.0, 3 * operator.groups / (operator.kernel * operator.in_channels))


def is_winograd(operator: Operator) -> bool:
    """Whether engines save multiplications: 3x3, stride 1, not depthwise."""
    one_each = operator.groups == operator.in_channels
    return operator.kind == "conv" and (operator.kernel, operator.stride) == (3, 1) and not one_each
