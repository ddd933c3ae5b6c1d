"""Builds the plan of an architecture."""

from __future__ import annotations

from sepnas.plan.plan import Plan
from sepnas.separable.architecture import Architecture
from sepnas.separable.lower import lower


def build_plan(architecture: Architecture) -> Plan:
    """Lower an architecture, without steps that cannot affect its answer."""
    return lower(architecture, live=True)
