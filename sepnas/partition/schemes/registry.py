"""The registry of schemes: each module of this package with a ``SCHEME`` defines one."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import sepnas.partition.schemes
from sepnas.errors import PlanError, SpecError
from sepnas.partition.graph import Graph
from sepnas.partition.lowering import lower
from sepnas.partition.schemes.scheme import Scheme, whole_on
from sepnas.plan.plan import Plan
from sepnas.plan.wire import UNCONVERTED, WIRE_FORMATS, WireFormat
from sepnas.registered import find_registered
from sepnas.spec.document import short

SCHEMES: Mapping[str, Scheme] = find_registered(sepnas.partition.schemes, "SCHEME")
"""All schemes by name, in their order."""

_MAX_SHARE = 1e18
"""Sums of larger shares would be infinite."""


def on_one_device(graph: Graph, device: int, num_devices: int) -> Plan:
    """The plan in which one device computes the whole network: no split at all."""
    return lower(graph, whole_on(graph, device), num_devices)


def partition(graph: Graph, scheme: str, shares: Sequence[float], wire: WireFormat = UNCONVERTED) -> Plan:
    """The plan of a graph that a scheme splits over as many devices as there are ``shares``.

    Raises :class:`SpecError` for an unknown scheme or shares that are not positive, :class:`PlanError` if the scheme
    cannot give each device a part of this network.
    """
    if scheme not in SCHEMES:
        raise SpecError(f"scheme {short(scheme)} is none of {', '.join(SCHEMES)}")
    if wire not in WIRE_FORMATS:
        raise SpecError(f"wire format {short(wire)} is none of {', '.join(WIRE_FORMATS)}")
    if not shares or not all(0 < share <= _MAX_SHARE for share in shares):
        raise SpecError(
            f"`shares` must be one positive number for each device, at most {_MAX_SHARE:g}, got {short(list(shares))}"
        )
    layouts = SCHEMES[scheme].layouts(graph, shares)
    working = {device for layout in layouts.values() for device in layout.devices}
    _check_all_work(graph, scheme, working, len(shares))
    try:
        plan = lower(graph, layouts, len(shares), wire)
    except PlanError as error:
        raise PlanError(
            f"scheme {scheme} cannot split network '{graph.name}' over {len(shares)} devices: {error}"
        ) from None
    _check_all_work(graph, scheme, {rank for rank, segments in enumerate(plan.segments) if segments}, len(shares))
    return plan


def _check_all_work(graph: Graph, scheme: str, working: Collection[int], num_devices: int) -> None:
    idle = [rank for rank in range(num_devices) if rank not in working]
    if idle:
        raise PlanError(
            f"scheme {scheme} finds work for {len(working)} of {num_devices} devices in network '{graph.name}': "
            f"device {idle[0]} gets no part of any operator; take fewer devices or another scheme"
        )
