"""Speeds of a device's operators by number of threads: a few figures that give the time of any operator."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from sepnas.spec.document import Part
from sepnas.spec.figures import NotNegative, Positive, Size

_TIMES_PER_UNIT = ("dense_flops_per_s", "conv3x3_flops_per_s", "depthwise_flops_per_s", "bytes_per_s")


class OperatorRates(Part):
    """The speeds of operators on ``threads`` threads; :mod:`sepnas.cost.rated_operators` adds up their times.

    - ``dense_flops_per_s``: matrix products, and convolutions of any kernel;
    - ``conv3x3_flops_per_s``: 3x3 convolutions of stride 1, which engines compute with fewer multiplications than their
      definition has (Winograd); the FLOPs are those of the definition;
    - ``depthwise_flops_per_s``: 3x3 convolutions of one channel in each group;
    - ``bytes_per_s``: inputs, outputs and weights, counted as fp32 whatever the engine stores;
    - ``operator_s``: the fixed time of each operator.
    """

    threads: Size
    dense_flops_per_s: Positive
    conv3x3_flops_per_s: Positive
    depthwise_flops_per_s: Positive
    bytes_per_s: Positive
    operator_s: NotNegative = 0.0

    def scaled(self, ratio: float) -> OperatorRates:
        """The same speeds with every time multiplied by ``ratio``."""
        rates = {name: getattr(self, name) / ratio for name in _TIMES_PER_UNIT}
        return self.model_copy(update={**rates, "operator_s": self.operator_s * ratio})


def check_order(rates: Sequence[OperatorRates]) -> None:
    """Raise :class:`ValueError` unless the numbers of threads rise."""
    for first, second in pairwise(rates):
        if second.threads <= first.threads:
            raise ValueError(f"`rates` must have rising `threads`, got {first.threads} before {second.threads}")


def rates_on(rates: Sequence[OperatorRates], threads: int) -> OperatorRates:
    """The speeds on ``threads`` threads, by Amdahl's law between the two nearest numbers that are given.

    Each time is a serial part plus a parallel part that the threads share. Raises :class:`ValueError` for a number of
    threads that is less than the first or more than the last one given.
    """
    for each in rates:
        if each.threads == threads:
            return each
    for first, second in pairwise(rates):
        if first.threads < threads < second.threads:
            return _between(first, second, threads)
    raise ValueError(
        f"`threads` must be {rates[0].threads} to {rates[-1].threads}, for which `rates` are given; got {threads}"
    )


def _between(first: OperatorRates, second: OperatorRates, threads: int) -> OperatorRates:
    share = (1 / threads - 1 / second.threads) / (1 / first.threads - 1 / second.threads)

    def time(one: float, other: float) -> float:
        return share * one + (1 - share) * other

    rates = {name: 1 / time(1 / getattr(first, name), 1 / getattr(second, name)) for name in _TIMES_PER_UNIT}
    return OperatorRates(threads=threads, **rates, operator_s=time(first.operator_s, second.operator_s))
