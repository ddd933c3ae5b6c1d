"""From an architecture to the plan that is priced, cut and run."""

from __future__ import annotations

from sepnas.plan.plan import Plan
from sepnas.separable.architecture import Architecture
from sepnas.separable.lower import lower


def build_plan(architecture: Architecture) -> Plan:
    """Lower what the answer of the architecture needs."""
    return lower(architecture, live=True)
