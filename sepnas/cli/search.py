"""``sepnas search``: find architectures."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

import typer

from sepnas import api
from sepnas.cli.front import print_front
from sepnas.cli.grouped import grouped
from sepnas.cli.options import (
    FILE,
    FOLDER,
    TEXT,
    ComputeOptions,
    DataOptions,
    RecipeOptions,
    Resume,
    Seed,
    cluster_to_predict_with,
    path_to,
    resumable,
)
from sepnas.console import say
from sepnas.errors import SearchError
from sepnas.search.explorer import BATCH, STRATEGIES
from sepnas.search.explorer import StrategyName as Strategy
from sepnas.spec.arguments import MAX_COUNT, MAX_S, MAX_THREADS
from sepnas.units import format_count

if TYPE_CHECKING:
    from sepnas.search.run import SearchResult
    from sepnas.search.trials.settings import Trials

Engine: TypeAlias = Literal["in-process", "local", "remote"]
_TRIALS = "With --engine local or remote"


@dataclass(frozen=True)
class SupernetRecipe:
    """The recipe of the supernet's training."""

    epochs: Annotated[
        int | None,
        typer.Option(
            min=1, max=MAX_COUNT, metavar="N", help="Epochs of the supernet's training [12, or the recipe's]."
        ),
    ] = None
    recipe: Annotated[
        str | None,
        typer.Option(
            help="The supernet's recipe: digits, cifar-fast, cifar-sgd, large-images, modern, paper or a file "
            "[one of its own].",
            **TEXT,
        ),
    ] = None


@dataclass(frozen=True)
class ExplorationOptions:
    """How candidates are proposed."""

    strategy: Annotated[Strategy, typer.Option(metavar="NAME", help=f"One of {', '.join(STRATEGIES)}.")] = "predictive"
    batch: Annotated[
        int,
        typer.Option(min=1, max=MAX_COUNT, metavar="N", help="Number of candidates proposed and evaluated at a time."),
    ] = BATCH


@dataclass(frozen=True)
class SupernetOptions:
    """When a search stops before it explores."""

    supernet_only: Annotated[
        bool,
        typer.Option("--supernet-only", help="Stop when the supernet is trained; --resume explores, on any machine."),
    ] = False
    stop_after_s: Annotated[
        float | None,
        typer.Option(
            min=0, max=MAX_S, help="Stop the supernet's training after this time in seconds; --resume continues."
        ),
    ] = None


@dataclass(frozen=True)
class SupernetChanges(RecipeOptions):
    """Values that replace those of the supernet's recipe."""

    device_dropout: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE",
            help="Share of devices lost in training, drawn for each image [the recipe's: 0; 0.1 with "
            "accuracy_one_lost].",
        ),
    ] = None


@dataclass(frozen=True)
class TrialOptions:
    """NNI trials, which evaluate candidates outside of this process."""

    workers: Annotated[
        int,
        typer.Option(
            min=1,
            max=MAX_THREADS,
            metavar="N",
            rich_help_panel=_TRIALS,
            help="Number of concurrent trials on each machine, each with --threads.",
        ),
    ] = 1
    remote: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MACHINE",
            rich_help_panel=_TRIALS,
            help="remote: USER@HOST[:PORT], repeated for each machine, or a file (`sepnas schema machines`).",
        ),
    ] = None
    ssh_key: Annotated[
        str | None,
        typer.Option(metavar="FILE", rich_help_panel=_TRIALS, help="remote: a private key [the SSH agent's]."),
    ] = None
    remote_python: Annotated[
        str | None,
        typer.Option(
            metavar="PATH",
            rich_help_panel=_TRIALS,
            help="remote: a Python on the machine that has sepnas' search dependencies.",
        ),
    ] = None
    web_host: Annotated[
        str, typer.Option(metavar="HOST", rich_help_panel=_TRIALS, help="Address of NNI's page, which opens by a link.")
    ] = "127.0.0.1"
    web_port: Annotated[
        int,
        typer.Option(
            min=0, max=65535, metavar="PORT", rich_help_panel=_TRIALS, help="Port of NNI's page; 0: any free one."
        ),
    ] = 0

    def settings(self, engine: Engine) -> Trials | None:
        """The settings of ``engine``; None for this process. Raises :class:`SearchError`."""
        from sepnas.search.trials.machines import read_machines
        from sepnas.search.trials.settings import Trials

        if (engine == "remote") != bool(self.remote):
            raise SearchError(
                "`--engine remote` and `--remote` belong together: name the machines with --remote USER@HOST"
            )
        if engine == "in-process":
            return None
        machines = read_machines(self.remote or [], self.ssh_key, self.remote_python)
        return Trials(self.workers, machines, self.web_host, self.web_port)


