"""``sepnas train``: from an architecture and images to trained weights."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sepnas.api import prepare_training
from sepnas.cli.grouped import grouped
from sepnas.cli.options import (
    MAX_DEVICES,
    PATH,
    TEXT,
    ComputeOptions,
    DataOptions,
    MessageOptions,
    RecipeOptions,
    Resume,
    Seed,
    path_to,
)
from sepnas.console import say
from sepnas.errors import TrainingError
from sepnas.results.provenance import command_line
from sepnas.spec.arguments import MAX_COUNT, MAX_S
from sepnas.spec.folder_lock import held, refuse_held

if TYPE_CHECKING:
    from sepnas.nets.separable import SeparableResNeXt
    from sepnas.train.evaluation import SplitName
    from sepnas.train.images import ImageData
    from sepnas.train.record import TrainingResult
    from sepnas.train.training import Training


@dataclass(frozen=True)
class TrainingRecipe:
    """The recipe of a training."""

    recipe: Annotated[
        str | None,
        typer.Option(
            help="digits or cifar-fast (20 epochs), cifar-sgd (20), modern (100), paper (200), or a file "
            "[digits for the digits, cifar-fast for others].",
            **TEXT,
        ),
    ] = None
    epochs: Annotated[int | None, typer.Option(min=1, max=MAX_COUNT, help="Epochs, instead of the recipe's.")] = None


@dataclass(frozen=True, kw_only=True)
class TrainedNetwork:
    """The network that is trained, its exchange and its first weights."""

    devices: Annotated[
        int | None, typer.Option("--devices", "-n", min=1, max=MAX_DEVICES, help="For a name: how many devices.")
    ] = None
    policy: Annotated[str | None, typer.Option(help="Another policy than the file's [all-to-all].", **TEXT)] = None
    messages: MessageOptions
    start: Annotated[
        Path | None,
        typer.Option(
            parser=path_to("run", "file"),
            metavar="RUN",
            help="Begin with the weights of this run; the policy may be another.",
        ),
    ] = None


@dataclass(frozen=True)
class EndOptions:
    """When a training stops, and what follows."""

    stop_after_s: Annotated[
        float | None, typer.Option(min=0, max=MAX_S, help="Stop, resumable, after this many seconds.")
    ] = None
    compiled: Annotated[
        bool, typer.Option("--compile", help="Through torch.compile: minutes at first, then sooner on some GPUs.")
    ] = False
    test: Annotated[bool, typer.Option("--test", help="Touch the test split once, at the end.")] = False


@grouped
def train(
    architecture: Annotated[str, typer.Argument(help="An architecture file, or a name such as resnext20_4x4d.")],
    out: Annotated[Path, typer.Option(help="The run's folder.", **PATH)],
    *,
    source: DataOptions,
    recipe: TrainingRecipe,
    network: TrainedNetwork,
    changes: RecipeOptions,
    teacher: Annotated[
        list[Path] | None,
        typer.Option(
            parser=path_to("run", "file"),
            metavar="RUN",
            help="A run of sepnas train on the same data to learn from; may be repeated.",
        ),
    ] = None,
    seed: Seed = 0,
    resume: Resume = False,
    compute: ComputeOptions,
    stop: EndOptions,
) -> None:
    """Train an architecture on images; the best epoch is chosen by validation data.

    A checkpoint is written after every epoch, in long ones every three minutes (by one process); `--resume` goes
    on bit for bit. TensorBoard reads the folder.

    With `--device-dropout` the network learns to answer without some of its devices, for a deployment that degrades
    (`sepnas export --on-missing degrade`); `--test` then also says how well it does. Where one device alone has the
    classifier (`readout: device`), that one is never dropped, for nobody could answer for it.

    With `--teacher RUN` it also learns what a network answers that was trained before on the same data, such as the one
    that is not separable or the one with all-to-all messages. The recipe's `distillation` says how much.

    Images of a folder are mirrored only with `--flip` or a `--recipe` that says so, for the mirror image of an arrow or
    a letter is of another class. Photographs are a little better recognised with `--flip`.

    At the end the accuracy of each class is measured on validation images, with `--test` on the test split too; the
    run's folder keeps both (validation.json, test.json).

    Several GPUs share each batch: `torchrun --nproc-per-node gpu -m sepnas train ...`

    `--start RUN` goes on from weights that were trained before, with other messages perhaps.

    Example: `sepnas train architecture.json --data cifar100 --out runs/training`

    Example, four bits a number: `sepnas train RUN/architecture.json --start RUN --data cifar100 --wire int4
    --learned-scales --epochs 3 --learning-rate 0.001 --out runs/four-bits`
    """
    from sepnas.train.processes import is_first

    _refuse_held(out)
    training = prepare_training(
        architecture,
        source.source,
        devices=network.devices,
        policy=network.policy,
        wire=network.messages.wire,
        learned_scales=network.messages.learned_scales,
        recipe=recipe.recipe,
        changes=changes.with_epochs(recipe.epochs),
        start=network.start,
        teachers=teacher or (),
    )
    if is_first() and recipe.recipe is None and changes.flip is None and training.images.name.startswith("folder:"):
        say("images are not mirrored, for a mirror image may be of another class; --flip mirrors half of them")
    result = training.run(
        out, seed=seed, resume=resume, device=compute.device, threads=compute.threads,
        stop_after_s=stop.stop_after_s, compiled=stop.compiled,
    )  # fmt: skip
    if is_first():
        _say_result(result, training, compute.device, stop.test)


def _say_result(result: TrainingResult, training: Training, device: str, test: bool) -> None:
    """The best epoch, the accuracy on validation (and test) images, and the command that comes next."""
    from sepnas.train.checkpoint import load_network
    from sepnas.train.loop import pick_device

    out, images, recipe = result.out_dir, training.images, training.recipe
    if result.history:
        say(f"best epoch {result.best_epoch}: validation accuracy {result.best_accuracy:.2%} -> {out}")
    if not result.finished:
        say(f"stopped after {result.reached}; the same command with --resume goes on")
        return
    with held(out, "training", TrainingError):
        network = load_network(out).to(pick_device(device))
        _evaluate(network, images, "validation", out, mirrored=not recipe.augmentation.flip)
        if test:
            _evaluate(network, images, "test", out, with_lost=bool(recipe.device_dropout or recipe.message_dropout))
    say(f"next: sepnas export {shlex.quote(str(out))} {shlex.quote(str(out.parent / 'deployment'))}")


def _refuse_held(out: Path) -> None:
    """Refuse a folder that another process trains in before data are read; the first of several processes checks."""
    from sepnas.train.processes import is_first

    if is_first():
        refuse_held(out, "training", TrainingError)


def _evaluate(
    network: SeparableResNeXt,
    images: ImageData,
    split: SplitName,
    run: Path,
    mirrored: bool = False,
    with_lost: bool = False,
) -> None:
    """Measure the accuracy on a split, print it and write it to the run's folder."""
    from sepnas.train.evaluate import accuracy_with_lost
    from sepnas.train.evaluation import evaluate_split

    found = evaluate_split(network, images, split, command_line(), mirrored)
    num_devices = network.architecture.num_devices
    if with_lost:
        lost = (accuracy_with_lost(network, images.test, images, number) for number in range(1, num_devices))
        found = found.model_copy(update={"with_lost": tuple(lost)})
    say(str(found))
    if about := found.about_mirroring() if images.name.startswith("folder:") else "":
        say(about)
    for number, share in enumerate(found.with_lost, start=1):
        say(f"  with {number} of {num_devices} devices lost {share:.2%}, the mean over all ways to lose them")
    found.keep(run)
