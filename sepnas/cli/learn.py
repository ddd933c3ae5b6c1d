"""``sepnas train`` and ``export``: from an architecture to a deployment."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.progress import Progress

from sepnas.cli.common import PATH, TEXT, console, number, path_of
from sepnas.cli.describe import read_architecture
from sepnas.errors import CheckpointError, DeploymentError
from sepnas.report.units import format_count
from sepnas.spec.architecture import Architecture
from sepnas.spec.dataset import DataFacts
from sepnas.spec.hosts import Hosts
from sepnas.spec.manifest import ENGINE_SUFFIXES, EngineName, Manifest, OnMissing

if TYPE_CHECKING:
    from sepnas.deploy.services import Service
    from sepnas.nets.separable import SeparableResNeXt
    from sepnas.train.images import ImageData
    from sepnas.train.record import TrainingResult


DataName = Annotated[
    str, typer.Option("--data", help="digits, cifar10, cifar100, fashion-mnist or folder:PATH.", **TEXT)
]
DataRoot = Annotated[Path | None, typer.Option(help="Where torchvision's data sets lie [~/.cache/sepnas].", **PATH)]
Download = Annotated[bool, typer.Option("--download", help="Let torchvision fetch a data set that is missing.")]
Seed = Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of weights, data order and sampling.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on where an interrupted run stopped.")]
Compute = Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")]
DeviceDropout = Annotated[
    float | None,
    typer.Option(
        metavar="SHARE",
        help="Train every image without this share of the devices, drawn anew, so that devices may be lost later; "
        "0.1 to 0.25 [the recipe's, which is 0].",
    ),
]
ExportEngine = Literal["torch", "onnxruntime", "both"]
Threads = Annotated[int | None, typer.Option(min=1, max=1024, help="Threads of torch [1 for small networks, or all].")]


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
    device_dropout: float | None = None,
) -> TrainingResult:
    """Train from a seed; the run's folder then holds all that ``export`` needs."""
    from sepnas.train.checkpoint import new_network
    from sepnas.train.loop import train_network
    from sepnas.train.recipe import load_recipe
    from sepnas.train.threads import use_threads_for

    use_threads_for(architecture, threads)
    chosen = load_recipe(recipe).changed(recipe, epochs=epochs, device_dropout=device_dropout)
    network = new_network(architecture, seed)
    return train_network(network, data, chosen, out, seed=seed, resume=resume, device=device, stop_after_s=stop_after_s)


def train(
    architecture: Annotated[str, typer.Argument(help="An architecture file, or a name such as resnext20_4x4d.")],
    out: Annotated[Path, typer.Option(help="The run's folder.", **PATH)],
    data: DataName = "digits",
    data_root: DataRoot = None,
    download: Download = False,
    image_size: Annotated[int | None, typer.Option(min=4, help="Resize the images to this side in pixels.")] = None,
    recipe: Annotated[str, typer.Option(help="digits, cifar-fast, paper, or a recipe file.", **TEXT)] = "digits",
    epochs: Annotated[int | None, typer.Option(min=1, help="Epochs, instead of the recipe's.")] = None,
    devices: Annotated[int | None, typer.Option("--devices", "-n", min=1, help="For a name: how many devices.")] = None,
    policy: Annotated[str | None, typer.Option(help="Another policy than the file's [all-to-all].", **TEXT)] = None,
    device_dropout: DeviceDropout = None,
    seed: Seed = 0,
    resume: Resume = False,
    device: Compute = "auto",
    threads: Threads = None,
    stop_after_s: Annotated[float | None, typer.Option(min=0, help="Stop, resumable, after this many seconds.")] = None,
    test: Annotated[bool, typer.Option("--test", help="Touch the test split once, at the end.")] = False,
) -> None:
    """Train an architecture on images; the best epoch is chosen by validation data.

    A checkpoint is written after every epoch; `--resume` goes on bit for bit. TensorBoard reads the folder.

    With `--device-dropout` the network learns to answer without some of its devices, for a deployment that degrades
    (`sepnas export --on-missing degrade`); `--test` then also says how well it does. Where one device alone has the
    classifier (`readout: device`), that one is never dropped, for nobody could answer for it.
    """
    from sepnas.train.checkpoint import load_network
    from sepnas.train.data import load_dataset
    from sepnas.train.evaluate import accuracy
    from sepnas.train.recipe import load_recipe

    chosen = read_architecture(architecture, devices, policy)
    # a wrong value is told before the data are read, which may take long
    wanted = load_recipe(recipe).changed(recipe, device_dropout=device_dropout)
    images = load_dataset(data, root=data_root, image_size=image_size, download=download)
    if not architecture.endswith((".json", ".yaml", ".yml")):
        fits = {"num_classes": images.num_classes, "in_channels": images.in_channels, "image_size": images.image_size}
        chosen = Architecture.from_data(chosen.to_data() | fits, f"{architecture} for {data}")
    result = train_architecture(
        chosen, images, recipe, out, seed, resume, epochs, device, threads, stop_after_s, device_dropout
    )
    print(f"best epoch {result.best_epoch}: validation accuracy {result.best_accuracy:.2%} -> {out}")
    if not result.finished:
        print(f"stopped after {format_count(result.epochs_done, 'epoch')}; the same command with --resume goes on")
        return
    if test:
        network = load_network(out)
        print(f"test accuracy {accuracy(network, images.test, images):.2%}")
        if wanted.device_dropout or wanted.message_dropout:
            _print_accuracy_with_lost(network, images)
    print(f"next: sepnas export {shlex.quote(str(out))} {shlex.quote(str(out.parent / 'deployment'))}")


