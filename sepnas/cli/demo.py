"""``sepnas demo``: search, train, export and run on handwritten digits, with one process for each of three devices."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, ClassVar

import typer

from sepnas.cli.options import FILE, FOLDER, resumable
from sepnas.errors import ExchangeError, SpecError
from sepnas.local.outcome import print_outcome, record_outcome, report_content, summary_rows
from sepnas.local.pipeline import (
    ARCHITECTURE_FILE,
    CLUSTER_FILE,
    DEPLOYMENT,
    SEARCH,
    TRACE_FILE,
    TRAINING,
    Chain,
    local_cluster,
    run_chain,
)
from sepnas.results.recorder import Recorder
from sepnas.search.rate import simulation_rate
from sepnas.separable.space import SearchSpace
from sepnas.spec.arguments import MAX_COUNT
from sepnas.spec.document import Document
from sepnas.spec.folder_lock import LOCK_FILE, held

REPORT, RESULT, MARKER = "report.html", "result.json", "demo.json"
WRITTEN = (SEARCH, TRAINING, DEPLOYMENT, ARCHITECTURE_FILE, CLUSTER_FILE, TRACE_FILE, REPORT, RESULT, MARKER)


class DemoMarker(Document):
    """Marks the folder of a demo, whose files the next demo may replace."""

    format_name: ClassVar[str] = "sepnas.demo"


DEMO_SPACE = Path("search_spaces/demo.yaml")


def demo(
    out: Annotated[
        Path, typer.Option(**FOLDER, help="Folder for everything; an earlier demo in it is replaced.")
    ] = Path("runs/demo"),
    result: Annotated[Path | None, typer.Option(**FILE, help="Also write the measures to this file.")] = None,
    space: Annotated[Path, typer.Option(**FILE, help="The search space.")] = DEMO_SPACE,
    candidates: Annotated[int, typer.Option(min=1, max=MAX_COUNT, help="Number of candidates to evaluate.")] = 200,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of the whole demo.")] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Resume an interrupted demo.")] = False,
) -> None:
    """Search, train, export and run a small separable network on scikit-learn's handwritten digits.

    The search trains a supernet and evaluates candidates with NNI. One point of the front is trained from scratch and
    exported for three devices; three processes then classify the whole test split over TLS. Takes a minute or two on
    two cores.

    Example: `sepnas demo --out runs/demo`
    """
    from sepnas.report.page import write_report
    from sepnas.train.data import load_dataset

    if space == DEMO_SPACE and not space.exists():
        raise SpecError(f"{space}: no such file; run the demo in sepnas' repository, or name its file with --space")
    started = time.perf_counter()
    wanted, data = SearchSpace.load(space), load_dataset("digits")
    with _prepared(out, resume), Recorder(out / RESULT, seeds=(seed,)) as record:
        cluster = local_cluster(out, wanted.num_devices, resume, wanted.architecture_of(wanted.largest()))
        chain = Chain(wanted, cluster, data, out, "digits", candidates, seed, resume=resume)
        with resumable(out, MARKER):
            outcome = run_chain(chain)
        rate_per_s = simulation_rate(chain.space, cluster, seed)
        write_report(out / REPORT, report_content(chain, outcome, "sepnas demo: handwritten digits on three devices"))
        record_outcome(record, outcome, rate_per_s)
        # Only here: beside other programs these ratios say nothing about the chain.
        record.measure("latency_predicted_over_measured", outcome.latency_ratio, goal="<= 1.2")
        record.measure("measured_over_predicted", 1 / outcome.latency_ratio, goal="<= 1.2")
        record.measure("others_share_of_processors", outcome.answers.others)
        record.measure("demo_wall_s", time.perf_counter() - started, "s", goal="<= 180")
        record.table("stages", [{"stage": s, "seconds": round(t, 2)} for s, t in outcome.duration_s.items()])
    if result is not None:
        record.result().save(result)
    print_outcome(outcome, out / REPORT)
    wrong = [row.name for row in summary_rows(outcome) if row.agree is False]
    if wrong:
        raise ExchangeError(f"the devices do not follow the plan: {'; '.join(wrong)}")


@contextmanager
def _prepared(out: Path, resume: bool) -> Iterator[None]:
    """Prepare the folder, and lock it against other processes meanwhile."""
    _refuse_file(out)
    with held(out, "showing a demo"):
        _prepare(out, resume)
        yield


def _refuse_file(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise SpecError(f"--out {out}: is a file; name a folder")


def _prepare(out: Path, resume: bool) -> None:
    """Refuse a folder that is neither empty nor a demo's; remove an earlier demo's files unless it resumes."""
    marker = out / MARKER
    _refuse_file(out)
    if marker.exists():
        DemoMarker.load(marker)
    elif out.exists() and any(path.name != LOCK_FILE for path in out.iterdir()):
        raise SpecError(f"--out {out}: is not empty and not a demo's folder (it has no {MARKER}); name another")
    if not resume:
        for name in WRITTEN:
            _remove(out / name)
    DemoMarker().save(marker)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
