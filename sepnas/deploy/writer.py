"""Writes the content of a deployment, file by file, into an empty folder."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor, nn

from sepnas.deploy.certificates import AUTHORITY_VALIDITY_DAYS, Credential, issue, make_authority
from sepnas.deploy.int8 import Int8Calibration
from sepnas.deploy.segments import SegmentExporter, segment_weights, weights_file, weights_of
from sepnas.deploy.services import DeviceService, Service
from sepnas.deployment.engines.kind import EngineKind, late
from sepnas.deployment.engines.registry import engines as all_engines
from sepnas.deployment.manifest import (
    MANIFEST_NAME,
    PLAN_NAME,
    SHARD_NAME,
    WEIGHTS_NAME,
    FileEntry,
    Manifest,
    OnMissing,
    SegmentFiles,
    ShardManifest,
    canonical_digest,
    certificate_name,
    device_folder,
)
from sepnas.deployment.network_facts import NetworkFacts
from sepnas.deployment.serial import messages_of
from sepnas.deployment.verify import KEY_NAME, file_entry
from sepnas.plan.document import save_plan
from sepnas.plan.plan import Plan, Segment
from sepnas.plan.serial import message_to_data, port_to_data, program_to_data, shape_to_data
from sepnas.plan.shapes import Shape
from sepnas.plan.steps import CLIENT, Compute, Merge
from sepnas.separable.build import build_plan
from sepnas.spec.hosts import Hosts

if TYPE_CHECKING:
    from sepnas.nets.separable import SeparableResNeXt

Progress = Callable[[int, int, str], None]
"""Called with the number of finished steps, the total, and the name of the last step."""


class DeploymentWriter:
    """Writes one deployment into an empty folder."""

    def __init__(
        self,
        network: SeparableResNeXt,
        folder: Path,
        name: str,
        validity_days: float,
        progress: Progress,
        engines: tuple[EngineKind, ...],
        services: tuple[Service, ...] = (),
        calibration_BCHW: Tensor | None = None,
        plan: Plan | None = None,
    ) -> None:
        self.network, self.folder, self.name = network, folder, name
        self.validity_days, self.progress = validity_days, progress
        self.plan = build_plan(network.architecture) if plan is None else plan
        self.exporter = SegmentExporter(tuple(dict.fromkeys(kind.graphs for kind in engines if kind.exact)))
        self.quantised = tuple(kind for kind in engines if not kind.exact)
        self.engines, self.services = engines, services
        self.calibration: Int8Calibration | None = None
        if self.quantised:
            assert calibration_BCHW is not None
            self.calibration = Int8Calibration(network, self.plan, calibration_BCHW)
        self.done, self.total = 0, self.plan.num_segments() + self.plan.num_devices + 1

    def write(self, facts: NetworkFacts, hosts: Hosts | None, on_missing: OnMissing = "strict") -> Manifest:
        """Write all files: first those that the manifest lists, then the manifest, then unlisted ones."""
        ranks = range(self.plan.num_devices)
        segments = [self._write_tensors(rank) for rank in ranks]
        deployment_id = self._identify(facts)
        authority = make_authority(deployment_id, max(2 * self.validity_days, AUTHORITY_VALIDITY_DAYS))
        for rank in ranks:
            self._write_tls(f"{device_folder(rank)}/tls", authority, certificate_name(rank, deployment_id))
            self._shard(rank, deployment_id, segments[rank]).save(self.folder / device_folder(rank) / SHARD_NAME)
            self._step(device_folder(rank))
        self._write_tls("client/tls", authority, certificate_name(CLIENT, deployment_id))
        self._write("authority/ca.pem", authority.certificate_pem())
        self._write(f"authority/{KEY_NAME}", authority.key_pem(), 0o600)
        hosts = hosts or Hosts.local(self.plan.num_devices)
        hosts.save(self.folder / "hosts.yaml")
        save_plan(self.plan, self.folder / PLAN_NAME)
        manifest = self._manifest(deployment_id, facts, on_missing)
        manifest.save(self.folder / MANIFEST_NAME)
        self._write_services(hosts)
        self._step(MANIFEST_NAME)
        return manifest

    def _manifest(self, deployment_id: str, facts: NetworkFacts, on_missing: OnMissing) -> Manifest:
        return Manifest(
            name=self.name,
            deployment_id=deployment_id,
            num_devices=self.plan.num_devices,
            network=facts,
            inputs=tuple(map(port_to_data, self.plan.inputs)),
            outputs=tuple(map(port_to_data, self.plan.outputs)),
            payload_bytes=self.plan.payload_bytes(),
            on_missing=on_missing,
            messages=tuple(message_to_data(message) for message in self.plan.messages()),
            files=_entries(self.folder),
        ).seal()

    def _write_tensors(self, rank: int) -> dict[str, SegmentFiles]:
        """Write the segments and weights of one device; a tensor shared by two segments is stored once."""
        segments: dict[str, SegmentFiles] = {}
        stored: dict[str, Tensor] = {}
        for step in self.plan.programs[rank]:
            if not isinstance(step, Compute) or step.segment in segments:
                continue
            segment = self.plan.segments[rank][step.segment]
            module = self.network.segment(rank, segment.layers)
            keys = weights_of(module, self.network, [weight.name for weight in segment.weights])
            own = segment_weights(module)
            stored |= {name: own[key] for name, key in keys.items()}
            weights = {key: own[key] for key in keys.values()}
            shapes = [self.plan.shapes[rank][name] for name in step.inputs]
            inputs = dict(zip(segment.inputs, shapes, strict=True))
            files = {}
            for engine, data in self._graphs(rank, segment, module, inputs, weights):
                files[engine] = f"segments/{segment.name}{all_engines()[engine].suffix}"
                self._write(f"{device_folder(rank)}/{files[engine]}", data)
            segments[segment.name] = SegmentFiles(
                files=files, layers=segment.layers, inputs=segment.inputs, outputs=segment.outputs, weights=tuple(keys)
            )
            self._step(f"{device_folder(rank)}: {segment.name}")
        merges = self.network.merge_weights(rank)
        needed = [s.parameter for s in self.plan.programs[rank] if isinstance(s, Merge) and s.parameter]
        stored |= {parameter: merges[parameter] for parameter in needed}
        scales = {message.scale for message in messages_of(self.plan, rank) if message.scale}
        stored |= {name: self.network.scale(name) for name in sorted(scales)}
        self._write(f"{device_folder(rank)}/{WEIGHTS_NAME}", weights_file(stored))
        return segments

    def _graphs(
        self, rank: int, segment: Segment, module: nn.Module, inputs: dict[str, Shape], weights: dict[str, Tensor]
    ) -> Iterator[tuple[str, bytes]]:
        """The segment's file for each engine that has its own."""
        graphs = self.exporter.export(module, inputs, segment.outputs, weights)
        yield from graphs.items()
        for kind in self.quantised:
            assert self.calibration is not None
            base = kind.quantised_from
            exact = graphs.get(base)
            if exact is None:
                exact = SegmentExporter((base,)).export(module, inputs, segment.outputs, weights)[base]
            taken = self.calibration.inputs(rank, segment.name)
            yield kind.name, late(kind.export)(exact, list(weights.values()), taken)

    def _identify(self, facts: NetworkFacts) -> str:
        """The deployment's identity: a digest of inputs, outputs, programs, weights and graphs, not of certificates."""
        entries = _entries(self.folder)
        return canonical_digest(
            {
                "network": facts.model_dump(mode="json"),
                "programs": [[s.model_dump(mode="json") for s in program_to_data(p)] for p in self.plan.programs],
                "files": {name: entry.sha256 for name, entry in entries.items()},
            }
        )

    def _shard(self, rank: int, deployment_id: str, segments: dict[str, SegmentFiles]) -> ShardManifest:
        plan = self.plan
        return ShardManifest(
            deployment_id=deployment_id,
            rank=rank,
            num_devices=plan.num_devices,
            program=program_to_data(plan.programs[rank]),
            shapes={name: shape_to_data(shape) for name, shape in plan.shapes[rank].items()},
            messages=tuple(message_to_data(message) for message in messages_of(plan, rank)),
            segments=segments,
            fallbacks=tuple(p.tag for port in plan.outputs for p in port.fallbacks if p.device == rank),
            files=_entries(self.folder / device_folder(rank)),
        ).seal()

    def _write_tls(self, folder: str, authority: Credential, dns_name: str) -> None:
        credential = issue(authority, dns_name, self.validity_days)
        self._write(f"{folder}/ca.pem", authority.certificate_pem())
        self._write(f"{folder}/cert.pem", credential.certificate_pem())
        self._write(f"{folder}/{KEY_NAME}", credential.key_pem(), 0o600)

    def _write_services(self, hosts: Hosts) -> None:
        engine = min(self.engines, key=lambda kind: (not kind.exact, not kind.light))
        for rank in range(self.plan.num_devices if self.services else 0):
            service = DeviceService(self.name, rank, self.plan.num_devices, hosts.address(rank), engine.name)
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


def _entries(folder: Path) -> dict[str, FileEntry]:
    """Hash and length of every file below ``folder``, by relative path, sorted."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): file_entry(path) for path in files}
