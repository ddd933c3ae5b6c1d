"""Many millions of byte strings for the parser of the protocol, guided by the coverage of its code."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import re
import signal
import sys
import time
from collections import Counter
from pathlib import Path

import atheris

import sepnas.runtime.protocol.events  # only what follows is instrumented, which takes half of its speed
import sepnas.spec.document

with atheris.instrument_imports(include=["sepnas.runtime.protocol.connection"]):
    import sepnas.runtime.protocol.connection  # noqa: F401

from mutation import MAX_INPUT_BYTES, mutate, seeds
from truths import STATES, check, peak_bytes

from sepnas.results.recorder import Recorder
from sepnas.spec.document import write_text

HERE = Path(__file__).resolve().parent
SAVED_EVERY = 50_000
WEIGHED_EVERY = 100
"""So many inputs are fed between two whose memory is traced."""
MAX_PEAK_BYTES = 2 << 20
"""Allowed beyond 64 bytes for each that came; the headers may announce 64 MiB."""
HANGS_S = 5
"""An input that takes so much of the processor's time hangs; a process that is stopped or has to wait does not."""
CLASSES = {
    "other protocol": "no sepnas peer",
    "unknown version or kind": "is unknown to version",
    "frame that has no place": "may not send",
    "control header": "allowed are 0, 0",
    "message not in the plan": "is not one that this peer sends",
    "message length": "announces",
    "body": r"^\w+ frame: |problems",
    "end within a frame": "in the middle of a frame",
    "closed cleanly": "^closed cleanly$",
    "closed without Bye": "^closed$",
}


def _hangs(*_: object) -> None:
    raise TimeoutError(f"hangs: took {HANGS_S} s of the processor")


class Fuzzing:
    """What was counted so far, kept in a folder: a run that was cut goes on with the next seed."""

    def __init__(self, folder: Path, inputs: int, seed: int) -> None:
        self.folder, self.goal = folder, inputs
        self.failures = folder / "failures"
        self.failures.mkdir(parents=True, exist_ok=True)
        self.file = folder / "progress.json"
        self.seconds, self.seeds, self.inputs, self.input_bytes, self.longest = 0.0, [], 0, 0, 0
        self.heaviest = 0
        self.tables: dict[str, Counter[str]] = {name: Counter() for name in ("outcomes", "states", "events", "lengths")}
        if self.file.exists():
            saved = json.loads(self.file.read_text())
            self.tables = {name: Counter(table) for name, table in saved.pop("tables").items()}
            vars(self).update(saved)
        if self.inputs < inputs:
            self.seeds = [*self.seeds, self.seeds[-1] + 1 if self.seeds else seed]
        self._clock_s = time.process_time() - self.seconds

    def feed(self, data: bytes) -> None:
        """One input of libFuzzer's; what fails is kept as a file, and the run goes on."""
        data = data.ljust(2, b"\0")
        signal.setitimer(signal.ITIMER_VIRTUAL, HANGS_S)
        try:
            self._count(data)
        except Exception as error:
            name = f"{type(error).__name__}-{hashlib.sha256(data).hexdigest()[:16]}"
            (self.failures / name).write_bytes(data)
            print(f"{name}: {error}", file=sys.stderr)
        self.inputs += 1
        if self.inputs % SAVED_EVERY == 0:
            self.save()

    def _count(self, data: bytes) -> None:
        state, (heard, end) = check(data)
        kind = next((name for name, pattern in CLASSES.items() if re.search(pattern, end)), f"other: {end}")
        self.tables["outcomes"][kind] += 1
        self.tables["states"][f"{STATES[state][1].value}, {STATES[state][0]}"] += 1
        self.tables["events"].update(type(event).__name__ for event in heard)
        self.tables["lengths"][f"below {1 << len(data).bit_length()}"] += 1
        self.input_bytes, self.longest = self.input_bytes + len(data), max(self.longest, len(data))
        if self.inputs % WEIGHED_EVERY == 0:
            peak = peak_bytes(data)
            self.heaviest = max(self.heaviest, peak)
            if peak > MAX_PEAK_BYTES + 64 * len(data):
                raise AssertionError(f"{peak} bytes of memory for an input of {len(data)}")

    def save(self) -> None:
        self.seconds = time.process_time() - self._clock_s
        names = ("seconds", "seeds", "inputs", "input_bytes", "longest", "heaviest", "tables")
        write_text(self.file, json.dumps({name: getattr(self, name) for name in names}, indent=1))

    def fuzz(self) -> None:
        corpus = self.folder / "corpus"
        corpus.mkdir(exist_ok=True)
        for number, data in enumerate(seeds()):
            (corpus / f"seed{number}").write_bytes(data)
        options = [
            f"-seed={self.seeds[-1] + 1}", f"-max_len={MAX_INPUT_BYTES}", f"-artifact_prefix={self.failures}/",
            "-timeout=86400", "-report_slow_units=86400", "-rss_limit_mb=1024", "-print_final_stats=1",
            f"-atheris_runs={self.goal - self.inputs}",
        ]  # fmt: skip
        atheris.Setup(
            [sys.argv[0], *options, str(corpus)],
            self.feed,
            custom_mutator=lambda data, size, seed: mutate(data, size, seed, atheris.Mutate),
        )
        with contextlib.suppress(SystemExit):  # how libFuzzer says that it is done
            atheris.Fuzz()
        self.save()

    def record(self, record: Recorder) -> None:
        record.measure("fuzzed_inputs", self.inputs, goal=">= 10000000")
        record.measure("fuzz_failures", len(list(self.failures.iterdir())), n=self.inputs, goal="== 0")
        record.measure("fuzzed_inputs_per_cpu_s", self.inputs / self.seconds, unit="1/s")
        record.measure("fuzz_peak_bytes", self.heaviest, unit="B", n=self.inputs // WEIGHED_EVERY)
        for name, column in (("outcomes", "outcome"), ("states", "state"), ("events", "event"), ("lengths", "bytes")):
            counted = self.tables[name].most_common()
            record.table(name, [{column: key, "inputs" if name != "events" else "decoded": n} for key, n in counted])
        corpus = [path.stat().st_size for path in (self.folder / "corpus").iterdir()]
        record.table(
            "inputs",
            [
                {
                    "corpus": len(corpus), "corpus_bytes": sum(corpus), "longest_bytes": self.longest,
                    "mean_bytes": round(self.input_bytes / self.inputs, 1), "cpu_s": round(self.seconds, 1),
                    "seeds": " ".join(map(str, self.seeds)),
                }
            ],
        )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=10_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--runs", type=Path, default=Path("runs/runtime-fuzz"), help="progress, corpus and failures")
    parser.add_argument("--result", type=Path, default=HERE / "result.json")
    given = parser.parse_args()
    signal.signal(signal.SIGVTALRM, _hangs)
    fuzzing = Fuzzing(given.runs, given.inputs, given.seed)
    with Recorder(given.result, seeds=fuzzing.seeds) as record:
        if fuzzing.inputs < fuzzing.goal:
            fuzzing.fuzz()
        fuzzing.record(record)


if __name__ == "__main__":
    main()
