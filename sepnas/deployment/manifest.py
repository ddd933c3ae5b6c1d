"""The manifest at the top of a deployment, and the shard manifest in each device's folder.

Both are *sealed*: they carry a digest of their own content and are accepted only byte for byte as written, so any
changed byte is detected.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator
from typing_extensions import Self

from sepnas.deployment.engines.registry import engines, graph_engines
from sepnas.deployment.network_facts import ImageInput, NetworkFacts
from sepnas.errors import DataError, DeploymentError
from sepnas.plan.data import (
    MAX_TENSOR_VALUES,
    MessageData,
    PieceData,
    PortData,
    PortNames,
    SegmentName,
    ShapeData,
    StepData,
    Tag,
)
from sepnas.spec.document import Document, Part
from sepnas.spec.figures import Index, NumDevices, Sha256
from sepnas.spec.reading import parse_data, read_document

MANIFEST_NAME = "manifest.json"
SHARD_NAME = "shard.json"
PLAN_NAME = "plan.json"
WEIGHTS_NAME = "weights.safetensors"

MAX_PASS_VALUES = MAX_TENSOR_VALUES
"""Maximum number of values in all tensors that a segment computes for one sample; bounds a device's allocations."""

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

    ``network`` are the facts of the network, and ``on_missing`` is the clients' default. ``inputs`` and ``outputs`` say
    which device receives which region of an input, and which one answers. ``payload_bytes`` counts the payload between
    devices for one sample, without frame headers. ``messages`` are all messages of the plan, including those from and
    to the client.
    """

    format_name: ClassVar[str] = "sepnas.manifest"
    current_version: ClassVar[int] = 4

    name: Annotated[str, Field(min_length=1)]
    deployment_id: Sha256
    num_devices: NumDevices
    network: NetworkFacts
    inputs: tuple[PortData, ...]
    outputs: tuple[PortData, ...]
    payload_bytes: Index
    on_missing: OnMissing = "strict"
    messages: tuple[MessageData, ...]
    files: dict[RelativePath, FileEntry]

    @model_validator(mode="after")
    def _fits(self) -> Self:
        problem = self.network.problem_of(self.inputs, self.outputs)
        if problem:
            raise ValueError(f"`network` does not fit the plan: {problem}")
        if [len(port.pieces) for port in self.outputs] != [1]:
            raise ValueError("`outputs` must hold one output, sent by one device")
        outside = [m.tag for m in self.messages if max(m.source, m.destination) >= self.num_devices]
        by_tag = {message.tag: message for message in self.messages}
        if outside or len(by_tag) < len(self.messages):
            raise ValueError(f"`messages` must be between ranks below {self.num_devices}, each with a tag of its own")
        self._check_ports(by_tag)
        return self

    def _check_ports(self, messages: Mapping[int, MessageData]) -> None:
        """Check that the client's messages match the ports, and that each fallback's message comes from its device."""
        ways = {m.tag: (m.source, m.destination) for m in self.messages if -1 in (m.source, m.destination)}
        told = {piece.tag: (-1, piece.device) for port in self.inputs for piece in port.pieces}
        told |= {piece.tag: (piece.device, -1) for port in self.outputs for piece in port.pieces}
        if ways != told:
            raise ValueError("`messages` must be those that `inputs` and `outputs` list to and from the client")
        for port in (*self.inputs, *self.outputs):
            for piece in (*port.pieces, *port.fallbacks):
                self._check_piece(port, piece, messages.get(piece.tag))

    def _check_piece(self, port: PortData, piece: PieceData, message: MessageData | None) -> None:
        dims = tuple(stop - start for start, stop in piece.region)
        inside = len(piece.region) == len(port.shape.dims) and all(
            start < stop <= size for (start, stop), size in zip(piece.region, port.shape.dims, strict=True)
        )
        if message is None or not inside or (message.shape.dims, message.wire) != (dims, piece.wire):
            raise ValueError(f"`messages` must hold {piece.tag}, a piece of '{port.name}', in its shape and format")
        if piece in port.fallbacks and message.source != piece.device:
            raise ValueError(f"fallback {piece.tag} must be a message from device {piece.device}")

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
    def working(self) -> tuple[int, ...]:
        """The ranks that take part in a request: those that send or receive a message."""
        ends = {rank for message in self.messages for rank in (message.source, message.destination)}
        return tuple(sorted(ends - {-1}))

    @property
    def reader(self) -> int:
        """The rank that answers."""
        return self.outputs[0].pieces[0].device

    @property
    def heads(self) -> frozenset[int]:
        """The ranks that hold an output and could answer."""
        return frozenset(piece.device for port in self.outputs for piece in (*port.pieces, *port.fallbacks))


class ShardManifest(SealedDocument):
    """One device's part of the plan: its steps, tensor shapes, segments, and the messages that it sends or receives.

    ``fallbacks`` are the tags of messages to a peer that the client may request as an output.
    """

    format_name: ClassVar[str] = "sepnas.shard"
    current_version: ClassVar[int] = 3

    deployment_id: Sha256
    rank: Index
    num_devices: NumDevices
    program: tuple[StepData, ...]
    shapes: dict[str, ShapeData]
    messages: tuple[MessageData, ...]
    segments: dict[SegmentName, SegmentFiles]
    fallbacks: tuple[Tag, ...] = ()
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
    def peers(self) -> tuple[int, ...]:
        """The ranks of the devices that this one exchanges messages with."""
        ends = {rank for message in self.messages for rank in (message.source, message.destination)}
        return tuple(sorted(ends - {self.rank, -1}))


def canonical_digest(data: Any) -> str:
    """sha256 of plain data, independent of the order of keys."""
    text = json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def certificate_name(rank: int, deployment_id: str) -> str:
    """The DNS name in the certificate of a device, or of the client (rank -1)."""
    return f"{'client' if rank < 0 else f'device{rank}'}.{deployment_id[:16]}.sepnas"


def device_folder(rank: int) -> str:
    return f"device{rank}"
