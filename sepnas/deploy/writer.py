"""Writes the content of a deployment, file by file, into an empty folder."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sepnas.deploy.certificates import AUTHORITY_VALIDITY_DAYS, Credential, issue, make_authority
from sepnas.deploy.identity import deployment_identity, plan_digest
from sepnas.deploy.segments import SegmentExporter
from sepnas.deploy.services import DeviceService, Service
from sepnas.deploy.shard_writer import GraphExport, NamedPlan, ShardWriter
from sepnas.deployment.engines.kind import EngineKind
from sepnas.deployment.manifest import (
    MANIFEST_NAME,
    SHARD_NAME,
    FileEntry,
    Manifest,
    OnMissing,
    ShardManifest,
    certificate_name,
    device_folder,
)
from sepnas.deployment.network_facts import NetworkFacts
from sepnas.deployment.plans import PlanPorts, ShardPlan, plan_file
from sepnas.deployment.serial import messages_of
from sepnas.deployment.verify import KEY_NAME, file_entry
from sepnas.plan.document import PlanDocument
from sepnas.plan.plan import Plan
from sepnas.plan.serial import message_to_data, port_to_data, program_to_data, shape_to_data
from sepnas.plan.steps import CLIENT
from sepnas.spec.hosts import Hosts

if TYPE_CHECKING:
    from sepnas.nets.partitioned import PartitionedNetwork
    from sepnas.nets.separable import SeparableNetwork

Progress = Callable[[int, int, str], None]
"""Called with the number of finished steps, the total, and the name of the last step."""


class DeploymentWriter:
    """Writes one deployment of one or more plans into an empty folder; the first plan is the default one."""

    def __init__(
        self,
        network: SeparableNetwork | PartitionedNetwork,
        plans: Sequence[NamedPlan],
        folder: Path,
        name: str,
        validity_days: float,
        progress: Progress,
        engines: tuple[EngineKind, ...],
        services: tuple[Service, ...] = (),
    ) -> None:
        self.network, self.plans, self.folder, self.name = network, tuple(plans), folder, name
        self.validity_days, self.progress = validity_days, progress
        exact = tuple(dict.fromkeys(kind.graphs for kind in engines if kind.exact))
        self.graphs = GraphExport(SegmentExporter(exact), tuple(kind for kind in engines if not kind.exact))
        self.engines, self.services = engines, services
        self.num_devices = plans[0].plan.num_devices
        self.done, self.total = 0, sum(each.plan.num_segments() for each in plans) + self.num_devices + 1

    def write(self, facts: NetworkFacts, hosts: Hosts | None, on_missing: OnMissing = "strict") -> Manifest:
        """Write all files: first those that the manifest lists, then the manifest, then unlisted ones."""
        shards = [self._write_shard(rank, facts) for rank in range(self.num_devices)]
        digests = {
            each.name: plan_digest(each.plan, [shard.tensors[each.name] for shard in shards]) for each in self.plans
        }
        deployment_id = deployment_identity(self.network, facts)
        authority = make_authority(deployment_id, max(2 * self.validity_days, AUTHORITY_VALIDITY_DAYS))
        for rank, shard in enumerate(shards):
            self._write_tls(f"{device_folder(rank)}/tls", authority, certificate_name(rank, deployment_id))
            manifest = self._shard(deployment_id, shard, digests)
            manifest.save(self.folder / device_folder(rank) / SHARD_NAME)
            self._step(device_folder(rank))
        self._write_tls("client/tls", authority, certificate_name(CLIENT, deployment_id))
        self._write("authority/ca.pem", authority.certificate_pem())
        self._write(f"authority/{KEY_NAME}", authority.key_pem(), 0o600)
        hosts = hosts or Hosts.local(self.num_devices)
        hosts.save(self.folder / "hosts.yaml")
        for each in self.plans:
            self._write(plan_file(each.name), PlanDocument.of(each.plan).dumps().encode())
        whole = self._manifest(deployment_id, digests, facts, on_missing)
        whole.save(self.folder / MANIFEST_NAME)
        self._write_services(hosts)
        self._step(MANIFEST_NAME)
        return whole

    def _manifest(
        self, deployment_id: str, digests: Mapping[str, str], facts: NetworkFacts, on_missing: OnMissing
    ) -> Manifest:
        return Manifest(
            name=self.name,
            deployment_id=deployment_id,
            num_devices=self.num_devices,
            network=facts,
            default_plan=self.plans[0].name,
            plans={each.name: _ports(each.plan, digests[each.name]) for each in self.plans},
            on_missing=on_missing,
            files=_entries(self.folder),
        ).seal()

    def _write_shard(self, rank: int, facts: NetworkFacts) -> ShardWriter:
        folder = device_folder(rank)
        shard = ShardWriter(rank, facts, self.graphs, lambda name, data: self._write(f"{folder}/{name}", data))
        for each in self.plans:
            shard.add(each, lambda segment: self._step(f"{folder}: {segment}"))
        shard.write_tensors()
        return shard

    def _shard(self, deployment_id: str, shard: ShardWriter, digests: Mapping[str, str]) -> ShardManifest:
        plans = {
            each.name: _shard_plan(each.plan, shard.rank, digests[each.name], shard.aliases[each.name])
            for each in self.plans
        }
        return ShardManifest(
            deployment_id=deployment_id,
            rank=shard.rank,
            num_devices=self.num_devices,
            plans=plans,
            segments=shard.segments,
            files=_entries(self.folder / device_folder(shard.rank)),
        ).seal()

    def _write_tls(self, folder: str, authority: Credential, dns_name: str) -> None:
        credential = issue(authority, dns_name, self.validity_days)
        self._write(f"{folder}/ca.pem", authority.certificate_pem())
        self._write(f"{folder}/cert.pem", credential.certificate_pem())
        self._write(f"{folder}/{KEY_NAME}", credential.key_pem(), 0o600)

    def _write_services(self, hosts: Hosts) -> None:
        engine = min(self.engines, key=lambda kind: (not kind.exact, not kind.light))
        for rank in range(self.num_devices if self.services else 0):
            service = DeviceService(self.name, rank, self.num_devices, hosts.address(rank), engine.name)
            service.write(self.folder / device_folder(rank), self.services)

    def _write(self, name: str, data: bytes, mode: int = 0o644) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        # Created with its final mode: a key is never readable by others, not even briefly.
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(handle, "wb") as file:
            file.write(data)

    def _step(self, what: str) -> None:
        self.done += 1
        self.progress(self.done, self.total, what)


def _ports(plan: Plan, digest: str) -> PlanPorts:
    return PlanPorts(
        digest=digest,
        inputs=tuple(map(port_to_data, plan.inputs)),
        outputs=tuple(map(port_to_data, plan.outputs)),
        payload_bytes=plan.payload_bytes(),
        messages=tuple(map(message_to_data, plan.messages())),
    )


def _shard_plan(plan: Plan, rank: int, digest: str, aliases: dict[str, str]) -> ShardPlan:
    return ShardPlan(
        digest=digest,
        program=program_to_data(plan.programs[rank]),
        shapes={name: shape_to_data(shape) for name, shape in plan.shapes[rank].items()},
        messages=tuple(map(message_to_data, messages_of(plan, rank))),
        fallbacks=tuple(p.tag for port in plan.outputs for p in port.fallbacks if p.device == rank),
        aliases=aliases,
    )


def _entries(folder: Path) -> dict[str, FileEntry]:
    """Hash and length of every file below ``folder``, by relative path, sorted."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): file_entry(path) for path in files}
