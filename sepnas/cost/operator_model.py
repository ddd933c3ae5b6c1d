"""Times of unmeasured operators, interpolated between the rows of a device's profile.

A constant, a rate of arithmetic and a rate of memory, none negative, fit the rows as well as they can. The residuals
(caches, group convolutions, odd channel counts) are modelled by a Gaussian process over the logarithms of an operator's
sizes. Its Matern kernel can follow jumps in time, and far from all rows only the three rates remain.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, get_args

import numpy as np
import numpy.typing as npt

from sepnas.errors import SpecError
from sepnas.plan.operators import Operator
from sepnas.spec.device_profile import OperatorKind

Numbers = npt.NDArray[np.float64]

MIN_ROWS = 8
_KINDS = tuple(kind for kind in get_args(OperatorKind) if kind != "max-pool")
"""Kinds with a feature of their own; a maximum is as far from the others as they are from each other."""
_TUNING_ROWS = 256
"""Maximum number of rows for tuning a kernel, evenly spaced: tuning time grows with the cube of the rows."""


class OperatorTimeModel:
    """Predicts operator times, in seconds, from measured ones; the same rows give the same predictions.

    Raises :class:`SpecError` for too few rows, or if scikit-learn is not installed.
    """

    def __init__(self, operators: Sequence[Operator], seconds: Sequence[float]) -> None:
        if len(operators) < MIN_ROWS:
            raise SpecError(
                f"a profile of {len(operators)} operators says nothing about others; at least {MIN_ROWS} are needed"
            )
        sklearn = _sklearn()
        times_n = np.array(seconds, np.float64)
        self._least_s = 0.1 * float(times_n.min())
        self._rates = _fit_rates(sklearn, _amounts(operators), times_n)
        self._scaler = sklearn["StandardScaler"]()
        x_nf = self._scaler.fit_transform(_features(operators))
        rest_n = np.log(times_n) - self._log_base(operators)
        self._process = _fit_process(sklearn, x_nf, rest_n)

    def seconds(self, operators: Sequence[Operator]) -> list[float]:
        """One prediction for each operator."""
        x_nf = self._scaler.transform(_features(operators))
        predicted: list[float] = np.exp(self._log_base(operators) + self._process.predict(x_nf)).tolist()
        return predicted

    def _log_base(self, operators: Sequence[Operator]) -> Numbers:
        base_n: Numbers = np.log(np.maximum(_amounts(operators) @ self._rates, self._least_s))
        return base_n


def _sklearn() -> dict[str, Any]:
    """The classes in use, imported late: the import takes a second, and devices do not have scikit-learn."""
    try:
        from sklearn.gaussian_process import GaussianProcessRegressor, kernels
        from sklearn.linear_model import LinearRegression
        from sklearn.preprocessing import StandardScaler
    except ImportError:
        raise SpecError(
            "a plan has operators that the device's profile does not measure; predicting their times needs "
            "scikit-learn, which is not installed: pip install 'sepnas[train]'"
        ) from None
    found = (GaussianProcessRegressor, LinearRegression, StandardScaler)
    return {each.__name__: each for each in found} | {"kernels": kernels}


def _amounts(operators: Sequence[Operator]) -> Numbers:
    """``(n, 3)``: one, MACs, values moved."""
    return np.array([(1, each.macs, each.values_moved) for each in operators], np.float64)


def _features(operators: Sequence[Operator]) -> Numbers:
    """``(n, f)``: logarithms of an operator's sizes, and one column for each kind."""
    rows = []
    for each in operators:
        sizes = (
            1 + each.macs, each.values_moved, each.in_channels, each.out_channels, each.groups, each.kernel,
            each.stride, each.height * each.width,
        )  # fmt: skip
        rows.append([*np.log(sizes), *(each.kind == kind for kind in _KINDS)])
    return np.array(rows, np.float64)


def _fit_rates(sklearn: dict[str, Any], amounts_n3: Numbers, times_n: Numbers) -> Numbers:
    """Seconds per operator, per MAC and per value moved, by least squares of relative errors."""
    relative = amounts_n3 / times_n[:, None]
    scale = relative.max(axis=0)
    scale[scale == 0] = 1.0
    fitted = sklearn["LinearRegression"](positive=True, fit_intercept=False).fit(
        relative / scale, np.ones(len(times_n))
    )
    rates: Numbers = fitted.coef_ / scale
    return rates


def _fit_process(sklearn: dict[str, Any], x_nf: Numbers, rest_n: Numbers) -> Any:
    kernels, make = sklearn["kernels"], sklearn["GaussianProcessRegressor"]
    scales = np.full(x_nf.shape[1], 2.0)
    kernel = kernels.ConstantKernel(1.0, (1e-3, 1e3)) * kernels.Matern(scales, (1e-1, 1e3), nu=1.5)
    kernel += kernels.WhiteKernel(1e-3, (1e-6, 1.0))
    every = -(-len(rest_n) // _TUNING_ROWS)
    with warnings.catch_warnings():  # about columns without effect, and scales whose search ended early
        warnings.simplefilter("ignore")
        tuned = make(kernel, normalize_y=True, random_state=0).fit(x_nf[::every], rest_n[::every])
        return make(tuned.kernel_, normalize_y=True, optimizer=None, random_state=0).fit(x_nf, rest_n)
