"""``sepnas train`` and ``export``: from an architecture to a deployment."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import Progress

from sepnas.cli.common import console, number
from sepnas.cli.describe import read_architecture
from sepnas.errors import DeploymentError
from sepnas.spec.architecture import Architecture
from sepnas.spec.dataset import DataFacts
from sepnas.spec.hosts import Hosts
from sepnas.spec.manifest import Manifest

if TYPE_CHECKING:
    from sepnas.train.images import ImageData
    from sepnas.train.record import TrainingResult

DataName = Annotated[str, typer.Option("--data", help="digits, cifar10, cifar100, fashion-mnist or folder:PATH.")]
DataRoot = Annotated[Path | None, typer.Option(help="Where torchvision's data sets lie [~/.cache/sepnas].")]
Download = Annotated[bool, typer.Option("--download", help="Let torchvision fetch a data set that is missing.")]
Seed = Annotated[int, typer.Option(help="Seed of weights, data order and sampling.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on where an interrupted run stopped.")]
Compute = Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")]
Threads = Annotated[int | None, typer.Option(min=1, help="Threads of torch [one for small networks, else all].")]

DATA_FILE = "data.json"


def save_data_facts(data: ImageData, out: Path) -> None:
    DataFacts(name=data.name, classes=data.classes, mean=data.mean, std=data.std).save(out / DATA_FILE)


def train_architecture(
    architecture: Architecture,
    data: ImageData,
    recipe: str,
    out: Path,
    seed: int,
    resume: bool,
    epochs: int | None = None,
    device: str = "auto",
    threads: int | None = None,
    stop_after_s: float | None = None,
) -> TrainingResult:
    """Train from a seed; the run's folder then holds all that ``export`` needs."""
    from sepnas.train.checkpoint import new_network
    from sepnas.train.loop import train_network
    from sepnas.train.recipe import Recipe, load_recipe
    from sepnas.train.threads import use_threads_for

    use_threads_for(architecture, threads)
    chosen = load_recipe(recipe)
    if epochs is not None:
        chosen = Recipe.from_data(chosen.to_data() | {"epochs": epochs}, recipe)
    network = new_network(architecture, seed)
    result = train_network(
        network, data, chosen, out, seed=seed, resume=resume, device=device, stop_after_s=stop_after_s
    )
    save_data_facts(data, out)
    return result


def train(
    architecture: Annotated[str, typer.Argument(help="An architecture file, or a name such as resnext20_4x4d.")],
    out: Annotated[Path, typer.Option(help="The run's folder.")],
    data: DataName = "digits",
    data_root: DataRoot = None,
    download: Download = False,
    recipe: Annotated[str, typer.Option(help="digits, cifar-fast, paper, or a recipe file.")] = "digits",
    epochs: Annotated[int | None, typer.Option(min=1, help="Epochs, instead of the recipe's.")] = None,
    devices: Annotated[int | None, typer.Option("--devices", "-n", min=1, help="For a name: how many devices.")] = None,
    policy: Annotated[str | None, typer.Option(help="Another policy than the file's [all-to-all].")] = None,
    seed: Seed = 0,
    resume: Resume = False,
    device: Compute = "auto",
    threads: Threads = None,
    stop_after_s: Annotated[float | None, typer.Option(min=0, help="Stop, resumable, after this many seconds.")] = None,
    test: Annotated[bool, typer.Option("--test", help="Touch the test split once, at the end.")] = False,
) -> None:
    """Train an architecture on images; the best epoch is chosen by validation data.

    A checkpoint is written after every epoch; `--resume` goes on bit for bit. TensorBoard reads the folder.
    """
    from sepnas.train.checkpoint import load_network
    from sepnas.train.data import load_dataset
    from sepnas.train.evaluate import accuracy

    images = load_dataset(data, root=data_root, download=download)
    chosen = read_architecture(architecture, devices, policy)
    if not architecture.endswith((".json", ".yaml", ".yml")):
        fits = {"num_classes": images.num_classes, "in_channels": images.in_channels, "image_size": images.image_size}
        chosen = Architecture.from_data(chosen.to_data() | fits, architecture)
    result = train_architecture(chosen, images, recipe, out, seed, resume, epochs, device, threads, stop_after_s)
    console.print(f"best epoch {result.best_epoch}: validation accuracy {result.best_accuracy:.2%} -> {out}")
    if not result.finished:
        console.print(f"stopped after {result.epochs_done} epochs; the same command with --resume goes on")
    elif test:
        console.print(f"test accuracy {accuracy(load_network(out), images.test, images):.2%}")


def export_run(
    run: Path, out: Path, name: str | None = None, hosts: Hosts | None = None, force: bool = False
) -> Manifest:
    """Export the best checkpoint of a training run."""
    from sepnas.deploy.export import export_deployment
    from sepnas.train.checkpoint import load_network

    facts_path = run / DATA_FILE
    if not facts_path.exists():
        raise DeploymentError(
            f"{run}: not a finished training run: {DATA_FILE} is missing; run `sepnas train --out {run}`"
        )
    facts = DataFacts.load(facts_path)
    network = load_network(run)
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("export")

        def show(done: int, total: int, what: str) -> None:
            progress.update(task, completed=done, total=total, description=f"export: {what}")

        return export_deployment(
            network, out, name=name or run.resolve().name, classes=facts.classes, mean=facts.mean, std=facts.std,
            hosts=hosts, force=force, progress=show,
        )  # fmt: skip


def export(
    run: Annotated[Path, typer.Argument(help="A folder that `sepnas train` wrote.")],
    out: Annotated[Path, typer.Argument(help="The deployment's folder.")],
    name: Annotated[str | None, typer.Option(help="The deployment's name [the run's folder].")] = None,
    hosts: Annotated[Path | None, typer.Option(help="hosts.yaml to put in; else all devices on this machine.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a deployment that stands there.")] = False,
) -> None:
    """Cut a trained network into one folder for each device.

    Each folder holds only that device's weights, its segments as torch modules, its steps and its certificate; copy
    it to the device and start `sepnas worker` there.
    """
    manifest = export_run(run, out, name, Hosts.load(hosts) if hosts else None, force)
    console.print(
        f"{out}: {manifest.architecture.num_devices} devices, {number(manifest.payload_bytes)} bytes an inference "
        f"between them, deployment {manifest.deployment_id[:16]}"
    )
    console.print(f"next, on each device R: sepnas worker {out}/deviceR --listen HOST:PORT")
