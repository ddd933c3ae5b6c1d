"""``sepnas search``: find architectures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sepnas.cli.front import print_front
from sepnas.cli.learn import Compute, DataName, DataRoot, Download, Resume, Seed, Threads
from sepnas.search.explorer import StrategyName as Strategy
from sepnas.spec.cluster import Cluster, uniform_cluster
from sepnas.spec.space import SearchSpace


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
    from sepnas.search.pareto import knee
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
    print_front(result.front, knee(result.front))