def _print_accuracy_with_lost(network: SeparableResNeXt, images: ImageData) -> None:
    from sepnas.train.evaluate import accuracy_with_lost

    num_devices = network.architecture.num_devices
    for num_lost in range(1, num_devices):
        found = accuracy_with_lost(network, images.test, images, num_lost)
        print(f"  with {num_lost} of {num_devices} devices lost {found:.2%}, the mean over all ways to lose them")


def export_run(
    run: Path,
    out: Path,
    name: str | None = None,
    hosts: Hosts | None = None,
    force: bool = False,
    engines: Sequence[EngineName] = tuple(ENGINE_SUFFIXES),
    on_missing: OnMissing = "strict",
    services: Sequence[Service] = (),
) -> Manifest:
    """Export the best checkpoint of a training run so far."""
    from sepnas.deploy.export import export_deployment
    from sepnas.train.checkpoint import BEST, DATA, load_network

    for file in (DATA, BEST):
        if not (run / file).exists():
            raise DeploymentError(
                f"{run}: not a finished training run, nor one with a finished epoch: {file} is missing; "
                f"`sepnas train ARCHITECTURE --out {run}` makes one"
            )
    facts = DataFacts.load(run / DATA)
    network = load_network(run)
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("export")

        def show(done: int, total: int, what: str) -> None:
            progress.update(task, completed=done, total=total, description=f"export: {what}")

        return export_deployment(
            network, out, name=name or run.resolve().name, classes=facts.classes, mean=facts.mean, std=facts.std,
            hosts=hosts, force=force, engines=engines, on_missing=on_missing, services=services,
            progress=show,
        )  # fmt: skip


def export(
    run: Annotated[Path, typer.Argument(help="A folder that `sepnas train` wrote.", parser=path_of)],
    out: Annotated[Path, typer.Argument(help="The deployment's folder.", parser=path_of)],
    name: Annotated[str | None, typer.Option(help="The deployment's name [the run's folder].", **TEXT)] = None,
    hosts: Annotated[
        Path | None, typer.Option(help="hosts.yaml to put in; else all devices on this machine.", **PATH)
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a deployment that stands there.")] = False,
    engine: Annotated[ExportEngine, typer.Option(help="Write the graphs for one engine only.")] = "both",
    on_missing: Annotated[
        OnMissing, typer.Option(help="A message is late or a device lost: an error, or an answer without it.")
    ] = "strict",
    systemd: Annotated[
        bool, typer.Option("--systemd", help="A unit for each device, with how to install it in its first lines.")
    ] = False,
    docker: Annotated[
        bool, typer.Option("--docker", help="A Dockerfile for each device; its first lines say how to use it.")
    ] = False,
) -> None:
    """Cut a trained network into one folder for each device.

    Each folder holds only that device's weights, its segments' graphs for torch and for onnxruntime, its steps and its
    certificate; copy it to the device and start `sepnas worker` there. Of an interrupted run the best epoch so far is
    taken.

    `--systemd` and `--docker` add what starts the worker with its machine, hardened and as a user of its own: give
    `--hosts`, for it listens on the port that stands there. The private key stays out of the image.
    """
    given = Hosts.load(hosts) if hosts else None
    engines: tuple[EngineName, ...] = tuple(ENGINE_SUFFIXES) if engine == "both" else (engine,)
    chosen: dict[Service, bool] = {"systemd": systemd, "docker": docker}
    services = [name for name, wanted in chosen.items() if wanted]
    manifest = export_run(run, out, name, given, force, engines, on_missing, services)
    num_devices = manifest.architecture.num_devices
    print(
        f"{out}: {format_count(num_devices, 'device')}, {number(manifest.payload_bytes)} bytes an "
        f"inference between them, deployment {manifest.deployment_id[:16]}"
    )
    _say_if_unfinished(run)
    first = (given or Hosts.local(num_devices)).address(0)
    print(f"next, for each device as here for device 0 (addresses in {out / 'hosts.yaml'}):")
    print(f"  sepnas worker {shlex.quote(str(out / 'device0'))} --listen {first}")
    print(f"then ask them: sepnas infer {shlex.quote(str(out))} IMAGE...")


def _say_if_unfinished(run: Path) -> None:
    from sepnas.train.checkpoint import epochs_of

    with suppress(CheckpointError):  # the best weights are enough to export
        done, wanted = epochs_of(run)
        if done < wanted:
            print(f"{run}: stopped after {done} of {wanted} epochs; this is the best of them")
