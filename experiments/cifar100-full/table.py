"""What was found of all runs as one result file: accuracy, and what is saved beside all-to-all messages."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from trainings import BASE

from sepnas.results.recorder import Recorder

RECIPE = "modern"
"""The one that measures do not name."""
GOALS = {"resnext56_64x4d": 81.5, "resnext56_4x16d": 79.3, "resnext56_8x16d": 79.72, "resnext29_8x16d": 78.05}
"""Top-1 in percent, to be reached with at most ``SHARE`` of all-to-all's bytes; the last two: a point below the
published network that is not separable."""
SHARE = 0.05

Row = dict[str, Any]


def rows_of(found: Path) -> list[Row]:
    """A row for each finding: network, recipe, policy, seed and its numbers."""
    rows = []
    for path in sorted(found.glob("*/*.json")):
        data = json.loads(path.read_text())
        network, _, recipe = path.parent.name.partition("-")
        policy, _, seed = path.stem.rpartition("-s")
        numbers = {key: value for key, value in data.items() if not isinstance(value, list | dict)}
        rows.append({"network": network, "recipe": recipe, "policy": policy, "seed": int(seed)} | numbers)
    return rows


def record(found: Path) -> None:
    """Write ``result.json`` beside ``found``."""
    rows = rows_of(found)
    with Recorder(found.parent / "result.json", seeds=tuple(sorted({row["seed"] for row in rows}))) as record:
        for network, recipe in dict.fromkeys((row["network"], row["recipe"]) for row in rows):
            own = [row for row in rows if (row["network"], row["recipe"]) == (network, recipe)]
            for policy in dict.fromkeys(row["policy"] for row in own):
                name = f"{network}{'' if recipe == RECIPE else f'_{recipe}'}_{policy}".replace("-", "_")
                _measure(record, name, network, [row for row in own if row["policy"] == policy], own)
        record.table("runs", rows)


def _measure(record: Recorder, name: str, network: str, group: Sequence[Row], own: Sequence[Row]) -> None:
    """Top-1 over the seeds; the gap to all-to-all of the same seed, and what is saved of its elements and bytes."""
    top1, first = [100 * row["test_accuracy"] for row in group], group[0]
    base = next((row for row in own if row["policy"] == BASE), None)
    few = base is not None and 0 < first["payload_bytes"] <= SHARE * base["payload_bytes"]
    goal = f">= {GOALS[network]:g}" if few and network in GOALS else None
    record.measure(f"top1_{name}", fmean(top1), "%", min(top1), max(top1), len(top1), goal)
    if base is None or not first["payload_bytes"] or first["policy"] == BASE:
        return
    gaps = [100 * (most["test_accuracy"] - row["test_accuracy"]) for row in group if (most := _beside(row, own))]
    if gaps:
        record.measure(f"accuracy_gap_points_{name}", fmean(gaps), "", min(gaps), max(gaps), len(gaps))
    for unit in ("elements", "payload_bytes"):
        saved = 1 - first[unit] / base[unit]
        record.measure(f"{unit.removeprefix('payload_')}_saved_fraction_{name}", saved)


def _beside(row: Row, own: Sequence[Row]) -> Row | None:
    """All-to-all of the same seed that has seen as many images."""
    policy = f"{BASE}-fp32" if row["goes_on"] else BASE
    return next((each for each in own if (each["policy"], each["seed"]) == (policy, row["seed"])), None)
