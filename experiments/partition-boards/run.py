"""Do the presets predict the times that are published for single boards, on one thread and on all cores?"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from fit import Fits, amounts_of
from networks import FITTED, UNSEEN, operators_of, whole_plans
from published import Published, read_published

from sepnas import api
from sepnas.cost.rated_operators import is_winograd, rated_s
from sepnas.plan.operators import Operator
from sepnas.plan.plan import Plan
from sepnas.results.recorder import Recorder
from sepnas.spec.operator_rates import OperatorRates, rates_on
from sepnas.spec.presets import load_presets, preset_cluster

HERE = Path(__file__).resolve().parent
LINK = "ethernet-100mbit"
PIS = ("raspberry-pi-zero-2w", "raspberry-pi-3b-plus", "raspberry-pi-4b", "raspberry-pi-5")
WITHIN = 0.25


@dataclass(frozen=True)
class Case:
    """One network on one board: published, predicted by the preset, and by a fit without this network."""

    board: str
    threads: int
    network: str
    published_ms: float
    predicted_ms: float
    error: float
    error_left_out: float | None
    fitted: bool


def predicted_s(plan: Plan, board: str, threads: int) -> float:
    """The latency that `sepnas simulate` gives for the whole network on the board's preset."""
    return api.simulate(plan, preset_cluster([board], LINK, threads=threads)).latency_s


def case_of(row: Published, plan: Plan, fits: Fits) -> Case:
    found_s = predicted_s(plan, row.board, row.threads)
    fitted = row.network in FITTED
    left_out = (
        fits.without(row).seconds(amounts_of(operators_of(plan)), row.threads) / row.mean_s - 1 if fitted else None
    )
    return Case(
        row.board, row.threads, row.network, 1e3 * row.mean_s, 1e3 * found_s, found_s / row.mean_s - 1, left_out, fitted
    )


def kind_of(operator: Operator) -> str:
    """The kinds of the table of misses."""
    if operator.kind != "conv":
        return operator.kind
    if operator.groups > 1:
        return "depthwise" if operator.groups == operator.in_channels else "grouped"
    if is_winograd(operator):
        return "3x3, stride 1"
    return "1x1" if operator.kernel == 1 else "other dense"


def kind_rows(cases: Sequence[Case], plans: Mapping[str, Plan]) -> Iterable[dict[str, Any]]:
    """For each kind of operator: its share of the predicted time, and the error of networks, weighted by that share."""
    for board, threads in dict.fromkeys((case.board, case.threads) for case in cases):
        rates = rates_on(load_presets().devices[board].rates.value, threads)
        own = [case for case in cases if (case.board, case.threads) == (board, threads)]
        shares = [_shares(operators_of(plans[case.network]), rates) for case in own]
        for kind in sorted({kind for each in shares for kind in each}):
            weights = np.array([each.get(kind, 0.0) for each in shares])
            error = float(weights @ [case.error for case in own] / weights.sum())
            yield {"board": board, "threads": threads, "kind": kind, "share": float(weights.mean()), "error": error}


def _shares(operators: Sequence[Operator], rates: OperatorRates) -> dict[str, float]:
    found: dict[str, float] = {}
    for each in operators:
        found[kind_of(each)] = found.get(kind_of(each), 0.0) + rated_s(each, rates)
    total = sum(found.values())
    return {kind: seconds / total for kind, seconds in found.items()}


def errors_of(cases: Iterable[Case]) -> np.ndarray[Any, Any]:
    return np.array([abs(case.error) for case in cases])


def record(cases: Sequence[Case], plans: Mapping[str, Plan], fits: Fits, out: Path) -> None:
    with Recorder(out, root=HERE) as result:
        pis = [case for case in cases if case.board in PIS and case.fitted]
        errors, others = errors_of(pis), [case for case in pis if fits.is_used(case.board, case.threads, case.network)]
        spread = {"low": float(errors.min()), "high": float(errors.max())}
        result.measure("boards_mean_error", errors.mean(), n=len(pis), **spread)
        result.measure("boards_worst_error", errors.max(), n=len(pis), goal=f"<= {WITHIN}")
        result.measure("boards_within_25_percent_fraction", (errors <= WITHIN).mean(), n=len(pis), goal=">= 1")
        usable = errors_of(others)
        result.measure("boards_worst_error_without_outlier", usable.max(), n=len(others), goal=f"<= {WITHIN}")
        left_out = np.array([abs(case.error_left_out or 0.0) for case in others])
        result.measure("boards_left_out_mean_error", left_out.mean(), n=len(others))
        result.measure("boards_left_out_worst_error", left_out.max(), n=len(others))
        result.measure("boards_left_out_within_25_percent_fraction", (left_out <= WITHIN).mean(), n=len(others))
        unseen = errors_of(case for case in cases if case.board in PIS and not case.fitted)
        result.measure("boards_unseen_mean_error", unseen.mean(), n=len(unseen))
        result.measure("boards_unseen_worst_error", unseen.max(), n=len(unseen))
        result.measure("boards_unseen_within_25_percent_fraction", (unseen <= WITHIN).mean(), n=len(unseen))
        jetsons = errors_of(case for case in cases if case.board not in PIS and case.fitted)
        result.measure("jetsons_mean_error", jetsons.mean(), n=len(jetsons))
        result.measure("jetsons_worst_error", jetsons.max(), n=len(jetsons))
        result.measure("boards_presets_over_fit_worst", fits.worst_difference(load_presets()), goal="<= 0.01")
        result.table("cases", [{k: _rounded(v) for k, v in asdict(case).items()} for case in cases])
        result.table("kinds", [{k: _rounded(v) for k, v in row.items()} for row in kind_rows(cases, plans)])
        result.table("rates", fits.rows())


def _rounded(value: Any) -> Any:
    return float(f"{value:.4g}") if isinstance(value, float) else value


def show(cases: Sequence[Case]) -> None:
    for case in cases:
        left_out = "" if case.error_left_out is None else f"{case.error_left_out:+.0%} left out"
        mark = " <--" if abs(case.error) > WITHIN else ""
        print(f"{case.board:21} {case.threads} {case.network:18} {case.published_ms:8.1f} {case.predicted_ms:8.1f} "
              f"{case.error:+.0%} {left_out}{mark}")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=HERE / "result.json")
    parser.add_argument("--table", type=Path, default=Path("runs/partition-boards/ncnn-benchmark.md"))
    parser.add_argument("--networks", type=Path, default=Path("runs/partition-boards/networks"))
    parser.add_argument("--fit", action="store_true", help="print the fitted rates as the presets write them, and end")
    args = parser.parse_args()
    rows = [row for row in read_published(args.table) if row.network in {**FITTED, **UNSEEN}]
    plans = whole_plans({**FITTED, **UNSEEN}, args.networks)
    fits = Fits(
        [row for row in rows if row.network in FITTED], {name: amounts_of(operators_of(plans[name])) for name in FITTED}
    )
    if args.fit:
        print(fits.as_yaml())
        return
    cases = [case_of(row, plans[row.network], fits) for row in rows]
    show(cases)
    record(cases, plans, fits, args.out)


if __name__ == "__main__":
    main()
