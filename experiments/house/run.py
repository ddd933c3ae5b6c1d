"""How the source tree is built: lengths of files and functions, circles, names, contracts, repeated code, and
the files that an addition touches."""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from changes import chosen_commits, touched
from tree import SourceTree

from sepnas.results.earlier import extract_tree
from sepnas.results.recorder import Recorder

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
PACKAGE = "sepnas"
LONGEST = 10
IMPORTS = 5
GOALS = {"import_circles": "== 0", "classes_of_one_name": "== 0"}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--before", metavar="COMMIT", help="count the tree of this commit too")
    parser.add_argument(
        "--change", metavar="KIND=COMMIT", action="append", default=[],
        help="count the files that this commit touched, besides those of changes.json; again for each",
    )  # fmt: skip
    return parser.parse_args()


def counts(tree: SourceTree) -> dict[str, float]:
    """The figures of a tree, in lines where the name says so."""
    lengths = [each.lines for each in tree.functions]
    return {
        "files": len(tree.file_lines),
        "lines": sum(tree.file_lines.values()),
        "file_lines_median": statistics.median(tree.file_lines.values()),
        "file_lines_longest": max(tree.file_lines.values()),
        "functions": len(lengths),
        "function_lines_median": statistics.median(lengths),
        "function_lines_p90": statistics.quantiles(lengths, n=10, method="inclusive")[-1],
        "function_lines_longest": max(lengths),
        "function_code_lines_longest": max(each.code_lines for each in tree.functions),
        "import_circles": len(tree.circles()),
        "classes_of_one_name": len(tree.classes_of_one_name()),
        "import_contracts": tree.contracts(),
        "repeated_places": len(tree.repeated()),
    }


def import_s(root: Path, module: str) -> list[float]:
    """Seconds that importing a module takes, each time in a process of its own; the first time is left out."""
    code = f"import time; start = time.perf_counter(); import {module}; print(time.perf_counter() - start)"
    command = [sys.executable, "-c", code]
    runs = (subprocess.run(command, cwd=root, capture_output=True, text=True, check=True) for _ in range(IMPORTS + 1))
    return [float(done.stdout) for done in runs][1:]


def tables(record: Recorder, tree: SourceTree, suffix: str) -> None:
    """What lies behind the figures."""
    longest = [
        {"function": each.place, "lines": each.lines, "code_lines": each.code_lines}
        for each in tree.functions[:LONGEST]
    ]
    record.table(f"longest_functions{suffix}", longest)
    names = [{"class": name, "modules": ", ".join(where)} for name, where in tree.classes_of_one_name().items()]
    record.table(f"classes_of_one_name{suffix}", names)
    record.table(f"circles{suffix}", [{"modules": ", ".join(circle)} for circle in tree.circles()])


def main() -> None:
    chosen = arguments()
    commits = chosen_commits(HERE / "changes.json", chosen.change)
    with Recorder(HERE / "result.json", root=HERE) as record:
        now = SourceTree(ROOT, PACKAGE)
        for name, value in counts(now).items():
            record.measure(name, value, goal=GOALS.get(name))
        for module, goal in (("sepnas", "<= 0.3"), ("sepnas.api", None)):
            took = import_s(ROOT, module)
            name = f"import_{module.replace('.', '_')}_s"
            record.measure(name, statistics.median(took), "s", min(took), max(took), len(took), goal)
        tables(record, now, "")
        record.table("files_that_a_change_touches", touched(ROOT, PACKAGE, commits))
        if chosen.before:
            with tempfile.TemporaryDirectory(prefix="sepnas-house-") as folder:
                extract_tree(ROOT, chosen.before, Path(folder))
                before = SourceTree(Path(folder), PACKAGE)
                for name, value in counts(before).items():
                    record.measure(f"{name}_before", value)
                tables(record, before, "_before")


if __name__ == "__main__":
    main()
