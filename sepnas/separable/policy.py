"""The transmission policy: the transfers at each exchange point, and how they are merged.

An exchange point follows a block (numbered from 0 through all stages). Every transfer of a point
carries the sender's own output of that block, before any message is merged into it.
A transfer of lag 0 is merged at the same point, one of lag 1 after the receiver's next block, together
with the messages of that block's own point.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from math import ceil
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator
from typing_extensions import Self

from sepnas.errors import SpecError
from sepnas.plan.merge_rules import MERGE_RULES, MERGERS, MergeRule, strongest
from sepnas.plan.wire import LEVELS, UNCONVERTED, Scale, WireFormat
from sepnas.spec.document import Document, Part, few, repeated
from sepnas.spec.figures import MAX_BLOCKS, MAX_DEVICES, Block, Rank, Text
from sepnas.units import format_names

Lag = Annotated[int, Field(ge=0, le=1)]  # not a Literal, which would accept True as 1
MAX_TRANSFERS = 200_000


class Transfer(Part):
    """One message to ``destination``: the first ``fraction`` of ``source``'s channels.

    ``scale`` applies to quantised formats. All learned messages of one block's output in one format share a step size.
    """

    source: Rank
    destination: Rank
    fraction: Annotated[float, Field(gt=0, le=1)] = 1.0
    wire: WireFormat = UNCONVERTED
    lag: Lag = 0
    scale: Scale = "sample"

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.source == self.destination:
            raise ValueError(f"`source` and `destination` must differ, both are {self.source}")
        if self.scale == "learned" and self.wire not in LEVELS:
            raise ValueError(
                f"`scale` is 'learned', but {self.wire} has no levels; only {format_names(LEVELS, 'and')} have"
            )
        return self

    @model_serializer(mode="wrap")
    def _leave_out_sample(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Omit the default scale, so that files from before scales existed are written unchanged."""
        data: dict[str, Any] = handler(self)
        if self.scale == "sample":
            data.pop("scale", None)
        return data

    def written_in(self, wire: WireFormat, scale: Scale) -> Self:
        return self.model_copy(update={"wire": wire, "scale": scale if wire in LEVELS else "sample"})

    def wire_text(self) -> str:
        """The format as shown to people."""
        return self.wire if self.scale == "sample" else f"{self.wire} with a learned scale"

    def scale_name(self, after: int) -> str | None:
        """The name of the step size of the message after this block; None if it is not learned."""
        return f"after{after}_from{self.source}_{self.wire}" if self.scale == "learned" else None

    def num_channels(self, source_channels: int, destination_channels: int) -> int:
        """The number of channels sent: the fraction of the sender's, rounded up, at most the receiver's."""
        return min(ceil(self.fraction * source_channels - 1e-9), destination_channels)


class ExchangePoint(Part):
    """The transfers after block ``after``; ``merge`` is how their receivers merge them.

    If messages of two points meet (lag 1 of one, lag 0 of the next), they are merged by the stronger of the two rules:
    ``concat`` if either is, else ``weighted`` (:func:`sepnas.plan.merge_rules.strongest`).
    """

    after: Block
    transfers: Annotated[tuple[Transfer, ...], Field(max_length=MAX_DEVICES * (MAX_DEVICES - 1))] = ()
    merge: MergeRule = MERGE_RULES[0]

    @model_validator(mode="after")
    def _one_message_a_pair(self) -> Self:
        twice = sorted(repeated((t.source, t.destination) for t in self.transfers))
        if twice:
            raise ValueError(f"after block {self.after} these pairs have more than one transfer: [{few(twice)}]")
        return self

    def without(self, devices: Collection[int]) -> Self:
        """The point without the transfers from and to these devices."""
        kept = (t for t in self.transfers if t.source not in devices and t.destination not in devices)
        return self.model_copy(update={"transfers": tuple(kept)})


Due: TypeAlias = Sequence[tuple[ExchangePoint, Transfer]]
"""The messages that one device merges after one block, in merge order."""


def merge_rule(due: Due) -> MergeRule:
    """The merge rule of the due messages, of which there is at least one."""
    return strongest(point.merge for point, _ in due)


