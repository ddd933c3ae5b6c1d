"""The manifest at the top of a deployment, and the shard manifest in each device's folder.

Both are *sealed*: they carry a digest of their own content and are accepted only byte for byte as written, so any
changed byte is detected.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator
from typing_extensions import Self

from sepnas.deployment.engines.registry import engines, graph_engines
from sepnas.deployment.network_facts import ImageInput, InputFacts, NetworkFacts, OutputFacts
from sepnas.deployment.plans import ByPlan, PlanName, PlanPorts, ShardPlan, ends_of, overlay_file
from sepnas.errors import DataError, DeploymentError, SpecError
from sepnas.plan.data import MAX_TENSOR_VALUES, PortNames, SegmentName
from sepnas.spec.document import Document, Part, short
from sepnas.spec.figures import Index, NumDevices, Sha256
from sepnas.spec.reading import parse_data, read_document

MANIFEST_NAME = "manifest.json"
SHARD_NAME = "shard.json"
WEIGHTS_NAME = "weights.safetensors"

MAX_PASS_VALUES = MAX_TENSOR_VALUES
"""Maximum number of values in all tensors that a segment computes for one sample, with the scratch memory of its
operators; bounds a device's allocations."""

if TYPE_CHECKING:
    GraphEngine = str
else:
    GraphEngine = Literal[graph_engines()]
"""An engine with graph files of its own; other engines may read them too (:mod:`sepnas.deployment.engines`)."""

OnMissing = Literal["strict", "degrade"]
"""Reaction to a late message or a lost sender: a typed error (``strict``), or an answer without it (``degrade``)."""

RelativePath = Annotated[str, Field(pattern=r"^\w[\w.-]*(/\w[\w.-]*)*$")]
"""A path inside the folder: no component starts with a dot, so none is ``..``."""


class FileEntry(Part):
    """The required hash and length of a file."""

    sha256: Sha256
    bytes: Index


class SegmentFiles(Part):
    """A segment's graph file for each engine, the names of its inputs and outputs, and its tensors in
    ``weights.safetensors``, in the graph's order."""

    files: Annotated[dict[GraphEngine, RelativePath], Field(min_length=1)]
    layers: tuple[str, ...]
    inputs: PortNames = ("x",)
    outputs: PortNames = ("y",)
    weights: tuple[str, ...]


