"""The messages of a request that the client itself sends and receives."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from typing_extensions import Self

from sepnas.deployment.manifest import Manifest, OnMissing
from sepnas.deployment.serial import message_from_data
from sepnas.errors import RemoteError, RemoteProtocolError
from sepnas.plan.steps import CLIENT, Message
from sepnas.runtime.tensors.codec import Array, Payload, decode


@dataclass(frozen=True)
class ClientMessages:
    """The inputs that go to the devices, and the output that one of them answers with.

    ``heads``: the devices that have logits of their own, and could answer instead.
    """

    inputs: tuple[Message, ...]
    output: Message
    heads: frozenset[int]

    @classmethod
    def of(cls, manifest: Manifest) -> Self:
        messages = [message_from_data(data) for data in manifest.messages]
        inputs = tuple(message for message in messages if message.source == CLIENT)
        output = next(message for message in messages if message.destination == CLIENT)
        return cls(inputs, output, manifest.heads)

    @property
    def ranks(self) -> tuple[int, ...]:
        """The devices that the client talks to."""
        return tuple(message.destination for message in self.inputs)

    def expected(self, on_missing: OnMissing) -> dict[int, dict[int, int]]:
        """The messages that each device may send to the client: bytes per sample, by tag."""
        answering = self.heads if on_missing == "degrade" else {self.output.source}
        answer_bytes = {self.output.tag: self.output.payload_bytes()}
        return {rank: answer_bytes if rank in answering else {} for rank in self.ranks}

    def decode_logits(self, payload: Payload, batch: int) -> Array:
        """The logits ``(batch, classes)``, float32.

        Raises :class:`RemoteProtocolError` for another length and :class:`RemoteError` for NaN and infinity.
        """
        due_bytes = self.output.payload_bytes(batch)
        if len(payload) != due_bytes:
            raise RemoteProtocolError(f"the answer has {len(payload)} bytes; {due_bytes} were due")
        logits = decode(payload, self.output.wire, self.output.shape).reshape(batch, -1)
        if not np.isfinite(logits).all():
            raise RemoteError(
                "the devices' answer has numbers that are not finite (NaN or infinite): it names no class"
            )
        return logits
