"""One device's share of a network: its widths."""

from __future__ import annotations

from pydantic import model_validator
from typing_extensions import Self

from sepnas.spec.document import Part
from sepnas.spec.figures import MAX_CHANNELS, Channels


class DevicePart(Part):
    """One device's share, in the first stage; how widths grow with the stages is the backbone's rule.

    The inner channels of a block are ``cardinality`` groups of ``bottleneck_width`` channels, its output has
    ``output_channels``. Each file of :mod:`sepnas.separable.backbones` says what the three mean for its family.
    """

    cardinality: Channels = 1
    bottleneck_width: Channels
    output_channels: Channels = 64

    @model_validator(mode="after")
    def _check_channels(self) -> Self:
        if self.cardinality * self.bottleneck_width > MAX_CHANNELS:
            raise ValueError(
                f"`cardinality` x `bottleneck_width` are {self.cardinality * self.bottleneck_width} channels; at most "
                f"{MAX_CHANNELS}"
            )
        return self

    def bottleneck_channels(self, stage: int) -> int:
        """The inner channels where widths double with each stage."""
        return self.cardinality * self.bottleneck_width << stage

    def stage_channels(self, stage: int) -> int:
        """The output channels where widths double with each stage."""
        return self.output_channels << stage
