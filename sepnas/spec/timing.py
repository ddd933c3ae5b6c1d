"""Measured times, passed from the measurement to the fit."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SegmentTime:
    """One measured piece of a network: its FLOPs, its kernels, and its median time."""

    flops: int
    num_kernels: int
    seconds: float


@dataclass(frozen=True, slots=True)
class MessageTime:
    """One measured message: its bytes with the header, its time until the receiver had it, and the uncertainty."""

    wire_bytes: int
    seconds: float
    uncertainty_s: float = 0.0
