"""What a deployment and its plans are known by.

A deployment is its network and its trained weights: another plan over them is no other deployment. A plan is its steps
and the tensors that it computes with, so that two devices which agree on its digest run the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from sepnas.deploy.segments import segment_weights
from sepnas.deployment.manifest import canonical_digest
from sepnas.deployment.network_facts import NetworkFacts
from sepnas.plan.document import PlanDocument
from sepnas.plan.plan import Plan


def deployment_identity(network: nn.Module, facts: NetworkFacts) -> str:
    """The digest of a trained network: of its inputs and outputs, and of its weights."""
    return canonical_digest({"network": facts.model_dump(mode="json"), "weights": _digests(segment_weights(network))})


def plan_digest(plan: Plan, tensors: Sequence[Mapping[str, Tensor]]) -> str:
    """The digest of a plan and of the ``tensors`` that each device computes with under it, by name."""
    return canonical_digest({"plan": PlanDocument.of(plan).to_data(), "weights": list(map(_digests, tensors))})


def _digests(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    return {name: _digest(tensor) for name, tensor in sorted(tensors.items())}


def _digest(tensor: Tensor) -> str:
    array = tensor.detach().contiguous().cpu().numpy()
    return hashlib.sha256(f"{array.dtype} {array.shape} ".encode() + array.tobytes()).hexdigest()
