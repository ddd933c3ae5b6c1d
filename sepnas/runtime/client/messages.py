"""The messages of a request under a plan that the client itself sends and receives."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from typing_extensions import Self

from sepnas.deployment.manifest import OnMissing
from sepnas.deployment.network_facts import ImageInput
from sepnas.deployment.plans import PlanPorts
from sepnas.errors import RemoteError, RemoteProtocolError
from sepnas.plan.plan import Message, Piece
from sepnas.plan.serial import message_from_data, port_from_data
from sepnas.plan.steps import CLIENT
from sepnas.plan.wire import IMAGE_FORMATS, UNCONVERTED
from sepnas.runtime.client.images import normalise
from sepnas.runtime.protocol.events import Data
from sepnas.runtime.tensors.codec import Array, Images, Payload, decode, encode, encode_image, is_image


@dataclass(frozen=True)
class ClientMessages:
    """Of one plan: the pieces of the input that go to the devices ``ranks``, and the output that one of them, the
    ``reader``, answers with.

    A device may take part without a piece. ``heads``: those that have an output of their own, and could answer instead.
    """

    ranks: tuple[int, ...]
    pieces: tuple[Piece, ...]
    output: Message
    heads: frozenset[int]
    image: ImageInput

    @classmethod
    def of(cls, plan: PlanPorts, image: ImageInput) -> Self:
        pieces = tuple(piece for port in map(port_from_data, plan.inputs) for piece in port.pieces)
        output = next(message for message in map(message_from_data, plan.messages) if message.destination == CLIENT)
        return cls(plan.working, pieces, output, plan.heads, image)

    @property
    def reader(self) -> int:
        return self.output.source

    def encode_pieces(self, request: int, x_BCHW: Array | Images) -> dict[int, list[Data]]:
        """What each device is sent of a batch: its region of every sample, in the piece's wire format.

        Values that are normalised already travel in fp32 where the plan has images as bytes.
        """
        payloads = {(each.region, each.wire): self._encode(x_BCHW, each) for each in self._kinds}
        sent: dict[int, list[Data]] = {rank: [] for rank in self.ranks}
        for each in self.pieces:
            sent[each.device].append(Data(request, each.tag, payloads[each.region, each.wire]))
        return sent

    @cached_property
    def _kinds(self) -> list[Piece]:
        """One of the pieces for each region and wire format: devices that get the same share one payload."""
        return list({(each.region, each.wire): each for each in self.pieces}.values())

    def _encode(self, x_BCHW: Array | Images, piece: Piece) -> memoryview:
        part = x_BCHW[piece.region.slices]
        if piece.wire in IMAGE_FORMATS:
            return encode_image(part) if is_image(part) else encode(part, UNCONVERTED)
        if is_image(part):
            part = normalise(part, self.image, slice(*piece.region.ranges[0]))
        return encode(part, piece.wire)

    def expected(self, on_missing: OnMissing) -> dict[int, dict[int, int]]:
        """The messages that each device may send to the client: bytes per sample, by tag."""
        answering = self.heads if on_missing == "degrade" else {self.output.source}
        answer_bytes = {self.output.tag: self.output.payload_bytes()}
        return {rank: answer_bytes if rank in answering else {} for rank in self.ranks}

    def decode_logits(self, payload: Payload, batch: int) -> Array:
        """The logits ``(batch, classes)``, float32.

        Raises :class:`RemoteProtocolError` for another length and :class:`RemoteError` for NaN and infinity.
        """
        expected_bytes = self.output.payload_bytes(batch)
        if len(payload) != expected_bytes:
            raise RemoteProtocolError(f"the answer has {len(payload)} bytes; {expected_bytes} were expected")
        logits = decode(payload, self.output.wire, self.output.shape).reshape(batch, -1)
        if not np.isfinite(logits).all():
            raise RemoteError(
                "the devices' answer has numbers that are not finite (NaN or infinite): it names no class"
            )
        return logits


def expected_of(plans: Iterable[ClientMessages], on_missing: OnMissing) -> dict[int, dict[int, frozenset[int]]]:
    """The messages that each device may send to the client in any of the plans: bytes per sample, by tag."""
    found: dict[int, dict[int, frozenset[int]]] = {}
    for messages in plans:
        for rank, expected in messages.expected(on_missing).items():
            known = found.setdefault(rank, {})
            for tag, sample_bytes in expected.items():
                known[tag] = known.get(tag, frozenset()) | {sample_bytes}
    return found
