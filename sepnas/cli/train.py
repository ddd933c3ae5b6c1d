"""``sepnas train``: from an architecture and images to trained weights."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sepnas.api import check_same_data, load_teacher, read_architecture, train_architecture
from sepnas.cli.options import (
    MAX_COUNT,
    MAX_DEVICES,
    MAX_S,
    PATH,
    TEXT,
    Compute,
    DataRoot,
    DeviceDropout,
    Download,
    Flip,
    ImageSize,
    LearnedScales,
    LearningRate,
    NoData,
    Resizing,
    Resume,
    Seed,
    Threads,
    Wire,
    data_or_digits,
    path_to,
)
from sepnas.console import say
from sepnas.errors import TrainingError
from sepnas.results.provenance import command_line
from sepnas.separable.architecture import Architecture
from sepnas.spec.folder_lock import held, refuse_held

if TYPE_CHECKING:
    from sepnas.nets.separable import SeparableResNeXt
    from sepnas.train.evaluation import SplitName
    from sepnas.train.images import ImageData


def train(
    architecture: Annotated[str, typer.Argument(help="An architecture file, or a name such as resnext20_4x4d.")],
    out: Annotated[Path, typer.Option(help="The run's folder.", **PATH)],
    data: NoData = None,
    data_root: DataRoot = None,
    download: Download = False,
    image_size: ImageSize = None,
    resize: Resizing = "stretch",
    recipe: Annotated[
        str | None,
        typer.Option(
            help="digits or cifar-fast (20 epochs), cifar-sgd (20), modern (100), paper (200), or a file "
            "[digits for the digits, cifar-fast for others].",
            **TEXT,
        ),
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, max=MAX_COUNT, help="Epochs, instead of the recipe's.")] = None,
    devices: Annotated[
        int | None, typer.Option("--devices", "-n", min=1, max=MAX_DEVICES, help="For a name: how many devices.")
    ] = None,
    policy: Annotated[str | None, typer.Option(help="Another policy than the file's [all-to-all].", **TEXT)] = None,
    wire: Wire = None,
    learned_scales: LearnedScales = None,
    start: Annotated[
        Path | None,
        typer.Option(
            parser=path_to("run", "file"),
            metavar="RUN",
            help="Begin with the weights of this run; the policy may be another.",
        ),
    ] = None,
    learning_rate: LearningRate = None,
    device_dropout: DeviceDropout = None,
    flip: Flip = None,
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
    device: Compute = "auto",
    threads: Threads = None,
    stop_after_s: Annotated[
        float | None, typer.Option(min=0, max=MAX_S, help="Stop, resumable, after this many seconds.")
    ] = None,
    compiled: Annotated[
        bool, typer.Option("--compile", help="Through torch.compile: minutes at first, then sooner on some GPUs.")
    ] = False,
    test: Annotated[bool, typer.Option("--test", help="Touch the test split once, at the end.")] = False,
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
    from sepnas.train.checkpoint import load_network
    from sepnas.train.data import load_dataset
    from sepnas.train.loop import pick_device
    from sepnas.train.processes import is_alone, is_first
    from sepnas.train.recipe import default_recipe, load_recipe

    _refuse_held(out)
    chosen = read_architecture(architecture, devices, policy, wire=wire, learned_scales=learned_scales)
    is_file = architecture.endswith((".json", ".yaml", ".yml"))
    data = data_or_digits(data, image_size, chosen if is_file else None, f"architecture {chosen.name!r}")
    # a wrong value is told before the data are read, which may take long
    named = load_recipe(recipe) if recipe else default_recipe(data)
    wanted = named.changed(
        recipe or named.name, epochs=epochs, device_dropout=device_dropout, learning_rate=learning_rate
    ).mirroring(flip)
    trained = load_network(start) if start else None
    if download and not is_alone():
        raise TrainingError(
            "--download: several processes would write the same files; fetch them once without torchrun"
        )
    images = load_dataset(data, root=data_root, image_size=image_size, resize=resize, download=download)
    if not is_file:
        fits = {"num_classes": images.num_classes, "in_channels": images.in_channels, "image_size": images.image_size}
        chosen = Architecture.from_data(chosen.to_data() | fits, f"{architecture} for {data}")
    teachers = [load_teacher(run, images) for run in teacher or ()]
    if start:
        check_same_data("--start", start, images)
    if is_first() and recipe is None and flip is None and data.startswith("folder:"):
        say("images are not mirrored, for a mirror image may be of another class; --flip mirrors half of them")
    result = train_architecture(
        chosen, images, wanted, out, seed, resume, device=device, threads=threads, stop_after_s=stop_after_s,
        teachers=teachers, start=trained, compiled=compiled,
    )  # fmt: skip
    if not is_first():
        return
    if result.history:
        say(f"best epoch {result.best_epoch}: validation accuracy {result.best_accuracy:.2%} -> {out}")
    if not result.finished:
        say(f"stopped after {result.reached}; the same command with --resume goes on")
        return
    with held(out, "training", TrainingError):
        network = load_network(out).to(pick_device(device))
        _evaluate(network, images, "validation", out, mirrored=not wanted.augmentation.flip)
        if test:
            _evaluate(network, images, "test", out, with_lost=bool(wanted.device_dropout or wanted.message_dropout))
    say(f"next: sepnas export {shlex.quote(str(out))} {shlex.quote(str(out.parent / 'deployment'))}")


def _refuse_held(out: Path) -> None:
    """Before data are read: a folder that another process trains in. Of several the first one holds it for all."""
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
    """Say how good the network is on a split, and keep it in the run's folder."""
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
