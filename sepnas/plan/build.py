"""From an architecture to the plan that is priced, cut and run."""

from __future__ import annotations

from sepnas.plan.liveness import prune
from sepnas.plan.lower import lower
from sepnas.plan.steps import Plan
from sepnas.spec.architecture import Architecture


def build_plan(architecture: Architecture) -> Plan:
    """Lower the architecture and drop what the answer does not need."""
    return prune(lower(architecture))