def needs_weights(due: Due) -> bool:
    """Whether the due messages have learned weights."""
    return bool(due) and MERGERS[merge_rule(due)].learned


class Readout(Part):
    """The source of the answer: the logits of one ``device``, or the ``mean`` of all (gathered by ``device``)."""

    kind: Literal["device", "mean"] = "device"
    device: Rank = 0


class TransmissionPolicy(Document):
    """A set of exchange points and the read-out."""

    format_name: ClassVar[str] = "sepnas.policy"

    name: Text = "custom"
    points: Annotated[tuple[ExchangePoint, ...], Field(max_length=MAX_BLOCKS)] = ()
    readout: Readout = Readout()

    @model_validator(mode="after")
    def _points_in_order(self) -> Self:
        blocks = [point.after for point in self.points]
        if blocks != sorted(set(blocks)):
            shown = few(blocks, 40)
            raise ValueError(f"`points` must stand in rising order of `after`, each block once, got [{shown}]")
        if sum(len(point.transfers) for point in self.points) > MAX_TRANSFERS:
            raise ValueError(f"`points` have more than {MAX_TRANSFERS:,} transfers in all")
        return self

    def arrivals(self, block: int, destination: int) -> list[tuple[ExchangePoint, Transfer]]:
        """The messages that ``destination`` merges after ``block``, in merge order: lag 1 first."""
        return [
            (point, transfer)
            for point in self.points
            if block - 1 <= point.after <= block
            for transfer in point.transfers
            if transfer.destination == destination and point.after + transfer.lag == block
        ]

    def written_in(self, wire: WireFormat | None = None, scale: Scale | None = None) -> Self:
        """The policy with this format and scale for all messages (None: unchanged); fp32 and fp16 have no scale."""
        points = [
            point.model_copy(
                update={"transfers": tuple(t.written_in(wire or t.wire, scale or t.scale) for t in point.transfers)}
            )
            for point in self.points
        ]
        return self.model_copy(update={"points": tuple(points)})

    def merged_by(self, merge: MergeRule) -> Self:
        """The policy with this merge rule at all exchange points."""
        return self.model_copy(update={"points": tuple(p.model_copy(update={"merge": merge}) for p in self.points)})

    def learned_scales(self) -> dict[str, WireFormat]:
        """The wire format of the messages of each learned scale, by the scale's name."""
        sent = [(transfer.scale_name(point.after), transfer) for point in self.points for transfer in point.transfers]
        return {name: transfer.wire for name, transfer in sent if name}

    def without(self, devices: Collection[int]) -> Self:
        """The policy without transfers from and to these devices: the computation of a network that has lost them.

        One difference: if messages of two rules meet in one merge and all of the stronger one are lost, the devices
        keep the learned weights of the others (:class:`sepnas.nets.outage.Outage`); here they merge by the weaker rule.
        """
        return self.model_copy(update={"points": tuple(point.without(devices) for point in self.points)})

    def check(self, num_devices: int, blocks_per_stage: Iterable[int], where: str = "policy") -> None:
        """Refuse a policy that does not fit a network; the :class:`SpecError` names the point and the transfer."""
        stages = list(blocks_per_stage)
        num_blocks = sum(stages)
        last_of_stage = {sum(stages[: s + 1]) - 1 for s in range(len(stages))}
        if self.readout.device >= num_devices:
            raise SpecError(
                f"{where}: `readout.device` is {self.readout.device}, but the ranks are 0..{num_devices - 1}"
            )
        for index, point in enumerate(self.points):
            place = f"{where}: `points.{index}`"
            if point.after >= num_blocks:
                raise SpecError(f"{place}.after is {point.after}, but the blocks are 0..{num_blocks - 1}")
            for number, transfer in enumerate(point.transfers):
                for end in ("source", "destination"):
                    rank = getattr(transfer, end)
                    if rank >= num_devices:
                        raise SpecError(
                            f"{place}.transfers.{number}.{end} is {rank}, but the ranks are 0..{num_devices - 1}"
                        )
                if transfer.lag == 1 and point.after in last_of_stage:
                    raise SpecError(
                        f"{place}.transfers.{number}.lag is 1, but block {point.after} is the last of its stage: "
                        f"the next block's output has another shape; use lag 0"
                    )
