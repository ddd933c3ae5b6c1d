"""Operators: the computations of an engine's single calls, the unit in which devices are measured."""

from __future__ import annotations

from dataclasses import dataclass

from sepnas.spec.device_profile import OperatorKind

_WEIGHTED = ("conv", "linear")


@dataclass(frozen=True, slots=True)
class Operator:
    """The computation of a single call of an engine, for one sample: the unit in which devices are measured.

    ``conv`` includes its batch norm and activation, ``linear`` its bias; ``add`` is the residual's addition with its
    activation; ``pool`` is the mean over windows of ``kernel`` (for a global mean, ``kernel`` and ``stride`` are the
    side of the input), ``max-pool`` their maximum. ``height`` and ``width`` are those of the output.
    """

    kind: OperatorKind
    in_channels: int
    out_channels: int
    kernel: int = 1
    stride: int = 1
    groups: int = 1
    height: int = 1
    width: int = 1

    @property
    def macs(self) -> int:
        """Multiply-accumulates; elementwise operators, means and maxima have none."""
        return self.num_weights * self.height * self.width

    @property
    def num_weights(self) -> int:
        """Weights without biases."""
        if self.kind not in _WEIGHTED:
            return 0
        return self.in_channels * self.out_channels * self.kernel**2 // self.groups

    @property
    def input_values(self) -> int:
        """Values of one input; its side is taken as ``stride`` times the output's."""
        return self.in_channels * self.height * self.width * self.stride**2

    @property
    def output_values(self) -> int:
        return self.out_channels * self.height * self.width

    @property
    def values_moved(self) -> int:
        """Values read or written: inputs, output, weights."""
        inputs = self.input_values * (2 if self.kind == "add" else 1)
        biases = self.out_channels if self.num_weights else 0
        return inputs + self.output_values + self.num_weights + biases
