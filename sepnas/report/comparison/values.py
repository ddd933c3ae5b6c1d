"""Priced plans and what they are compared with, as plain values."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from sepnas.cost.simulator import Simulation
from sepnas.plan.device_totals import macs_of_device
from sepnas.plan.plan import Plan

Family = Literal["alone", "split", "separable", "plan"]
"""One device alone, an exact split of an imported network, a separable network, or a plan from a file."""


@dataclass(frozen=True, slots=True)
class PricedPlan:
    """One way to run a network on the cluster.

    ``series`` joins ways of one kind in a picture: the name of a scheme, of a search or of a file. ``network`` is the
    network's name. ``accuracy_of`` says where the accuracy comes from.
    """

    family: Family
    network: str
    series: str
    label: str
    num_devices: int
    latency_s: float
    payload_bytes: int
    total_bytes: int
    peak_memory_bytes: int
    macs: int
    accuracy: float | None = None
    accuracy_of: str = ""

    @property
    def key(self) -> str:
        """Marks of the same plan are highlighted together."""
        return f"plan-{self.network}-{self.series}-{self.label}".replace(" ", "-")


@dataclass(frozen=True, slots=True)
class RefusedSplit:
    """A scheme that cannot split the network over this number of devices, with the reason."""

    network: str
    scheme: str
    num_devices: int
    reason: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """All plans on one cluster; ``alone`` has one device alone, with all of its cores, for each network.

    ``threads`` is the number of threads of each device in the other plans.
    """

    cluster: str
    alone: tuple[PricedPlan, ...]
    plans: tuple[PricedPlan, ...]
    refused: tuple[RefusedSplit, ...] = ()
    threads: tuple[int, ...] = ()

    @property
    def everything(self) -> tuple[PricedPlan, ...]:
        return (*self.alone, *self.plans)


def macs_of(plan: Plan) -> int:
    """The multiply-accumulates of all devices for one sample."""
    return sum(macs_of_device(plan, rank) for rank in range(plan.num_devices))


def priced(
    plan: Plan, found: Simulation, family: Family, network: str, series: str, label: str,
    accuracy: tuple[float, str] | None = None,
) -> PricedPlan:  # fmt: skip
    """A plan with the costs of its simulation."""
    return PricedPlan(
        family, network, series, label, sum(map(bool, plan.programs)), found.latency_s, found.payload_bytes,
        found.total_bytes, max(found.peak_memory_bytes), macs_of(plan), *(accuracy or (None, "")),
    )  # fmt: skip


def ratio_of(time_s: float, other_s: float) -> float:
    """How many times as long as the other a time is; 1 if they are equal, also for networks that take no time."""
    if time_s == other_s:
        return 1.0
    return time_s / other_s if other_s else math.inf
