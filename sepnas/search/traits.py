"""Summaries of a candidate's policy: comparable numbers and a short phrase."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from statistics import fmean

from sepnas.plan.liveness import devices_used
from sepnas.plan.wire import ENCODINGS
from sepnas.search.candidate import Candidate
from sepnas.separable.architecture import Architecture, named_policy
from sepnas.separable.build import build_plan
from sepnas.separable.live_policy import sent_policy
from sepnas.separable.policy import TransmissionPolicy


@dataclass(frozen=True, slots=True)
class PolicyTraits:
    """Traits of the transfers that are sent, without those that cannot reach the answer; empty means are 0.

    ``num_points`` counts the exchange points that the space offers, ``points_used`` those with a transfer;
    ``lag_share`` is the share of transfers with lag 1. ``phrase`` is like ``5 of 9 points, int8, mostly ring``.
    """

    num_transfers: int
    points_used: int
    num_points: int
    mean_fraction: float
    mean_wire_bits: float
    lag_share: float
    phrase: str = ""


def policy_traits(candidate: Candidate) -> PolicyTraits:
    """The traits of a candidate's policy."""
    policy = sent_policy(candidate.architecture)
    transfers = [transfer for point in policy.points for transfer in point.transfers]
    patterns = [
        str(candidate.genotype.get(f"point{point.after}.pattern", "custom")).partition(":")[0]
        for point in policy.points
    ]
    traits = PolicyTraits(
        num_transfers=len(transfers),
        points_used=len(policy.points),
        num_points=_points_offered(candidate),
        mean_fraction=_mean(transfer.fraction for transfer in transfers),
        mean_wire_bits=_mean(ENCODINGS[transfer.wire].bits for transfer in transfers),
        lag_share=_mean(transfer.lag for transfer in transfers),
    )
    if transfers:
        used = f"{traits.points_used} of {traits.num_points} points"
        words = [used, _mostly([transfer.wire for transfer in transfers]), _mostly(patterns)]
        words += ["lagged"] if traits.lag_share == 1 else []
    else:
        words = ["silent", "mean of all"] if policy.readout.kind == "mean" else ["silent"]
    return replace(traits, phrase=", ".join(words))


def used_devices(candidate: Candidate) -> tuple[int, ...]:
    """The devices whose work the answer needs, in order."""
    return devices_used(build_plan(candidate.architecture))


def share_of_all_to_all(candidate: Candidate) -> float | None:
    """Payload bytes relative to the same network under the all-to-all policy, both without dead transfers.

    None for a single device, which never sends.
    """
    baseline = all_to_all_bytes(candidate.architecture)
    return candidate.costs["payload_bytes"] / baseline if baseline else None


def all_to_all_bytes(architecture: Architecture) -> int:
    """Payload bytes of a network under the all-to-all policy, as `sepnas describe` counts them."""
    return _all_to_all_bytes(architecture.model_copy(update={"name": "any", "policy": TransmissionPolicy()}))


@lru_cache(maxsize=256)
def _all_to_all_bytes(network: Architecture) -> int:
    policy = named_policy("all-to-all", network.num_devices, network.depth, network.backbone)
    return build_plan(network.with_policy(policy)).payload_bytes()


def _points_offered(candidate: Candidate) -> int:
    """The number of the space's exchange points within the candidate's depth; all blocks if the genotype has none."""
    found = (re.fullmatch(r"point(\d+)\.pattern", label) for label in candidate.genotype)
    num_blocks = candidate.architecture.num_blocks
    return sum(1 for match in found if match and int(match[1]) < num_blocks) or num_blocks


def _mostly(names: Sequence[str]) -> str:
    [(name, count)] = Counter(names).most_common(1)
    return name if count == len(names) else f"mostly {name}"


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return fmean(found) if found else 0.0
