"""``sepnas train``: from an architecture and images to trained weights."""

from __future__ import annotations

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
    NameOrNetwork,
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
from sepnas.train.recipe import HeadChoice

if TYPE_CHECKING:
    from torch import nn

    from sepnas.train.evaluation import SplitName
    from sepnas.train.images import ImageData
    from sepnas.train.record import TrainingResult
    from sepnas.train.training import Training
    from sepnas.train.tuning import GraphTraining


@dataclass(frozen=True)
class TrainingRecipe:
    """The recipe of a training."""

    recipe: Annotated[
        str | None,
        typer.Option(
            help="digits, cifar-fast, cifar-muon, cifar-sgd or large-images (20 epochs), modern (100), paper (200), "
            "finetune (5), or a file [finetune for an imported network, digits for the digits, large-images from 128 "
            "pixels a side, cifar-fast for others].",
            **TEXT,
        ),
    ] = None
    epochs: Annotated[int | None, typer.Option(min=1, max=MAX_COUNT, help="Epochs, instead of the recipe's.")] = None


@dataclass(frozen=True, kw_only=True)
class TrainedNetwork:
    """The network to train, its messages and its initial weights."""

    devices: Annotated[
        int | None, typer.Option("--devices", "-n", min=1, max=MAX_DEVICES, help="For a name: number of devices.")
    ] = None
    policy: Annotated[str | None, typer.Option(help="A policy that replaces the file's [all-to-all].", **TEXT)] = None
    messages: MessageOptions
    start: Annotated[
        Path | None,
        typer.Option(
            parser=path_to("run", "file"),
            metavar="RUN",
            help="Start from the weights of this run; its policy may differ.",
        ),
    ] = None
    head: Annotated[
        HeadChoice,
        typer.Option(help="For an imported network: new replaces its last layer by one for the classes of the data."),
    ] = "keep"


@dataclass(frozen=True)
class EndOptions:
    """When the training stops, and the final steps."""

    stop_after_s: Annotated[
        float | None, typer.Option(min=0, max=MAX_S, help="Stop after this time in seconds; --resume continues.")
    ] = None
    compiled: Annotated[
        bool, typer.Option("--compile", help="Use torch.compile: minutes to compile, then faster on some GPUs.")
    ] = False
    test: Annotated[
        bool, typer.Option("--test", help="Also measure the accuracy on the test split, once, at the end.")
    ] = False


@grouped
def train(
    architecture: NameOrNetwork,
    out: Annotated[Path, typer.Option(help="The run's folder.", **PATH)],
    *,
    source: DataOptions,
    recipe: TrainingRecipe,
    network: TrainedNetwork,
    changes: RecipeOptions,
    teacher: Annotated[
        list[Path] | None,
        typer.Option(
            parser=path_to("run", "network", "file"),
            metavar="RUN",
            help="A run on the same data to distil from, or an imported network; may be repeated.",
        ),
    ] = None,
    seed: Seed = 0,
    resume: Resume = False,
    compute: ComputeOptions,
    stop: EndOptions,
) -> None:
    """Train an architecture, or fine-tune an imported network, on images; validation images select the best epoch.

    A checkpoint is written after every epoch, and every three minutes within long epochs (by one process); `--resume`
    continues bit for bit. TensorBoard reads the folder.

    `--device-dropout` trains the network to answer without some of its devices, for a deployment that degrades (`sepnas
    export --on-missing degrade`); `--test` then also measures its accuracy with lost devices. A device that alone has
    the classifier (`readout: device`) is never dropped.

    `--teacher RUN` also distils from a network trained on the same data, such as one that is not separable or one with
    all-to-all messages. The recipe's `distillation` sets the weights of the losses. An imported network as a teacher,
    or any teacher of one, answers each image and its mirror image once; the answers are kept in the run's folder.

    Images of a folder are mirrored only with `--flip` or by the `--recipe`, because the mirror image of an arrow or a
    letter belongs to another class. Photographs usually gain a little from `--flip`.

    At the end the accuracy of each class is measured on validation images, with `--test` on the test split too, and
    kept in the run's folder (validation.json, test.json).

    An imported network (the folder of `sepnas import`) starts from its weights. The run's folder is such a folder too,
    with the best weights: `partition`, `export` and `evaluate` take it, and `train` goes on from it. `--head new` makes
    it know the classes of the data. Images are scaled as in any training, and later by `infer` and `evaluate` too.

    Several GPUs share each batch: `torchrun --nproc-per-node gpu -m sepnas train ...`

    `--start RUN` starts from the weights of an earlier run, which may have another policy.

    Example: `sepnas train architecture.json --data cifar100 --out runs/training`

    Example, fine-tuning: `sepnas train resnet50 --data folder:flowers --image-size 224 --head new --out runs/tuned`

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
        merge=network.messages.merge,
        head=network.head,
        recipe=recipe.recipe,
        changes=changes.with_epochs(recipe.epochs),
        start=network.start,
        teachers=teacher or (),
    )
    if is_first() and recipe.recipe is None and changes.flip is None and training.images.name.startswith("folder:"):
        say("images are not mirrored, because a mirror image may belong to another class; --flip mirrors half of them")
    result = training.run(
        out, seed=seed, resume=resume, device=compute.device, threads=compute.threads,
        stop_after_s=stop.stop_after_s, compiled=stop.compiled,
    )  # fmt: skip
    if is_first():
        _say_result(result, training, compute.device, stop.test)


def _say_result(result: TrainingResult, training: Training | GraphTraining, device: str, test: bool) -> None:
    """Print the best epoch, its accuracy on validation (and test) images, and the next command."""
    from sepnas.train.loop import pick_device

    out, images, recipe = result.out_dir, training.images, training.recipe
    if result.history:
        say(f"best epoch {result.best_epoch}: validation accuracy {result.best_accuracy:.2%} -> {out}")
    if not result.finished:
        say(f"stopped after {result.reached}; repeat the command with --resume to continue")
        return
    with held(out, "training", TrainingError):
        network = training.best(out).to(pick_device(device))
        _evaluate(network, images, "validation", out, mirrored=not recipe.augmentation.flip)
        if test:
            _evaluate(network, images, "test", out, with_lost=bool(recipe.device_dropout or recipe.message_dropout))
    say(f"next: {training.next_command(out)}")


def _refuse_held(out: Path) -> None:
    """Refuse a folder in which another process trains, before data are read; only the first process checks."""
    from sepnas.train.processes import is_first

    if is_first():
        refuse_held(out, "training", TrainingError)


def _evaluate(
    network: nn.Module,
    images: ImageData,
    split: SplitName,
    run: Path,
    mirrored: bool = False,
    with_lost: bool = False,
) -> None:
    """Measure the accuracy on a split, print it and write it to the run's folder."""
    from sepnas.nets.separable import SeparableNetwork
    from sepnas.train.evaluate import accuracy_with_lost
    from sepnas.train.evaluation import evaluate_split

    found = evaluate_split(network, images, split, command_line(), mirrored)
    if with_lost:
        assert isinstance(network, SeparableNetwork)
        num_devices = network.architecture.num_devices
        lost = (accuracy_with_lost(network, images.test, images, number) for number in range(1, num_devices))
        found = found.model_copy(update={"with_lost": tuple(lost)})
    say(str(found))
    if about := found.about_mirroring() if images.name.startswith("folder:") else "":
        say(about)
    for number, share in enumerate(found.with_lost, start=1):
        say(f"  with {number} of {len(found.with_lost) + 1} devices lost {share:.2%}, mean over all combinations")
    found.keep(run)
