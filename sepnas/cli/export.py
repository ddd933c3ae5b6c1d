"""``sepnas export``: from a training run to a deployment."""

from __future__ import annotations

import shlex
import warnings
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from sepnas import api
from sepnas.cli.grouped import grouped
from sepnas.cli.options import PATH, TEXT, DataRoot, path_of, path_to
from sepnas.console import say, warn
from sepnas.deployment.engines.registry import exact_engines, quantised_engines
from sepnas.deployment.manifest import Manifest, OnMissing
from sepnas.deployment.serial import deployed_plan
from sepnas.errors import CheckpointError
from sepnas.plan.liveness import devices_used
from sepnas.spec.hosts import Hosts
from sepnas.units import format_count, format_idle, number, seconds

if TYPE_CHECKING:
    from sepnas.deploy.services import Service
    from sepnas.measure.int8_data import Int8Data
    from sepnas.runtime.engines.shard import Shard

ALL, BOTH = "all", "both"
"""All exact engines, of which there once were two."""
if TYPE_CHECKING:
    ExportEngine = str
else:
    ExportEngine = Literal[(*exact_engines(), ALL, BOTH)]
WORTH_A_WARNING = 0.01
"""A larger loss of accuracy by int8 is worth a warning."""


@dataclass(frozen=True)
class Int8Options:
    """Whether graphs that compute in 8 bits are exported too, and the images that calibrate them."""

    int8: Annotated[
        bool,
        typer.Option(
            "--int8",
            help="Also write graphs that compute in 8 bits, for `sepnas worker --engine "
            f"{' or '.join(quantised_engines())}`, and say what that costs in accuracy.",
        ),
    ] = False
    data: Annotated[
        str | None,
        typer.Option(help="With --int8: where its scales come from [what the run was trained on].", **TEXT),
    ] = None
    data_root: DataRoot = None

    def images(self, run: Path) -> Int8Data | None:
        """The calibration images for a training run; None without `--int8`."""
        if not self.int8:
            return None
        from sepnas.measure.int8_data import Int8Data

        return Int8Data.load(run, self.data, self.data_root)

    def refuse_data_alone(self) -> None:
        """Raise typer's ``BadParameter`` for data that nothing would be calibrated with."""
        if not self.int8 and (self.data or self.data_root):
            raise typer.BadParameter("belongs to --int8", param_hint="'--data'" if self.data else "'--data-root'")


@dataclass(frozen=True)
class ServiceOptions:
    """What starts a worker together with its machine."""

    systemd: Annotated[
        bool, typer.Option("--systemd", help="A unit for each device, with how to install it in its first lines.")
    ] = False
    docker: Annotated[
        bool, typer.Option("--docker", help="A Dockerfile for each device; its first lines say how to use it.")
    ] = False

    @property
    def services(self) -> list[Service]:
        chosen: dict[Service, bool] = {"systemd": self.systemd, "docker": self.docker}
        return [name for name, wanted in chosen.items() if wanted]


@grouped
def export(
    run: Annotated[Path, typer.Argument(help="A folder that `sepnas train` wrote.", parser=path_to("run"))],
    out: Annotated[Path, typer.Argument(help="The deployment's folder.", parser=path_of)],
    name: Annotated[str | None, typer.Option(help="The deployment's name [the run's folder].", **TEXT)] = None,
    hosts: Annotated[
        Path | None, typer.Option(help="hosts.yaml to put in; else all devices on this machine.", **PATH)
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a deployment that stands there.")] = False,
    engine: Annotated[ExportEngine, typer.Option(help="Write the graphs for one engine only; both is all.")] = ALL,
    *,
    rounding: Int8Options,
    on_missing: Annotated[
        OnMissing, typer.Option(help="A message is late or a device lost: an error, or an answer without it.")
    ] = "strict",
    services: ServiceOptions,
    plan: Annotated[
        Path | None, typer.Option(help="A plan or an architecture file to cut by [the run's own policy].", **PATH)
    ] = None,
) -> None:
    """Cut a trained network into one folder for each device.

    Each folder holds only that device's weights, its segments' graphs for each engine, its steps and its
    certificate; copy it to the device and start `sepnas worker` there. Of an interrupted run the best epoch so far is
    taken.

    `--int8` takes its scales from 256 training images and measures its accuracy on the validation images: an int8
    engine answers a little differently, and sooner where layers are not very narrow. Workers compute so where told to,
    and all devices of such a deployment need a sepnas that knows it.

    `--plan` cuts the network by a plan file (`sepnas plan`) or an architecture file instead: its layers, merge weights
    and scales must be among those that were trained; its messages may differ from the trained ones; the accuracy then
    does, too.

    `--systemd` and `--docker` add what starts the worker with its machine, hardened and as a user of its own: give
    `--hosts`, for it listens on the port that stands there. The private key stays out of the image.

    Example: `sepnas export runs/training deployment --hosts hosts.yaml --systemd`
    """
    given = Hosts.load(hosts) if hosts else None
    engines = exact_engines() if engine in (ALL, BOTH) else (engine,)
    rounding.refuse_data_alone()
    if plan is not None and rounding.int8:
        raise typer.BadParameter("uses the run's own policy: no --plan", param_hint="--int8")
    api.check_exportable(run)
    int8_data = rounding.images(run)
    manifest = api.export(
        run, out, name=name, hosts=given, force=force, engines=engines, on_missing=on_missing,
        services=services.services, int8=int8_data, plan=plan,
    )  # fmt: skip
    num_devices = manifest.num_devices
    say(
        f"{out}: {format_count(num_devices, 'device')}, {number(manifest.payload_bytes)} bytes an "
        f"inference between them, deployment {manifest.deployment_id[:16]}"
    )
    _say_if_unfinished(run)
    if int8_data:
        _say_what_int8_costs(run, out, int8_data)
    _say_next(manifest, out, given or Hosts.local(num_devices))


def _say_next(manifest: Manifest, out: Path, hosts: Hosts) -> None:
    """Print the commands that come next, and the devices that need none."""
    used = devices_used(deployed_plan(out))
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


def _pass_times(shard: Shard) -> str:
    """The time of one image on this machine for each engine that can be used here, int8 first."""
    from sepnas.runtime.engines.choice import make_engine, pass_s, usable_engines

    took = {name: pass_s(make_engine(name, shard).engine, shard) for name in reversed(usable_engines(shard))}
    return ", ".join(f"{seconds(value)} in {name}" for name, value in took.items())


def _say_what_int8_costs(run: Path, out: Path, data: Int8Data) -> None:
    from sepnas.runtime.engines.shard import load_shard
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
