"""Which narrow convolutions does this machine's torch compute wrongly, or crash in, while a network is trained?"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from dataclasses import asdict
from pathlib import Path

from shapes import Case, cases

from sepnas.results.recorder import Recorder

HERE = Path(__file__).resolve().parent


def guard(folder: Path) -> Path:
    """The allocator that notices what is written past the end of a block."""
    library = folder / "guard.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-O2", "-o", library, HERE / "guard.c", "-ldl"], check=True)
    return library


class Computer:
    """Says what became of each case, in a process of its own; ``preload`` is loaded into these."""

    def __init__(self, preload: Path | None) -> None:
        environment = os.environ | {"OMP_WAIT_POLICY": "passive"} | ({"LD_PRELOAD": str(preload)} if preload else {})
        command = [sys.executable, HERE / "one.py"]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def outcome(self, case: Case) -> str:
        assert self._process.stdin
        assert self._process.stdout
        print(json.dumps(asdict(case)), file=self._process.stdin, flush=True)
        said = self._process.stdout.readline().strip()
        if not said:
            raise SystemExit(f"error: the process that computes has ended with {self._process.wait()}")
        return said

    def close(self) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()


def row_of(case: Case) -> tuple[object, ...]:
    shape = case.shape
    kind = f"{shape.kernel}x{shape.kernel}, stride {shape.stride}"
    return case.way, kind, case.layout, case.precision, case.threads


def summary(guarded: list[tuple[Case, str]], free: dict[Case, str]) -> list[dict[str, object]]:
    """A row for each kind of layer and way to compute it: how many failed, and at how many input channels."""
    groups: dict[tuple[object, ...], list[tuple[Case, str]]] = defaultdict(list)
    for case, said in guarded:
        groups[row_of(case)].append((case, said))
    rows = []
    for key, members in groups.items():
        bad = [case for case, said in members if said != "right"]
        alone = Counter(free[case] for case in bad)
        rows.append(
            dict(zip(("way", "layer", "layout", "precision", "threads"), key, strict=True))
            | {
                "cases": len(members),
                "failed": len(bad),
                "input_channels": " ".join(str(n) for n in sorted({case.shape.inputs for case in bad})),
                "sides": " ".join(str(n) for n in sorted({case.shape.side for case in bad})),
                "batches": " ".join(str(n) for n in sorted({case.shape.batch for case in bad})),
                "unguarded_crashed": sum(n for said, n in alone.items() if said not in ("right", "wrong")),
                "unguarded_wrong": alone["wrong"],
                "unguarded_silent": alone["right"],
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--every", type=int, default=1, help="compute one case of so many, for a trial")
    parser.add_argument("--out", type=Path, default=HERE / "result.json", help="for a trial elsewhere")
    chosen = parser.parse_args()
    with Recorder(chosen.out, root=HERE) as record, tempfile.TemporaryDirectory() as folder:
        guarding, plain = Computer(guard(Path(folder))), Computer(None)
        guarded, free = [], {}
        for number, case in enumerate(cases(chosen.every)):
            guarded.append((case, guarding.outcome(case)))
            if guarded[-1][1] != "right":
                free[case] = plain.outcome(case)
            if number % 500 == 499:
                print(f"{number + 1} cases, {len(free)} failed", flush=True)
        for each in (guarding, plain):
            each.close()
        for way in ("torch", "sepnas"):
            mine = [(case, said) for case, said in guarded if case.way == way]
            failed = sum(said != "right" for _, said in mine)
            record.measure(f"{way}_failed", failed, n=len(mine), goal="== 0" if way == "sepnas" else None)
        silent = sum(said == "right" for said in free.values())
        record.measure("torch_failed_unnoticed_without_the_guard", silent, n=max(1, len(free)))
        rows = summary(guarded, free)
        record.table("failed", [row for row in rows if row["failed"]])
        record.table("never_failed", [{k: row[k] for k in list(row)[:6]} for row in rows if not row["failed"]])
        for row in rows:
            print(row)


if __name__ == "__main__":
    main()