@grouped
def search(
    space: Annotated[
        Path, typer.Argument(help="A search space, such as search_spaces/demo.yaml.", parser=path_to("file"))
    ],
    out: Annotated[Path, typer.Option(help="The run's folder; created, or continued by --resume.", **FOLDER)],
    *,
    cluster: Annotated[
        Path | None,
        typer.Option(help="A cluster file, for example from `sepnas profile` [equal boards on 100 Mbit/s].", **FILE),
    ] = None,
    source: DataOptions,
    candidates: Annotated[
        int, typer.Option(min=1, max=MAX_COUNT, metavar="N", help="Number of candidates to evaluate.")
    ] = 200,
    recipe: SupernetRecipe,
    changes: SupernetChanges,
    seed: Seed = 0,
    exploration: ExplorationOptions,
    engine: Annotated[
        Engine, typer.Option(help="Where candidates are evaluated; each gives the same result.")
    ] = "in-process",
    resume: Resume = False,
    stop: SupernetOptions,
    compute: ComputeOptions,
    trials: TrialOptions,
) -> None:
    """Search a space with NNI for networks of high validation accuracy and low simulated latency and bytes.

    A supernet with shared weights is trained first; each candidate is then evaluated with its weights. Every candidate
    is one line of candidates.jsonl; the Pareto front is front.json. `--resume` continues an interrupted search and
    gives the same result as an uninterrupted one.

    `--strategy predictive` simulates many children of the best candidates and evaluates the most promising one, by a
    predictor of accuracy that learns during the search; `evolution` works without the predictor. For comparison: plain
    `nsga2`, and NNI's own `random` and `regularized-evolution`, which optimise one number, the mean accuracy minus the
    mean share of the costs.

    `--device-dropout` trains the supernet without some of the devices; candidates are still evaluated with all of them.
    If `accuracy_one_lost` is an objective of the space, candidates are also evaluated with one device lost: the mean
    over the devices, except for a device that alone has the classifier. The supernet's dropout is then 0.1 by default.

    `--supernet-only` trains the supernet on a machine with a GPU and without NNI (in pieces with `--stop-after-s`);
    copy the folder to explore it on another machine.

    `--engine local` evaluates in NNI trials, processes of this machine; `--engine remote` in trials on machines reached
    over SSH, which need no data. A trial costs seconds: give each many candidates (`--batch`).

    Example, in a minute or two: `sepnas search search_spaces/demo.yaml --candidates 60 --epochs 6 --out runs/search`

    Example, with your devices: `sepnas search search_spaces/cifar-small.yaml --data cifar100 --download --cluster
    cluster.yaml --out runs/cifar`

    Your own images need their own space: a copy whose `network` has their number of classes and your number of devices.
    """
    from sepnas.search.folder import RUN_FILE

    engine_settings = trials.settings(engine)
    with resumable(out, RUN_FILE):
        result = api.search(
            space,
            out,
            cluster=cluster_to_predict_with(cluster) if cluster else None,
            data=source.source,
            candidates=candidates,
            strategy=exploration.strategy,
            batch=exploration.batch,
            recipe=recipe.recipe,
            changes=changes.with_epochs(recipe.epochs),
            seed=seed,
            resume=resume,
            device=compute.device,
            threads=compute.threads,
            trials=engine_settings,
            supernet_only=stop.supernet_only,
            stop_after_s=stop.stop_after_s,
        )
    _say_result(result, out, stop.supernet_only)


def _say_result(result: SearchResult, out: Path, supernet_only: bool) -> None:
    """Print the front and the next commands, or how to resume a search that stopped early."""
    from sepnas.search.pareto import knee

    if not result.finished:
        done = "is trained" if result.supernet_trained else "is trained in part"
        without = " and without --supernet-only" if supernet_only and result.supernet_trained else ""
        say(f"the supernet {done}; repeat the command with --resume{without} to continue")
        return
    print_front(result.front, knee(result.front))
    say(_summary(result))
    _say_next(out)


def _summary(result: SearchResult) -> str:
    evaluated = format_count(result.candidates, "candidate")
    left_out = f"{result.rejected} violate a bound or lack a link, {result.duplicates} are duplicates"
    points = format_count(len(result.front), "point")
    return f"{points} on the front of {evaluated}; not evaluated: {left_out}; hypervolume {result.hypervolume:.4f}"


def _say_next(out: Path) -> None:
    """Print the next commands."""
    run = shlex.quote(str(out))
    commands = {
        f"sepnas pick {run}": "save the knee, or the best within bounds (--max-bytes 200KB)",
        f"sepnas front {run}": "show this table again, filtered or sorted",
        f"sepnas report --search {run}": "write a page with pictures",
    }
    width = max(map(len, commands))
    for place, (command, what) in enumerate(commands.items()):
        say(f"{'next:' if place == 0 else '     '} {command:{width}}  # {what}")
