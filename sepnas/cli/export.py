"""``sepnas export``: from a training run to a deployment."""

from __future__ import annotations

import shlex
import warnings
from collections.abc import Sequence
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
from sepnas.deployment.plans import check_new_names
from sepnas.deployment.serial import deployed_plan
from sepnas.errors import CheckpointError
from sepnas.partition.graph import is_graph
from sepnas.plan.liveness import devices_used
from sepnas.separable.patterns import NAMED_POLICIES
from sepnas.spec.document import short
from sepnas.spec.hosts import Hosts
from sepnas.units import format_count, format_idle, number, seconds

if TYPE_CHECKING:
    from sepnas.deploy.services import Service
    from sepnas.measure.run_images import RunImages
    from sepnas.runtime.engines.shard import Shard

ALL, BOTH = "all", "both"
"""All exact engines; the name dates from a time with two."""
if TYPE_CHECKING:
    ExportEngine = str
else:
    ExportEngine = Literal[(*exact_engines(), ALL, BOTH)]
MAX_MEASURED_IMAGES = 2000
"""Maximum number of validation images that measure a plan's accuracy."""
WORTH_A_WARNING = 0.01
"""Loss of accuracy by int8 above which there is a warning."""


@dataclass(frozen=True)
class ImageOptions:
    """Whether to export 8-bit graphs, and the images that calibrate them and the further plans."""

    int8: Annotated[
        bool,
        typer.Option(
            "--int8",
            help="Also write graphs that compute in 8 bits, for `sepnas worker --engine "
            f"{' or '.join(quantised_engines())}`, and measure their accuracy.",
        ),
    ] = False
    data: Annotated[
        str | None,
        typer.Option(help="With --int8 or --plan NAME=: the images to measure with [those of the run].", **TEXT),
    ] = None
    data_root: DataRoot = None

    def images(self, run: Path, needed: bool) -> RunImages | None:
        """The images of a training run, if they are needed."""
        if not needed:
            return None
        from sepnas.measure.run_images import RunImages

        return RunImages.load(run, self.data, self.data_root)

    def refuse_data_alone(self, needed: bool) -> None:
        """Raise typer's ``BadParameter`` for images that would calibrate nothing."""
        if not needed and (self.data or self.data_root):
            hint = "'--data'" if self.data else "'--data-root'"
            raise typer.BadParameter("belongs to --int8 or --plan NAME=...", param_hint=hint)


@dataclass(frozen=True)
class ServiceOptions:
    """What starts a worker together with its machine."""

    systemd: Annotated[
        bool,
        typer.Option("--systemd", help="A systemd unit for each device; its first lines explain how to install it."),
    ] = False
    docker: Annotated[
        bool, typer.Option("--docker", help="A Dockerfile for each device; its first lines explain how to use it.")
    ] = False

    @property
    def services(self) -> list[Service]:
        chosen: dict[Service, bool] = {"systemd": self.systemd, "docker": self.docker}
        return [name for name, wanted in chosen.items() if wanted]


@grouped
def export(
    run: Annotated[
        Path,
        typer.Argument(
            help="The folder of a training run, or of an imported network.", parser=path_to("run", "network")
        ),
    ],
    out: Annotated[Path, typer.Argument(help="The deployment's folder.", parser=path_of)],
    name: Annotated[str | None, typer.Option(help="The deployment's name [the run's folder].", **TEXT)] = None,
    hosts: Annotated[
        Path | None, typer.Option(help="hosts.yaml of the deployment [all devices on this machine].", **PATH)
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing deployment.")] = False,
    engine: Annotated[
        ExportEngine, typer.Option(help="Write graphs for one engine only; both: for all exact ones.")
    ] = ALL,
    *,
    measuring: ImageOptions,
    on_missing: Annotated[
        OnMissing, typer.Option(help="When a message is late or a device is lost: an error, or an answer without it.")
    ] = "strict",
    services: ServiceOptions,
    plan: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME=POLICY: a further plan (a file or a built-in policy). FILE: replaces the run's own.",
            metavar="[NAME=]PLAN",
        ),
    ] = None,
) -> None:
    """Cut a trained or imported network into one folder for each device.

    Each folder holds the device's weights, the graphs of its segments for each engine, its steps and its certificate;
    copy it to the device and start `sepnas worker` there. An interrupted run is exported at its best epoch so far.

    `--int8` takes its scales from 256 training images and measures its accuracy on the validation images. An int8
    engine gives slightly different answers, and is faster if layers are not very narrow. Workers use it only on
    request, and all devices of such a deployment need a sepnas version that supports it.

    `--plan NAME=POLICY`, up to 15 times, adds plans over the same weights, which requests select by name (`sepnas infer
    --plan NAME`): a policy file, a plan file (`sepnas plan`), or `all-to-all`, `hand-made` or `none`. The run's own
    plan is `default`, and serves requests that name none. Each further plan gets its own batch-norm statistics,
    measured on 1,024 training images, and shares all other weights; its classifiers and merge weights must have been
    trained.

    `--plan FILE` cuts by a plan or architecture file instead of the run's own policy, with the trained statistics. Its
    layers, merge weights and scales must be among the trained ones; its messages may differ, which changes the
    accuracy.

    An imported network (`sepnas import`) is cut by `--plan FILE`, a plan of `sepnas partition`, and by further `--plan
    NAME=FILE`. Each plan is executed once and compared with the network.

    `--systemd` and `--docker` add files that start the worker at boot, hardened and as its own user. They need
    `--hosts` for the port to listen on. The private key stays out of the image.

    Examples: `sepnas export runs/training deployment --hosts hosts.yaml --systemd`, `sepnas export runs/training
    deployment --plan few-bytes=policy.json --plan silent=none`, `sepnas export resnet50 deployment --plan plan.json`
    """
    given = Hosts.load(hosts) if hosts else None
    engines = exact_engines() if engine in (ALL, BOTH) else (engine,)
    own, others = _named(plan or [])
    imported = is_graph(str(run))
    if imported and measuring.int8:
        raise typer.BadParameter("an imported network has no int8 graphs", param_hint="--int8")
    needs_images = bool(measuring.int8 or (others and not imported))
    measuring.refuse_data_alone(needs_images)
    if not imported:
        api.check_exportable(run)
    images = measuring.images(run, needs_images)
    manifest = api.export(
        run, out, name=name, hosts=given, force=force, engines=engines, on_missing=on_missing,
        services=services.services, int8=images if measuring.int8 else None, plan=own, plans=others, images=images,
    )  # fmt: skip
    num_devices = manifest.num_devices
    say(
        f"{out}: {format_count(num_devices, 'device')}, {number(manifest.payload_bytes)} bytes an "
        f"inference between them, deployment {manifest.deployment_id[:16]}"
    )
    if not imported:
        _say_if_unfinished(run)
    if images and others:
        _say_plans(run, out, manifest, images)
    if images and measuring.int8:
        _say_what_int8_costs(run, out, images)
    _say_next(manifest, out, given or Hosts.local(num_devices))


