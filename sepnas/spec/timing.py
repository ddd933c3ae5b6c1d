"""A measured time, passed from those who measure to those who fit."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SegmentTime:
    """One measured piece of a network: its arithmetic, its kernels, the median of its times."""

    flops: int
    num_kernels: int
    seconds: float