class SealedDocument(Document):
    """A document with a digest that detects any changed byte: see :meth:`seal` and :meth:`load`."""

    digest: str = ""

    def seal(self) -> Self:
        """The same document with its digest filled in."""
        return self.model_copy(update={"digest": self._own_digest()})

    def _own_digest(self) -> str:
        return canonical_digest({key: value for key, value in self.to_data().items() if key != "digest"})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read a sealed file; raises :class:`DeploymentError` if any byte has changed since it was written."""
        content = read_document(path)
        data = parse_data(content, path)
        version = data.get("version") if isinstance(data, dict) else None
        if isinstance(version, int) and 0 < version < cls.current_version:
            raise DeploymentError(
                f"{path}: was written by an older sepnas (version {version}, this one writes {cls.current_version}); "
                "export it again"
            )
        document = cls.from_data(data, str(path))
        if document.digest != document._own_digest() or content != document.dumps().encode():
            raise DeploymentError(
                f"{path}: was changed after it was written (its own sha256 does not match); export or copy it again"
            )
        return document


class Manifest(SealedDocument):
    """The manifest at the top of a deployment; ``files`` lists all its other files.

    ``network`` are the facts of the network. ``plans`` are by name; ``default_plan`` is that of requests that name
    none. ``on_missing`` is the clients' default.
    """

    format_name: ClassVar[str] = "sepnas.manifest"
    current_version: ClassVar[int] = 4

    name: Annotated[str, Field(min_length=1)]
    deployment_id: Sha256
    num_devices: NumDevices
    network: NetworkFacts
    default_plan: PlanName
    plans: ByPlan[PlanPorts]
    on_missing: OnMissing = "strict"
    files: dict[RelativePath, FileEntry]

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.default_plan not in self.plans:
            raise ValueError(f"`default_plan` is '{self.default_plan}', but the plans are {', '.join(self.plans)}")
        for name, plan in self.plans.items():
            problem = self.network.problem_of(plan.inputs, plan.outputs)
            if problem:
                raise ValueError(f"`network` does not fit `plans.{name}`: {problem}")
            if max(plan.working, default=0) >= self.num_devices:
                raise ValueError(f"`plans.{name}.messages` must be between ranks below {self.num_devices}")
        return self

    def plan(self, name: str | None = None) -> PlanPorts:
        """The plan of this name, or the default one; raises :class:`SpecError` that lists the names."""
        found = self.plans.get(self.default_plan if name is None else name)
        if found is None:
            raise SpecError(
                f"deployment '{self.name}' has no plan {short(name)}; its plans are {', '.join(self.plans)}"
            )
        return found

    def chosen(self, names: Iterable[str] | None) -> dict[str, PlanPorts]:
        """These plans, by default all, the default one first if it is among them; raises :class:`SpecError`."""
        found = {name: self.plan(name) for name in (self.plans if names is None else names)}
        if not found:
            raise SpecError(f"`plans` is empty; name one or more of {', '.join(self.plans)}")
        return dict(sorted(found.items(), key=lambda item: item[0] != self.default_plan))

    def inputs_of(self, plan: str | None = None) -> dict[str, InputFacts]:
        """The inputs that a plan takes; raises :class:`SpecError` for an unknown plan."""
        return {port.name: self.network.inputs[port.name] for port in self.plan(plan).inputs}

    def outputs_of(self, plan: str | None = None) -> dict[str, OutputFacts]:
        """The outputs that a plan answers with; raises :class:`SpecError` for an unknown plan."""
        return {port.name: self.network.outputs[port.name] for port in self.plan(plan).outputs}

    @property
    def image(self) -> ImageInput:
        """The image that the network takes; raises :class:`DataError` if it takes anything else."""
        if self.network.image is None:
            raise DataError(f"this network takes no images, but {self.network.inputs_text}")
        return self.network.image

    @property
    def classes(self) -> tuple[str, ...]:
        """The class names; raises :class:`DataError` if no output holds class scores."""
        if self.network.classes is None:
            raise DataError(f"this network names no classes; its outputs are {self.network.outputs_text}")
        return self.network.classes

    @property
    def payload_bytes(self) -> int:
        """Payload bytes between devices for one sample, without frame headers, in the default plan."""
        return self.plan().payload_bytes

    @property
    def working(self) -> tuple[int, ...]:
        """The ranks that take part in any plan."""
        return tuple(sorted({rank for plan in self.plans.values() for rank in plan.working}))


class ShardManifest(SealedDocument):
    """One device's part of a deployment: of each plan its part, and the segments of all of them.

    A segment that several plans compute is listed once; the tensors that it takes may differ from plan to plan
    (:func:`sepnas.deployment.plans.overlay_file`).
    """

    format_name: ClassVar[str] = "sepnas.shard"
    current_version: ClassVar[int] = 4

    deployment_id: Sha256
    rank: Index
    num_devices: NumDevices
    plans: ByPlan[ShardPlan]
    segments: dict[SegmentName, SegmentFiles]
    files: dict[RelativePath, FileEntry]

    @model_validator(mode="after")
    def _known_rank(self) -> Self:
        if self.rank >= self.num_devices:
            raise ValueError(f"`rank` is {self.rank}, but the ranks are 0..{self.num_devices - 1}")
        return self

    @property
    def engines(self) -> tuple[str, ...]:
        """The engines with a graph file for every segment."""
        files = [segment.files for segment in self.segments.values()]
        return tuple(name for name, kind in engines().items() if all(kind.graphs in each for each in files))

    @property
    def weight_files(self) -> tuple[str, ...]:
        """The file of the tensors that plans share, and those of single plans."""
        overlays = [file for file in map(overlay_file, self.plans) if file in self.files]
        return (WEIGHTS_NAME, *overlays)

    def peers(self, plans: Collection[str] = ()) -> tuple[int, ...]:
        """The ranks of the devices that this one exchanges messages with in these plans, by default in any."""
        messages = [m for name, plan in self.plans.items() if not plans or name in plans for m in plan.messages]
        return tuple(rank for rank in ends_of(messages) if rank != self.rank)


def canonical_digest(data: Any) -> str:
    """sha256 of plain data, independent of the order of keys."""
    text = json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def certificate_name(rank: int, deployment_id: str) -> str:
    """The DNS name in the certificate of a device, or of the client (rank -1)."""
    return f"{'client' if rank < 0 else f'device{rank}'}.{deployment_id[:16]}.sepnas"


def device_folder(rank: int) -> str:
    return f"device{rank}"
