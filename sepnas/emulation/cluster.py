"""The devices of a cluster as processes of this machine: checked, started and removed."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sepnas.cost.jitter import more_jitter
from sepnas.cost.simulator import simulate
from sepnas.deployment.manifest import Manifest, device_folder
from sepnas.deployment.serial import deployed_plan
from sepnas.deployment.verify import load_manifest
from sepnas.emulation.link_check import Inside, LinkCheck, check_link, link_kinds
from sepnas.emulation.link_shaping import Shaper
from sepnas.emulation.namespaces import Namespaces, why_no_namespaces
from sepnas.emulation.settings import emulations
from sepnas.emulation.shared_clock import SharedClock
from sepnas.errors import SpecError
from sepnas.local.processes import Launch, LocalWorkers
from sepnas.plan.plan import Plan
from sepnas.plan.steps import CLIENT
from sepnas.runtime.client.session import Session
from sepnas.spec.cluster import Cluster
from sepnas.spec.emulation import Emulation, Shaping
from sepnas.spec.hosts import Hosts, parse_address

ShapingChoice = Literal["auto", "process", "netns"]
_MEMORY = Path("/dev/shm")


@dataclass(frozen=True)
class Setting:
    """The emulated plan, called ``name``, and how it is emulated; ``why`` explains the choice of ``shaping``."""

    deployment: Path
    manifest: Manifest
    name: str
    plan: Plan
    cluster: Cluster
    shaping: Shaping
    why: str
    batch: int = 1
    insecure: bool = False


@dataclass(frozen=True)
class EmulatedCluster:
    """Running workers; ``emulations`` are by rank, and sockets opened within ``inside(rank)`` belong to that rank."""

    hosts: Hosts
    emulations: Mapping[int, Emulation]
    inside: Inside

    def check_links(self) -> list[LinkCheck]:
        """Measure one link of each kind, before a session uses them."""
        return [
            check_link(self.emulations, source, rank, parse_address(self.hosts.address(rank))[0], self.inside)
            for source, rank in link_kinds(self.emulations)
        ]


def read_setting(
    deployment: Path,
    cluster: Path,
    shaping: ShapingChoice,
    batch: int,
    jitter_s: float,
    insecure: bool,
    name: str | None = None,
) -> Setting:
    """Check that the cluster can be emulated, and choose how; raises :class:`SpecError` and :class:`PlanError`.

    ``jitter_s`` is added to each link's own. ``name`` is the plan's, by default the deployment's default one.
    """
    manifest, described = load_manifest(deployment), more_jitter(Cluster.load(cluster), jitter_s)
    plan = deployed_plan(deployment, name)
    simulate(plan, described)  # refuses a cluster that does not fit
    why_not = None
    if shaping != "process":
        why_not = "plain TCP stays on 127.0.0.1" if insecure else why_no_namespaces(plan, described)
    if shaping == "netns" and why_not:
        raise SpecError(f"shaping by network namespaces (netns) is not possible: {why_not}; use process")
    chosen: Shaping = "process"
    if shaping == "process":
        why = "as requested"
    elif why_not:
        why = f"no network namespaces: {why_not}"
    else:
        chosen, why = "netns", "a network namespace for each device, and the kernel's token buckets"
    return Setting(deployment, manifest, name or manifest.default_plan, plan, described, chosen, why, batch, insecure)


@contextmanager
def emulated_cluster(setting: Setting) -> Iterator[EmulatedCluster]:
    """Start a worker for each device; processes and files are removed at the end, also after an error."""
    plan = setting.plan
    with ExitStack() as stack:
        folder = stack.enter_context(_folder())
        clock = folder / "clock"
        found = emulations(
            plan, setting.cluster, setting.manifest.deployment_id, clock, name=setting.name, batch=setting.batch,
            shaping=setting.shaping,
        )  # fmt: skip
        SharedClock.create(clock, plan.num_devices, found[CLIENT].num_resources)
        files = [found[rank].save(folder / f"{device_folder(rank)}.json") for rank in range(plan.num_devices)]
        insecure = ("--insecure",) if setting.insecure else ()
        launches = [Launch(options=("--emulate", str(file), *insecure)) for file in files]
        inside: Inside = _here
        if setting.shaping == "netns":
            spaces = stack.enter_context(Namespaces(found))
            launches = [
                Launch(spaces.address(rank), spaces.prefix(rank), launch.options)
                for rank, launch in enumerate(launches)
            ]
            inside = spaces.inside
        workers = stack.enter_context(LocalWorkers(setting.deployment, plan.num_devices, launches))
        yield EmulatedCluster(workers.hosts, found, inside)


def _here(rank: int) -> AbstractContextManager[None]:
    """Without namespaces, all ranks share the network of this machine."""
    return nullcontext()


@contextmanager
def _folder() -> Iterator[Path]:
    """A folder for shared files, in memory if possible: a disk could stall the processes."""
    base = _MEMORY if os.access(_MEMORY, os.W_OK) else Path(tempfile.gettempdir())
    for old in base.glob("sepnas-*-emulation-*"):
        if not Path(f"/proc/{old.name.split('-')[1]}").exists():
            shutil.rmtree(old, ignore_errors=True)  # left by a run that was killed
    with tempfile.TemporaryDirectory(prefix=f"sepnas-{os.getpid()}-emulation-", dir=base) as folder:
        yield Path(folder)


def open_session(setting: Setting, running: EmulatedCluster, timeout_s: float) -> Session:
    """A session with the emulated devices; ``timeout_s`` is raised for a slow cluster."""
    timeout_s = max(timeout_s, 3 * simulate(setting.plan, setting.cluster, setting.batch).latency_s)
    with running.inside(CLIENT):
        return Session(
            setting.deployment, running.hosts, timeout_s=timeout_s, insecure=setting.insecure,
            links=Shaper(running.emulations[CLIENT]), plans=[setting.name],
        )  # fmt: skip
