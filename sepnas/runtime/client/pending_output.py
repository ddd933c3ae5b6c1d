"""One output of a request, from the first piece that comes to the assembled array; no I/O."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping

import numpy as np

from sepnas.errors import RemoteError, RemoteProtocolError
from sepnas.plan.plan import Piece, Port
from sepnas.plan.wire import payload_bytes
from sepnas.runtime.protocol.events import Data, PartialData
from sepnas.runtime.tensors.codec import Array, Payload, decode


class PendingOutput:
    """Collects the pieces of an output, and the fallbacks that are recalled if a piece does not come."""

    def __init__(self, port: Port) -> None:
        self.port = port
        self.recalled: dict[int, int] = {}
        """The tags of the fallbacks that were recalled, by rank."""
        self._awaited = {piece.tag: piece for piece in port.pieces}
        self._kept = {piece.tag: piece for piece in port.fallbacks}
        self._pieces: dict[int, Data] = {}
        self._fallbacks: dict[int, Data] = {}

    def take(self, rank: int, event: Data) -> None:
        """Take a piece or a recalled fallback; a message that is neither, or of another device, changes nothing."""
        for known, taken in ((self._awaited, self._pieces), (self._kept, self._fallbacks)):
            if event.tag in known and known[event.tag].device == rank:
                taken.setdefault(event.tag, event)

    # -- what has come

    @property
    def is_whole(self) -> bool:
        """Whether all pieces have come."""
        return len(self._pieces) == len(self._awaited)

    @property
    def is_partial(self) -> bool:
        """Whether a device computed its piece without a message."""
        return any(isinstance(event, PartialData) for event in self._pieces.values())

    @property
    def pending(self) -> frozenset[int]:
        """The devices whose pieces have not come."""
        return frozenset(piece.device for tag, piece in self._awaited.items() if tag not in self._pieces)

    @property
    def answered(self) -> frozenset[int]:
        """The devices whose fallbacks have come."""
        return frozenset(self._kept[tag].device for tag in self._fallbacks)

    # -- whom to wait for

    def others(self, away: Collection[int]) -> dict[int, int]:
        """The tags of the fallbacks of devices that are not ``away``, by rank."""
        return {piece.device: piece.tag for piece in self.port.fallbacks if piece.device not in away}

    def is_over(self, away: Collection[int]) -> bool:
        """Whether nothing more comes from devices that are not ``away``: the output is whole, or will not be."""
        if self.is_whole:
            return True
        if self.recalled:
            return self.recalled.keys() <= self.answered | set(away)
        return self.is_hopeless(away) and not self.others(away)

    def is_hopeless(self, away: Collection[int]) -> bool:
        """Whether a piece will not come, because its device is ``away``."""
        return not self.pending.isdisjoint(away)

    # -- the array

    def array(self, batch: int) -> Array | None:
        """The output ``(batch, *shape)``, or the mean of its fallbacks; None if there is neither.

        Raises :class:`RemoteProtocolError` for a piece of another length and :class:`RemoteError` for one that holds
        NaN or infinity.
        """
        if self.is_whole:
            return assembled(self.port, {tag: event.payload for tag, event in self._pieces.items()}, batch)
        found = dict(self._own_answers(batch))
        return _mean(found) if found else None

    def left_out(self, batch: int) -> frozenset[int]:
        """The devices whose part of an output that is not whole did not come, or cannot be read."""
        return frozenset() if self.is_whole else self.pending | (self.recalled.keys() - dict(self._own_answers(batch)))

    def _own_answers(self, batch: int) -> Iterator[tuple[int, Array]]:
        for tag, event in self._fallbacks.items():
            with contextlib.suppress(RemoteError, RemoteProtocolError):  # an invalid answer is left out
                yield self._kept[tag].device, _decoded(self.port, self._kept[tag], event.payload, batch)


def assembled(port: Port, payloads: Mapping[int, Payload], batch: int) -> Array:
    """An output from the payloads of its pieces by tag; raises as :meth:`PendingOutput.array` does."""
    if len(port.pieces) == 1:
        return _decoded(port, port.pieces[0], payloads[port.pieces[0].tag], batch)
    whole = np.empty((batch, *port.shape.dims), np.float32)
    for piece in port.pieces:
        whole[piece.region.slices] = _decoded(port, piece, payloads[piece.tag], batch)
    return whole


def _decoded(port: Port, piece: Piece, payload: Payload, batch: int) -> Array:
    shape = piece.region.shape(port.shape)
    expected_bytes = payload_bytes(shape.num_values, piece.wire, batch)
    if len(payload) != expected_bytes:
        raise RemoteProtocolError(
            f"the answer of device {piece.device} for '{port.name}' has {len(payload)} bytes; "
            f"{expected_bytes} were expected"
        )
    values = decode(payload, piece.wire, shape)
    if not np.isfinite(values).all():
        raise RemoteError(
            f"the devices' answer for '{port.name}' has numbers that are not finite (NaN or infinite): it says nothing"
        )
    return values


def _mean(answers: Mapping[int, Array]) -> Array:
    """Added in the order of ranks: rounding does not depend on the order of arrival."""
    first, *others = (answers[rank] for rank in sorted(answers))
    total = first.copy()
    for each in others:
        total += each
    total /= len(answers)
    return total
