"""``sepnas search`` and ``pick``: find an architecture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from sepnas.cli.common import console, number, seconds
from sepnas.cli.learn import Compute, DataName, DataRoot, Download, Resume, Seed, Threads
from sepnas.search.explorer import StrategyName as Strategy
from sepnas.spec.cluster import Cluster, uniform_cluster
from sepnas.spec.space import SearchSpace

if TYPE_CHECKING:
    from sepnas.search.candidate import Candidate


def search(
    space: Annotated[Path, typer.Argument(help="A search space file, such as search_spaces/demo.yaml.")],
    out: Annotated[Path, typer.Option(help="The run's folder.")],
    cluster: Annotated[Path | None, typer.Option(help="A cluster file; equal boards on 100 Mbit without it.")] = None,
    data: DataName = "digits",
    data_root: DataRoot = None,
    download: Download = False,
    candidates: Annotated[int, typer.Option(min=1, help="How many candidates to evaluate.")] = 200,
    epochs: Annotated[int | None, typer.Option(min=1, help="Epochs of the supernet's training.")] = None,
    recipe: Annotated[str | None, typer.Option(help="Recipe of the supernet's training.")] = None,
    seed: Seed = 0,
    strategy: Annotated[Strategy, typer.Option(help="How candidates are chosen.")] = "predictive",
    resume: Resume = False,
    device: Compute = "auto",
    threads: Threads = None,
) -> None:
    """Search a space with NNI: validation accuracy, simulated latency and bytes at once.

    A supernet with shared weights is trained first; then each candidate's policy is judged on it. Every candidate is
    one line of candidates.jsonl; the Pareto front is front.json. `--resume` goes on after an interruption, to the
    same result as an unbroken run.

    `--strategy predictive` simulates many children of the best and judges the one that a predictor of accuracy, learned
    on the way, expects most of; `evolution` does without the predictor. For comparison: `nsga2`, plain, and NNI's own
    `random` and `regularized-evolution`, which see one number, the accuracy less the mean share of the costs.
    """
    from sepnas.search.run import run_search
    from sepnas.train.data import load_dataset
    from sepnas.train.recipe import load_recipe
    from sepnas.train.threads import use_threads_for

    chosen = SearchSpace.load(space)
    use_threads_for(chosen.architecture_of(chosen.largest()), threads)
    result = run_search(
        chosen,
        Cluster.load(cluster) if cluster else uniform_cluster(chosen.num_devices),
        load_dataset(data, root=data_root, download=download),
        out,
        candidates=candidates,
        seed=seed,
        strategy=strategy,
        supernet_epochs=epochs,
        recipe=load_recipe(recipe) if recipe else None,
        resume=resume,
        device=device,
    )
    print_front(result.front)


def print_front(front: list[Candidate]) -> None:
    """The Pareto front as a table, fewest bytes first."""
    table = Table("candidate", "accuracy", "latency", "payload bytes", title=f"Pareto front: {len(front)} points")
    for candidate in front:
        accuracy, costs = candidate.objectives["accuracy"], candidate.costs
        latency, sent = seconds(costs["latency_s"]), number(int(costs["payload_bytes"]))
        table.add_row(str(candidate.index), f"{accuracy:.2%}", latency, sent)
    console.print(table)


def pick(
    run: Annotated[Path, typer.Argument(help="A folder that `sepnas search` wrote.")],
    out: Annotated[Path, typer.Option(help="The architecture file to write.")] = Path("architecture.json"),
    max_latency_ms: Annotated[float | None, typer.Option(min=0, help="Bound on the simulated latency, ms.")] = None,
    max_bytes: Annotated[int | None, typer.Option(min=0, help="Bound on the payload bytes of an inference.")] = None,
    min_accuracy: Annotated[float | None, typer.Option(min=0, max=1, help="Bound on the accuracy, 0..1.")] = None,
) -> None:
    """Take one point of a search's front: the most accurate within the bounds, or the knee point without any."""
    from sepnas.search.choose import pick as choose
    from sepnas.search.folder import load_front

    max_latency_s = None if max_latency_ms is None else max_latency_ms / 1e3
    candidate = choose(load_front(run), max_latency_s, max_bytes, min_accuracy)
    candidate.architecture.save(out)
    print_front([candidate])
    console.print(f"written to {out}; next: sepnas train {out} --out RUN")
