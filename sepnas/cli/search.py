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
            help="digits, cifar-fast, cifar-sgd, modern, paper or a file, for the supernet [one of its own].", **TEXT
        ),
    ] = None


@dataclass(frozen=True)
class ExplorationOptions:
    """How candidates are proposed."""

    strategy: Annotated[Strategy, typer.Option(metavar="NAME", help=f"One of {', '.join(STRATEGIES)}.")] = "predictive"
    batch: Annotated[
        int, typer.Option(min=1, max=MAX_COUNT, metavar="N", help="Candidates proposed, and evaluated, at a time.")
    ] = BATCH


@dataclass(frozen=True)
class SupernetOptions:
    """When a search stops before it explores."""

    supernet_only: Annotated[
        bool, typer.Option("--supernet-only", help="Stop when the supernet is trained; --resume explores, anywhere.")
    ] = False
    stop_after_s: Annotated[
        float | None,
        typer.Option(min=0, max=MAX_S, help="Stop the supernet's training, resumable, after this many seconds."),
    ] = None


@dataclass(frozen=True)
class SupernetChanges(RecipeOptions):
    """Values that replace those of the supernet's recipe."""

    device_dropout: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE",
            help="Train every image without this share of the devices, drawn anew [the recipe's: 0; 0.1 with "
            "accuracy_one_lost].",
        ),
    ] = None


@dataclass(frozen=True)
class TrialOptions:
    """NNI's trials, where candidates are not evaluated in this process."""

    workers: Annotated[
        int,
        typer.Option(
            min=1,
            max=MAX_THREADS,
            metavar="N",
            rich_help_panel=_TRIALS,
            help="Trials side by side on each machine, each with --threads.",
        ),
    ] = 1
    remote: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MACHINE",
            rich_help_panel=_TRIALS,
            help="remote: USER@HOST[:PORT], again for each; or a file (`sepnas schema machines`).",
        ),
    ] = None
    ssh_key: Annotated[
        str | None,
        typer.Option(metavar="FILE", rich_help_panel=_TRIALS, help="remote: a private key [the SSH agent's]."),
    ] = None
    remote_python: Annotated[
        str | None,
        typer.Option(
            metavar="PATH", rich_help_panel=_TRIALS, help="remote: a Python there with sepnas' search dependencies."
        ),
    ] = None
    web_host: Annotated[
        str, typer.Option(metavar="HOST", rich_help_panel=_TRIALS, help="Where NNI's page listens; it opens by a link.")
    ] = "127.0.0.1"
    web_port: Annotated[
        int, typer.Option(min=0, max=65535, metavar="PORT", rich_help_panel=_TRIALS, help="Of NNI's page; 0: any.")
    ] = 0

    def settings(self, engine: Engine) -> Trials | None:
        """What ``engine`` needs; None for this process. Raises :class:`SearchError`."""
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
    out: Annotated[Path, typer.Option(help="The run's folder; made, or gone on with by --resume.", **FOLDER)],
    *,
    cluster: Annotated[
        Path | None,
        typer.Option(help="A cluster file, as `sepnas profile` writes [equal boards on 100 Mbit/s].", **FILE),
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
    """Search a space with NNI: validation accuracy, simulated latency and bytes at once.

    A supernet with shared weights is trained first; then each candidate's policy is evaluated on it. Every candidate is
    one line of candidates.jsonl; the Pareto front is front.json. `--resume` goes on after an interruption, to the
    same result as an unbroken run.

    `--strategy predictive` simulates many children of the best and evaluates the one that a predictor of accuracy,
    learned on the way, expects most of; `evolution` does without the predictor. For comparison: `nsga2`, plain, and
    NNI's own `random` and `regularized-evolution`, which see one number, the mean accuracy less the mean share of the
    costs.

    `--device-dropout` trains the supernet without some devices; candidates are still evaluated with all of them. Where
    the space's `objectives` name `accuracy_one_lost`, they are evaluated with one device lost too: the mean over the
    devices, but for one that alone has the classifier, without which there is no answer. Then the supernet has a
    dropout of 0.1, unless its recipe or this option says another.

    A supernet can be trained on a machine with a GPU and without NNI (`--supernet-only`, in pieces with
    `--stop-after-s`), and be explored on another: copy the folder.

    `--engine local` evaluates in NNI's trials, processes of this machine; `--engine remote` in trials on machines that
    SSH reaches, which need no data. A trial costs seconds: give each many candidates (`--batch`).

    Example, in a minute or two: `sepnas search search_spaces/demo.yaml --candidates 60 --epochs 6 --out runs/search`

    Example, with your devices: `sepnas search search_spaces/cifar-small.yaml --data cifar100 --download --cluster
    cluster.yaml --out runs/cifar`

    Images of your own need a space of their own: a copy whose `network` says how many classes and devices there are.
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
    """The front and the commands that come next, or how to go on with a search that stopped early."""
    from sepnas.search.pareto import knee

    if not result.finished:
        done = "is trained" if result.supernet_trained else "is trained in part"
        without = " and without --supernet-only" if supernet_only and result.supernet_trained else ""
        say(f"the supernet {done}; the same command with --resume{without} goes on")
        return
    print_front(result.front, knee(result.front))
    say(_summary(result))
    _say_next(out)


def _summary(result: SearchResult) -> str:
    evaluated = format_count(result.candidates, "candidate")
    left_out = f"{result.rejected} beyond a bound or a link, {result.duplicates} duplicates"
    points = format_count(len(result.front), "point")
    return f"{points} on the front of {evaluated}; not evaluated: {left_out}; hypervolume {result.hypervolume:.4f}"


def _say_next(out: Path) -> None:
    """Print the commands that come next."""
    run = shlex.quote(str(out))
    commands = {
        f"sepnas pick {run}": "take the knee, or the best within bounds (--max-bytes 200KB)",
        f"sepnas front {run}": "show this table again, filtered or sorted",
        f"sepnas report --search {run}": "write a page with pictures",
    }
    width = max(map(len, commands))
    for place, (command, what) in enumerate(commands.items()):
        say(f"{'next:' if place == 0 else '     '} {command:{width}}  # {what}")
