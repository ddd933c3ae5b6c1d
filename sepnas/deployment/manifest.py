"""What a deployment says of itself: the manifest at its top, a shard manifest in each device's folder.

Both are *sealed*: they carry a digest of their own content and are read only in the very bytes in which
they were written, so that one changed byte anywhere is noticed.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator
from typing_extensions import Self

from sepnas.deployment.engines.registry import engines, graph_engines
from sepnas.errors import DeploymentError
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
from sepnas.separable.architecture import Architecture
from sepnas.spec.document import Document, Part
from sepnas.spec.figures import (
    MAX_CLASSES,
    MAX_SIDE,
    Channels,
    Fit,
    Index,
    NumDevices,
    Sha256,
)
from sepnas.spec.reading import parse_data, read_document

MANIFEST_NAME = "manifest.json"
SHARD_NAME = "shard.json"
PLAN_NAME = "plan.json"
WEIGHTS_NAME = "weights.safetensors"

MAX_PASS_VALUES = MAX_TENSOR_VALUES
"""Values of all tensors that a segment makes of one sample; bounds what a graph can make a device allocate."""

if TYPE_CHECKING:
    GraphEngine = str
else:
    GraphEngine = Literal[graph_engines()]
"""An engine that has files of its own; others read these too (:mod:`sepnas.deployment.engines`)."""

OnMissing = Literal["strict", "degrade"]
"""When a message is late or its sender is lost: a typed error, or an answer without it."""

RelativePath = Annotated[str, Field(pattern=r"^\w[\w.-]*(/\w[\w.-]*)*$")]
"""Names below the folder only: no component starts with a dot, so none is ``..``."""


class FileEntry(Part):
    """What a file of the deployment must be."""

    sha256: Sha256
    bytes: Index


class ImageInput(Part):
    """What the network reads: ``(value / 255 - mean) / std`` for each channel, ``size`` x ``size`` values.

    Image files are read by :mod:`sepnas.spec.image_file`: 1 channel is gray, 3 are RGB. ``resize`` is how training
    scaled images of another size (bilinear); None where all had this size.
    """

    channels: Channels
    size: Annotated[int, Field(gt=0, le=MAX_SIDE, strict=True)]
    mean: tuple[float, ...]
    std: tuple[Annotated[float, Field(gt=0)], ...]
    resize: Fit | None = None

    @model_validator(mode="after")
    def _one_a_channel(self) -> Self:
        for name in ("mean", "std"):
            found = len(getattr(self, name))
            if found != self.channels:
                raise ValueError(f"`{name}` must hold one number for each of {self.channels} channels, got {found}")
        return self

    @model_serializer(mode="wrap")
    def _leave_out_none(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """A manifest without ``resize`` is written as before there was any, and so is its digest."""
        data: dict[str, Any] = handler(self)
        if self.resize is None:
            data.pop("resize", None)
        return data


class SegmentFiles(Part):
    """A segment's graph in a file for each engine, the names of its inputs and outputs, and the tensors of
    ``weights.safetensors`` in the order in which it takes them."""

    files: Annotated[dict[GraphEngine, RelativePath], Field(min_length=1)]
    layers: tuple[str, ...]
    inputs: PortNames = ("x",)
    outputs: PortNames = ("y",)
    weights: tuple[str, ...]


class SealedDocument(Document):
    """A document that notices any changed byte: see :meth:`seal` and :meth:`load`."""

    digest: str = ""

    def seal(self) -> Self:
        """The same document with its digest filled in."""
        return self.model_copy(update={"digest": self._own_digest()})

    def _own_digest(self) -> str:
        return canonical_digest({key: value for key, value in self.to_data().items() if key != "digest"})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read a sealed file; :class:`DeploymentError` when a byte was changed after it was written."""
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
    """The top of a deployment. ``files`` lists every other file of it.

    ``on_missing`` is what its clients ask of the devices unless they say otherwise.
    ``inputs`` and ``outputs`` say which device is sent which region of the input, and which one answers.
    ``payload_bytes`` is what the devices exchange for one image, without the frame headers;
    ``messages`` are all messages of the plan, those from and to the client too.
    """

    format_name: ClassVar[str] = "sepnas.manifest"
    current_version: ClassVar[int] = 3

    name: Annotated[str, Field(min_length=1)]
    deployment_id: Sha256
    architecture: Architecture
    classes: Annotated[tuple[str, ...], Field(min_length=2, max_length=MAX_CLASSES)]
    input: ImageInput
    inputs: tuple[PortData, ...]
    outputs: tuple[PortData, ...]
    payload_bytes: Index
    on_missing: OnMissing = "strict"
    messages: tuple[MessageData, ...]
    files: dict[RelativePath, FileEntry]

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if len(self.classes) != self.architecture.num_classes:
            raise ValueError(
                f"`classes` must name {self.architecture.num_classes} classes (`architecture.num_classes`), "
                f"got {len(self.classes)}"
            )
        if [len(port.pieces) for port in self.outputs] != [1]:
            raise ValueError("`outputs` must hold one output, sent by one device")
        if self.outputs[0].shape.dims != (len(self.classes),):
            raise ValueError(f"`outputs` must have {len(self.classes)} values, one for each class")
        outside = [m.tag for m in self.messages if max(m.source, m.destination) >= self.num_devices]
        by_tag = {message.tag: message for message in self.messages}
        if outside or len(by_tag) < len(self.messages):
            raise ValueError(f"`messages` must be between ranks below {self.num_devices}, each with a tag of its own")
        self._check_ports(by_tag)
        return self

    def _check_ports(self, messages: Mapping[int, MessageData]) -> None:
        """The client's messages are those of the ports, and a fallback is a message of the device that it names."""
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
    def num_devices(self) -> int:
        return self.architecture.num_devices

    @property
    def working(self) -> tuple[int, ...]:
        """The devices that take part in a request: those that send or receive anything."""
        ends = {rank for message in self.messages for rank in (message.source, message.destination)}
        return tuple(sorted(ends - {-1}))

    @property
    def reader(self) -> int:
        """The device that answers."""
        return self.outputs[0].pieces[0].device

    @property
    def heads(self) -> frozenset[int]:
        """The devices that hold an output and could answer by themselves."""
        return frozenset(piece.device for port in self.outputs for piece in (*port.pieces, *port.fallbacks))


class ShardManifest(SealedDocument):
    """What one device runs: its steps, its tensors' shapes, its segments, the messages that touch it.

    ``fallbacks`` are the tags of messages to a peer that the client may ask for as an output.
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
        """The engines that have a file of every segment to read."""
        files = [segment.files for segment in self.segments.values()]
        return tuple(name for name, kind in engines().items() if all(kind.graphs in each for each in files))

    @property
    def peers(self) -> tuple[int, ...]:
        """The ranks of the devices that this one exchanges messages with."""
        ends = {rank for message in self.messages for rank in (message.source, message.destination)}
        return tuple(sorted(ends - {self.rank, -1}))


def canonical_digest(data: Any) -> str:
    """sha256 of plain data, whatever the order of its keys."""
    text = json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def certificate_name(rank: int, deployment_id: str) -> str:
    """The DNS name in the certificate of a device, or of the client (rank -1)."""
    return f"{'client' if rank < 0 else f'device{rank}'}.{deployment_id[:16]}.sepnas"


def device_folder(rank: int) -> str:
    return f"device{rank}"
