"""A measured time, passed from those who measure to those who fit."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SegmentTime:
    """One measured piece of a network: its arithmetic, its kernels, the median of its times."""

    flops: int
    num_kernels: int
    seconds: float


@dataclass(frozen=True, slots=True)
class MessageTime:
    """One measured message: its bytes with the header, the time until its receiver had it, and how sure that is."""

    wire_bytes: int
    seconds: float
    uncertainty_s: float = 0.0
