"""``sepnas export``: from a training run to a deployment."""

from __future__ import annotations

import shlex
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.progress import Progress, TimeRemainingColumn

from sepnas.cli.common import PATH, TEXT, errors, number, path_of, path_to, say, seconds, warn
from sepnas.cli.learn import DataRoot
from sepnas.errors import CheckpointError, DataError, DeploymentError
from sepnas.plan.build import build_plan
from sepnas.plan.liveness import devices_used
from sepnas.report.units import format_count, format_idle
from sepnas.spec.architecture import Architecture
from sepnas.spec.dataset import DataFacts
from sepnas.spec.hosts import Hosts
from sepnas.spec.manifest import EXACT_ENGINES, EngineName, Manifest, OnMissing
from sepnas.terminal import one_line

if TYPE_CHECKING:
    from torch import Tensor

    from sepnas.deploy.services import Service
    from sepnas.nets.separable import SeparableResNeXt
    from sepnas.runtime.shard import Shard
    from sepnas.train.images import ImageData

ExportEngine = Literal["torch", "onnxruntime", "both"]
CALIBRATION_IMAGES = 256
SAY_EVERY_S = 10.0
WORTH_A_WARNING = 0.01
"""Accuracy that int8 may cost without one."""


@dataclass(frozen=True)
class Int8Data:
    """Images for int8: those that its scales are taken from, and those that say what it costs."""

    images: ImageData

    @classmethod
    def load(cls, run: Path, name: str | None, root: Path | None) -> Int8Data:
        """The data set that a run was trained on, or another of the same classes; normalised as in training."""
        from sepnas.train.checkpoint import ARCHITECTURE, DATA
        from sepnas.train.data import load_dataset

        facts, architecture = DataFacts.load(run / DATA), Architecture.load(run / ARCHITECTURE)
        try:
            images = load_dataset(
                name or facts.name, root=root, image_size=architecture.image_size, resize=facts.resize or "stretch"
            )
        except DataError as error:
            raise DataError(
                f"--int8 needs images like those that {run} was trained on ({facts.name}); name them with --data "
                f"(folder:PATH, or with --data-root): {error}"
            ) from error
        if images.in_channels != architecture.in_channels:
            raise DataError(
                f"--data {images.name}: its images have {images.in_channels} channels, the network of {run} takes "
                f"{architecture.in_channels}"
            )
        if images.classes != facts.classes:
            raise DataError(
                f"--data {images.name}: its {len(images.classes)} classes, {images.classes[0]!r} first, are not the "
                f"{len(facts.classes)} of {run}, {facts.classes[0]!r} first; name the data set that it was trained on"
            )
        if facts.content_sha256 not in (None, images.sha256):
            warn(
                f"{images.name}: its images are not those that {run} was trained on (changed since, or others); int8's "
                "scales are taken from these, and some that it is judged by may have been trained on"
            )
        return cls(replace(images, mean=facts.mean, std=facts.std))

    def calibration_images(self) -> Tensor:
        """Training images ``(N, C, H, W)``, the same each time."""
        import torch

        chosen = torch.randperm(len(self.images.train), generator=torch.Generator().manual_seed(0))
        return self.images.normalise(self.images.train.images[chosen[:CALIBRATION_IMAGES]])

    def accuracies(self, network: SeparableResNeXt, deployment: Path) -> tuple[float, float]:
        """On the validation images, in fp32 and with the int8 graphs of a deployment."""
        from sepnas.deploy.int8 import exported_int8_network
        from sepnas.train.evaluate import accuracy

        networks = network, exported_int8_network(network, deployment)
        exact, rounded = (accuracy(each, self.images.val, self.images) for each in networks)
        return exact, rounded


def export_run(
    run: Path,
    out: Path,
    name: str | None = None,
    hosts: Hosts | None = None,
    force: bool = False,
    engines: Sequence[EngineName] = EXACT_ENGINES,
    on_missing: OnMissing = "strict",
    services: Sequence[Service] = (),
    int8: Int8Data | None = None,
) -> Manifest:
    """Export the best checkpoint of a training run so far; with ``int8`` for that engine too."""
    from sepnas.deploy.export import export_deployment
    from sepnas.train.checkpoint import DATA, load_network

    _check_run(run)
    facts = DataFacts.load(run / DATA)
    network = load_network(run)
    with export_bar() as show:
        return export_deployment(
            network, out, name=name or run.resolve().name, classes=facts.classes, mean=facts.mean, std=facts.std,
            resize=facts.resize, hosts=hosts, force=force, engines=(*engines, "onnxruntime-int8") if int8 else engines,
            calibration_NCHW=int8.calibration_images() if int8 else None,
            on_missing=on_missing, services=services, progress=show,
        )  # fmt: skip


@contextmanager
def export_bar() -> Iterator[Callable[[int, int, str], None]]:
    """How far an export is: on a terminal with what it still takes, elsewhere in a line now and then."""
    columns = (*Progress.get_default_columns()[:-1], TimeRemainingColumn())
    with Progress(*columns, console=errors, transient=True) as progress:
        task, due = progress.add_task("export"), time.monotonic() + SAY_EVERY_S

        def show(done: int, total: int, what: str) -> None:
            nonlocal due
            progress.update(task, completed=done, total=total, description=f"export: {what}")
            if not errors.is_terminal and time.monotonic() >= due:
                errors.print(one_line(f"export: {done}/{total}, {what}"))
                due = time.monotonic() + SAY_EVERY_S

        yield show


