"""The networks that are run: named policies for 2, 4 and 8 devices, and random ones over the range of bytes."""

from __future__ import annotations

import random
from math import log
from pathlib import Path

import numpy

from sepnas.separable.architecture import Architecture, named_architecture
from sepnas.separable.build import build_plan
from sepnas.separable.patterns import point, star
from sepnas.separable.policy import Readout, TransmissionPolicy
from sepnas.separable.space import SearchSpace

SPACES = Path(__file__).resolve().parent.parent.parent / "search_spaces"
SAMPLES = 1000
SMALL = "resnext20"


def plans_for(cluster: str) -> dict[str, Architecture]:
    """What runs on one of ``clusters.KINDS``, by name.

    Where links are slow the networks are shallow, so that a request of all-to-all ends within seconds.
    """
    depth = "resnext56" if cluster in ("gigabit", "100mbit", "mixed") else SMALL
    found = {
        "2-all-to-all": named_architecture(f"{SMALL}_4x16d", 2, "all-to-all"),
        "2-hand-made": named_architecture(f"{SMALL}_4x16d", 2, "hand-made"),
        "4-none": named_architecture(f"{depth}_4x16d", 4, "none"),
        "4-hand-made": named_architecture(f"{depth}_4x16d", 4, "hand-made"),
        "4-all-to-all": named_architecture(f"{depth}_4x16d", 4, "all-to-all"),
        "4-reduce-broadcast": named_architecture(f"{SMALL}_4x16d", 4, reduce_broadcast(4, SMALL)),
        **spread("4", "uneven" if cluster == "mixed" else "resnext56-full" if depth != SMALL else "uneven", 5),
    }
    if cluster != "gigabit":
        found |= {
            "8-hand-made": named_architecture(f"{SMALL}_8x8d", 8, "hand-made"),
            **spread("8", "eight-devices", 2),
        }
    return found


def reduce_broadcast(num_devices: int, name: str) -> TransmissionPolicy:
    """As tensor parallelism over a root: all send to device 0 after one block, and it to all after the next."""
    blocks = 3 * ((int(name.removeprefix("resnext")) - 2) // 9)
    gather = star(num_devices)
    scatter = tuple((to, source) for source, to in gather)
    points = tuple(point(block, gather if block % 2 == 0 else scatter) for block in range(blocks))
    return TransmissionPolicy(points=points, readout=Readout(kind="mean"))


def spread(prefix: str, space_name: str, count: int) -> dict[str, Architecture]:
    """Random architectures of a space at even steps of the logarithm of their bytes."""
    space, draw = SearchSpace.load(SPACES / f"{space_name}.yaml"), random.Random(0).randrange
    drawn = [space.architecture_of(space.sample_spread(draw)) for _ in range(SAMPLES)]
    sized = [(size, each) for each in drawn if (size := build_plan(each).payload_bytes())]
    low, high = numpy.percentile([size for size, _ in sized], (2, 98))
    found: dict[str, Architecture] = {}
    for number, target in enumerate(numpy.geomspace(low, high, count)):
        nearest = min(sized, key=lambda one: abs(log(one[0] / target)))
        sized.remove(nearest)
        found[f"{prefix}-random-{number}"] = nearest[1]
    return found
