"""Subsets of a cluster's devices over which a network may be split: equal devices are interchangeable."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

from sepnas.spec.cluster import Cluster, Device

MAX_SUBSETS = 40
"""Of a cluster with more subsets, only those of the fastest devices are taken: one for each number of devices."""


def classes_of(cluster: Cluster, alone_s: Sequence[float]) -> list[list[int]]:
    """Ranks in classes of interchangeable devices; the class that is fastest alone comes first.

    Devices are interchangeable if they differ in their names only, and all links are alike.
    """
    found: dict[object, list[int]] = {}
    alike = all(link.between == "all" for link in cluster.links)
    for rank, device in enumerate(cluster.devices):
        key = _unnamed(device) if alike else str(rank)
        found.setdefault(key, []).append(rank)
    return sorted(found.values(), key=lambda ranks: (alone_s[ranks[0]], ranks))


def _unnamed(device: Device) -> str:
    return device.model_copy(update={"name": ""}).model_dump_json()


def subsets_of(classes: Sequence[Sequence[int]]) -> list[tuple[int, ...]]:
    """Subsets of two or more devices, each with its fastest device first; large ones come last.

    All numbers of devices of each class are taken if there are at most ``MAX_SUBSETS`` of them.
    """
    ordered = [rank for ranks in classes for rank in ranks]
    num_subsets = 1
    for ranks in classes:
        num_subsets *= len(ranks) + 1
    if num_subsets > MAX_SUBSETS:
        return [tuple(ordered[:count]) for count in range(2, len(ordered) + 1)]
    counts = product(*(range(len(ranks) + 1) for ranks in classes))
    taken = (
        tuple(rank for ranks, count in zip(classes, each, strict=True) for rank in ranks[:count]) for each in counts
    )
    return sorted((each for each in taken if len(each) > 1), key=lambda each: (len(each), each))
