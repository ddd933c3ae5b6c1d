"""The messages of a request under a plan that the client itself sends and receives."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from typing_extensions import Self

from sepnas.deployment.manifest import OnMissing
from sepnas.deployment.network_facts import ImageInput, NetworkFacts
from sepnas.deployment.plans import PlanPorts
from sepnas.plan.plan import Piece, Port
from sepnas.plan.serial import port_from_data
from sepnas.plan.wire import IMAGE_FORMATS, UNCONVERTED, payload_bytes
from sepnas.runtime.client.images import normalise
from sepnas.runtime.protocol.events import Data
from sepnas.runtime.tensors.codec import Array, Images, encode, encode_image, is_image


@dataclass(frozen=True)
class ClientMessages:
    """Of one plan: the pieces of the inputs that go to the devices ``ranks``, and those of the outputs that they answer
    with.

    A device may take part without a piece.
    """

    ranks: tuple[int, ...]
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    images: Mapping[str, ImageInput]
    """The inputs that are images."""

    @classmethod
    def of(cls, plan: PlanPorts, network: NetworkFacts) -> Self:
        inputs, outputs = (tuple(map(port_from_data, ports)) for ports in (plan.inputs, plan.outputs))
        images = {name: facts.image for name, facts in network.inputs.items() if facts.image is not None}
        return cls(plan.working, inputs, outputs, images)

    def encode_pieces(self, request: int, arrays: Mapping[str, Array | Images]) -> dict[int, list[Data]]:
        """What each device is sent of a batch: its regions of every sample, in the pieces' wire formats.

        Images that are normalised already travel in fp32 where the plan has them as bytes.
        """
        # devices that get the same share one payload
        kinds = {(port.name, piece.region, piece.wire): piece for port in self.inputs for piece in port.pieces}
        payloads = {key: self._encode(arrays[key[0]], key[0], piece) for key, piece in kinds.items()}
        sent: dict[int, list[Data]] = {rank: [] for rank in self.ranks}
        for port in self.inputs:
            for piece in port.pieces:
                payload = payloads[port.name, piece.region, piece.wire]
                sent[piece.device].append(Data(request, piece.tag, payload))
        return sent

    def _encode(self, batch: Array | Images, name: str, piece: Piece) -> memoryview:
        part = batch[piece.region.slices]
        if piece.wire in IMAGE_FORMATS:
            return encode_image(part) if is_image(part) else encode(part, UNCONVERTED)
        if is_image(part):
            part = normalise(part, self.images[name], slice(*piece.region.ranges[0]))
        return encode(part, piece.wire)

    def expected(self, on_missing: OnMissing) -> dict[int, dict[int, int]]:
        """The messages that each device may send to the client: bytes per sample, by tag."""
        found: dict[int, dict[int, int]] = {rank: {} for rank in self.ranks}
        for piece in self._answers(fallbacks=on_missing == "degrade"):
            found[piece.device][piece.tag] = payload_bytes(piece.region.num_values, piece.wire)
        return found

    def answer_bytes(self, batch: int) -> dict[int, int]:
        """The payload of each message that may be answered with, by tag."""
        return {
            piece.tag: payload_bytes(piece.region.num_values, piece.wire, batch)
            for piece in self._answers(fallbacks=True)
        }

    @property
    def answer_tags(self) -> frozenset[int]:
        """The tags of the messages that together are the whole answer."""
        return frozenset(piece.tag for piece in self._answers(fallbacks=False))

    def blocking(self, away: Collection[int]) -> tuple[int, ...]:
        """The devices among ``away`` without which an output cannot be answered: none of its fallbacks is left."""
        return tuple(
            piece.device
            for port in self.outputs
            if all(piece.device in away for piece in port.fallbacks)
            for piece in port.pieces
            if piece.device in away
        )

    def _answers(self, fallbacks: bool) -> list[Piece]:
        return [piece for port in self.outputs for piece in (*port.pieces, *(port.fallbacks if fallbacks else ()))]


def expected_of(plans: Iterable[ClientMessages], on_missing: OnMissing) -> dict[int, dict[int, frozenset[int]]]:
    """The messages that each device may send to the client in any of the plans: bytes per sample, by tag."""
    found: dict[int, dict[int, frozenset[int]]] = {}
    for messages in plans:
        for rank, expected in messages.expected(on_missing).items():
            known = found.setdefault(rank, {})
            for tag, sample_bytes in expected.items():
                known[tag] = known.get(tag, frozenset()) | {sample_bytes}
    return found