def _named(given: Sequence[str]) -> tuple[Path | None, dict[str, str]]:
    """The plan that replaces the run's own, if any, and further plans by name."""
    own: list[str] = []
    others: dict[str, str] = {}
    for text in given:
        name, equals, what = text.partition("=")
        if text in NAMED_POLICIES:
            raise typer.BadParameter(f"a further plan needs a name: give NAME={text}", param_hint="--plan")
        if not equals or Path(text).exists():
            own.append(text)
        elif not what:
            raise typer.BadParameter(f"plan {short(name)} has no policy: give {name}=POLICY", param_hint="--plan")
        elif name in others:
            raise typer.BadParameter(f"names two plans {short(name)}", param_hint="--plan")
        else:
            others[name] = what
    if len(own) > 1:
        raise typer.BadParameter(
            f"{own[1]} has no name, and there is only one default plan: give NAME={own[1]}", param_hint="--plan"
        )
    check_new_names(others)
    return Path(own[0]) if own else None, others


def _say_plans(run: Path, out: Path, manifest: Manifest, images: RunImages) -> None:
    """The bytes and the accuracy of each plan."""
    from sepnas.train.checkpoint import load_network

    network, measured = load_network(run), min(len(images.images.val), MAX_MEASURED_IMAGES)
    for name, plan in manifest.plans.items():
        right = images.accuracy(network, out, name, max_images=MAX_MEASURED_IMAGES)
        say(
            f"plan {name}: {number(plan.payload_bytes)} bytes an inference, {right:.2%} of {number(measured)} "
            "validation images right"
        )


def _say_next(manifest: Manifest, out: Path, hosts: Hosts) -> None:
    """Print the next commands, and the devices that need none."""
    used = devices_used(deployed_plan(out))
    if idle := format_idle(used, manifest.num_devices):
        one = len(used) == manifest.num_devices - 1
        warn(f"{idle}; {'it needs' if one else 'they need'} no worker")
    first = used[0]
    say(f"next, on each device, as for device {first} (addresses in {out / 'hosts.yaml'}):")
    say(f"  sepnas worker {shlex.quote(str(out / f'device{first}'))} --listen {hosts.address(first)}")
    say("  it computes on one thread; predictions for a cluster file with `threads: N` need --threads N")
    say(f"then: sepnas infer {shlex.quote(str(out))} {_example_input(manifest)}")


def _example_input(manifest: Manifest) -> str:
    """The files that the deployment's inputs are read from."""
    inputs = manifest.inputs_of(None).values()
    if len(inputs) > 1:
        return "INPUTS.npz"
    return "INPUT.npy" if any(each.image is None for each in inputs) else "IMAGE..."


def _say_if_unfinished(run: Path) -> None:
    from sepnas.train.checkpoint import epochs_of

    with suppress(CheckpointError):  # the best weights are enough to export
        done, wanted = epochs_of(run)
        if done < wanted:
            say(f"{run}: stopped after {done} of {wanted} epochs; the best one is exported")


def _pass_times(shard: Shard) -> str:
    """The time of one image on this machine for each usable engine, int8 first."""
    from sepnas.runtime.engines.choice import make_engine, pass_s, usable_engines

    took = {name: pass_s(make_engine(name, shard).engine, shard) for name in reversed(usable_engines(shard))}
    return ", ".join(f"{seconds(value)} in {name}" for name, value in took.items())


def _say_what_int8_costs(run: Path, out: Path, data: RunImages) -> None:
    from sepnas.runtime.engines.shard import load_shard
    from sepnas.train.checkpoint import load_network

    network = load_network(run)
    exact, rounded = (data.accuracy(network, out, engine=engine) for engine in (None, quantised_engines()[0]))
    images, shard = len(data.images.val), load_shard(out / "device0")
    say(f"int8: {rounded:.2%} of {number(images)} validation images right, {exact:.2%} in fp32")
    say(f"int8: a pass of device 0 takes {_pass_times(shard)} here")
    if exact - rounded > WORTH_A_WARNING:
        exact_engine = shard.manifest.engines[0]
        warnings.warn(
            f"int8 costs {100 * (exact - rounded):.1f} points; workers with --engine {exact_engine} answer as trained",
            stacklevel=2,
        )