def export(
    run: Annotated[Path, typer.Argument(help="A folder that `sepnas train` wrote.", parser=path_to("run"))],
    out: Annotated[Path, typer.Argument(help="The deployment's folder.", parser=path_of)],
    name: Annotated[str | None, typer.Option(help="The deployment's name [the run's folder].", **TEXT)] = None,
    hosts: Annotated[
        Path | None, typer.Option(help="hosts.yaml to put in; else all devices on this machine.", **PATH)
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a deployment that stands there.")] = False,
    engine: Annotated[ExportEngine, typer.Option(help="Write the graphs for one engine only.")] = "both",
    int8: Annotated[
        bool,
        typer.Option(
            "--int8",
            help="Also write graphs that compute in 8 bits, for `sepnas worker --engine onnxruntime-int8`, and say "
            "what that costs in accuracy.",
        ),
    ] = False,
    data: Annotated[
        str | None,
        typer.Option(help="With --int8: where its scales come from [what the run was trained on].", **TEXT),
    ] = None,
    data_root: DataRoot = None,
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

    `--int8` takes its scales from 256 training images and judges by the validation images: an int8 engine answers a
    little differently, and sooner where layers are not very narrow. Workers compute so where told to, and
    all devices of such a deployment need a sepnas that knows it.

    `--systemd` and `--docker` add what starts the worker with its machine, hardened and as a user of its own: give
    `--hosts`, for it listens on the port that stands there. The private key stays out of the image.

    Example: `sepnas export runs/training deployment --hosts hosts.yaml --systemd`
    """
    given = Hosts.load(hosts) if hosts else None
    engines: tuple[EngineName, ...] = EXACT_ENGINES if engine == "both" else (engine,)
    if not int8 and (data or data_root):
        raise typer.BadParameter("belongs to --int8", param_hint="'--data'" if data else "'--data-root'")
    _check_run(run)
    int8_data = Int8Data.load(run, data, data_root) if int8 else None
    chosen: dict[Service, bool] = {"systemd": systemd, "docker": docker}
    services = [name for name, wanted in chosen.items() if wanted]
    manifest = export_run(run, out, name, given, force, engines, on_missing, services, int8_data)
    num_devices = manifest.architecture.num_devices
    say(
        f"{out}: {format_count(num_devices, 'device')}, {number(manifest.payload_bytes)} bytes an "
        f"inference between them, deployment {manifest.deployment_id[:16]}"
    )
    _say_if_unfinished(run)
    if int8_data:
        _say_what_int8_costs(run, out, int8_data)
    _say_next(manifest, out, given or Hosts.local(num_devices))


def _say_next(manifest: Manifest, out: Path, hosts: Hosts) -> None:
    """The commands that go on from here, and the devices that need none."""
    used = devices_used(build_plan(manifest.architecture))
    if idle := format_idle(used, manifest.num_devices):
        warn(f"{idle}; start no worker there")
    first = used[0]
    say(f"next, for each device as here for device {first} (addresses in {out / 'hosts.yaml'}):")
    say(f"  sepnas worker {shlex.quote(str(out / f'device{first}'))} --listen {hosts.address(first)}")
    say(f"then ask them: sepnas infer {shlex.quote(str(out))} IMAGE...")


def _say_if_unfinished(run: Path) -> None:
    from sepnas.train.checkpoint import epochs_of

    with suppress(CheckpointError):  # the best weights are enough to export
        done, wanted = epochs_of(run)
        if done < wanted:
            say(f"{run}: stopped after {done} of {wanted} epochs; this is the best of them")


def _check_run(run: Path) -> None:
    from sepnas.train.checkpoint import BEST, DATA

    for file in (DATA, BEST):
        if not (run / file).exists():
            raise DeploymentError(
                f"{run}: not a finished training run, nor one with a finished epoch: {file} is missing; "
                f"`sepnas train ARCHITECTURE --out {run}` makes one"
            )


def _pass_times(shard: Shard) -> str:
    """What engines take for one image on this machine: int8 first, and the others that were exported."""
    from sepnas.runtime.engine_choice import make_engine, pass_s

    took = {name: pass_s(make_engine(name, shard).engine, shard) for name in reversed(shard.manifest.engines)}
    return ", ".join(f"{seconds(value)} in {name}" for name, value in took.items())


def _say_what_int8_costs(run: Path, out: Path, data: Int8Data) -> None:
    from sepnas.runtime.shard import load_shard
    from sepnas.train.checkpoint import load_network

    exact, rounded = data.accuracies(load_network(run), out)
    images, shard = len(data.images.val), load_shard(out / "device0")
    say(f"int8: {rounded:.2%} of {number(images)} validation images right, {exact:.2%} in fp32")
    say(f"int8: a pass of device 0 takes {_pass_times(shard)} here")
    if exact - rounded > WORTH_A_WARNING:
        exact_engine = shard.manifest.engines[0]
        warnings.warn(
            f"int8 costs {100 * (exact - rounded):.1f} points; workers with --engine {exact_engine} answer as trained",
            stacklevel=2,
        )
