"""Fits the rates of boards to published times of whole networks, by least squares of relative errors.

A network's time is a sum over its operators, linear in four times (per FLOP of a dense, of a 3x3 and of a depthwise
convolution, and per byte), plus a known constant for each operator. Each of the four is a serial part and a part that
threads share (Amdahl's law), neither negative: eight numbers for the 14 to 16 times of a board. They are drawn towards
a common structure, the same eight numbers for all boards, times one speed for each board.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
from published import Published
from scipy.optimize import nnls

from sepnas.cost.rated_operators import depthwise_share, is_winograd
from sepnas.plan.operators import Operator
from sepnas.plan.shapes import FLOAT_BYTES
from sepnas.spec.operator_rates import OperatorRates
from sepnas.spec.presets import Presets, load_presets

Numbers = npt.NDArray[np.float64]
RATES = ("dense_flops_per_s", "conv3x3_flops_per_s", "depthwise_flops_per_s", "bytes_per_s")
PULL = 0.05
"""Weight of a relative distance from the common structure, beside the relative error of one network."""
LEAST = 0.1
"""Smallest unit of that distance: the share that one of the eight numbers has in the network that has most of it."""
SPOILT = 2.0
"""Ratio of the mean pass to the shortest one above which a mean is held to be spoilt by something else."""
ROUNDS = 60


def amounts_of(operators: Iterable[Operator]) -> Numbers:
    """``(5,)``: the FLOPs and bytes of each of :data:`RATES` as :mod:`sepnas.cost.rated_operators` counts them, and the
    number of operators."""
    found = np.zeros(len(RATES) + 1)
    for each in operators:
        share = depthwise_share(each)
        found[1 if is_winograd(each) else 0] += 2 * each.macs * (1 - share)
        found[2] += 2 * each.macs * share
        found[3] += FLOAT_BYTES * each.values_moved
        found[4] += 1
    return found


@dataclass(frozen=True)
class Fit:
    """The times of one board: ``(4,)`` serial seconds and ``(4,)`` seconds on one thread that threads share."""

    serial: Numbers
    shared: Numbers
    operator_s: float

    def seconds(self, amounts: Numbers, threads: int) -> float:
        return float(amounts[:4] @ (self.serial + self.shared / threads) + amounts[4] * self.operator_s)

    def rates(self, threads: int) -> OperatorRates:
        """As a preset has them, in three digits."""
        values = zip(RATES, 1 / (self.serial + self.shared / threads), strict=True)
        figures = {name: float(f"{value:.3g}") for name, value in values}
        return OperatorRates(threads=threads, **figures, operator_s=self.operator_s)


@dataclass(frozen=True)
class _Board:
    """The relative amounts ``(n, 8)`` of a board's times, and what is left of each time without its constants."""

    shares: Numbers
    left: Numbers


class Fits:
    """Fits of all boards to ``rows``; ``left_out`` is a network that none of them knows."""

    def __init__(self, rows: Sequence[Published], amounts: Mapping[str, Numbers], left_out: str = "") -> None:
        self._used = [row for row in rows if not is_spoilt(row)]
        self.threads = {board: sorted({row.threads for row in rows if row.board == board}) for board in _boards(rows)}
        known = [row for row in self._used if row.network != left_out]
        boards = {board: _board([row for row in known if row.board == board], amounts) for board in _boards(known)}
        common, speeds = _common(boards)
        self.fits = {name: _fit(name, board, common * speeds[name]) for name, board in boards.items()}
        self._without = cache(lambda network: Fits(rows, amounts, network))

    def without(self, row: Published) -> Fit:
        """The fit of a row's board to all other networks."""
        found: Fits = self._without(row.network)
        return found.fits[row.board]

    def is_used(self, board: str, threads: int, network: str) -> bool:
        return any((row.board, row.threads, row.network) == (board, threads, network) for row in self._used)

    def all_rates(self) -> list[tuple[str, OperatorRates]]:
        return [(board, fit.rates(n)) for board, fit in self.fits.items() for n in self.threads[board]]

    def worst_difference(self, presets: Presets) -> float:
        """The largest relative difference between a rate of the presets and the fitted one."""
        worst = 0.0
        for board, wanted in self.all_rates():
            found = next(each for each in presets.devices[board].rates.value if each.threads == wanted.threads)
            worst = max(worst, *(abs(getattr(found, name) / getattr(wanted, name) - 1) for name in RATES))
        return worst

    def rows(self) -> list[dict[str, Any]]:
        return [{"board": board, **rates.model_dump()} for board, rates in self.all_rates()]

    def as_yaml(self) -> str:
        """The lines of ``value`` in the rates of each preset."""
        names = ("threads", *RATES, "operator_s")
        return "\n".join(
            f"{board}: {{{', '.join(f'{name}: {getattr(rates, name):.3g}' for name in names)}}}"
            for board, rates in self.all_rates()
        )


def is_spoilt(row: Published) -> bool:
    """Whether single passes were so slow that the mean says nothing about the others."""
    return row.mean_s > SPOILT * row.least_s


def _boards(rows: Iterable[Published]) -> list[str]:
    return list(dict.fromkeys(row.board for row in rows))


def _operator_s(board: str) -> float:
    """The constant of an operator, which is not fitted: eight networks cannot tell it from the rest."""
    return load_presets().devices[board].layer_overhead_s.value


def _board(rows: Sequence[Published], amounts: Mapping[str, Numbers]) -> _Board:
    own = [(amounts[row.network], row) for row in rows]
    shares = [np.concatenate([each[:4], each[:4] / row.threads]) / row.mean_s for each, row in own]
    return _Board(np.array(shares), np.array([1 - each[4] * _operator_s(row.board) / row.mean_s for each, row in own]))


def _common(boards: Mapping[str, _Board]) -> tuple[Numbers, dict[str, float]]:
    """Eight numbers for all boards, and the factor of each board: by turns the numbers, then the factors."""
    factors = {name: float(1 / np.median(board.shares.sum(axis=1))) for name, board in boards.items()}
    left = np.concatenate([board.left for board in boards.values()])
    for _ in range(ROUNDS):
        stacked = np.vstack([factors[name] * board.shares for name, board in boards.items()])
        scale = stacked.max(axis=0)
        common = nnls(stacked / scale, left)[0] / scale
        for name, board in boards.items():
            alone = board.shares @ common
            factors[name] = float(alone @ board.left / (alone @ alone))
    return common, factors


def _fit(name: str, board: _Board, near: Numbers) -> Fit:
    """The times of one board, drawn towards ``near``; distances count relative to the time on one thread."""
    unit = np.maximum(np.tile(near[:4] + near[4:], 2), LEAST / board.shares.max(axis=0))
    pull = np.sqrt(PULL)
    rows, targets = np.vstack([board.shares * unit, pull * np.eye(8)]), np.concatenate([board.left, pull * near / unit])
    found = nnls(rows, targets)[0] * unit
    return Fit(found[:4], found[4:], _operator_s(name))
