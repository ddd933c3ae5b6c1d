"""The numbers by which a device normalises the images that the client sends it as bytes."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from sepnas.deployment.network_facts import NetworkFacts
from sepnas.plan.plan import Plan


def normalisations(plan: Plan, rank: int, facts: NetworkFacts) -> Iterator[tuple[str, Tensor]]:
    """Name, and means and deviations ``(2, channels)``, of each piece of an image that device ``rank`` receives."""
    for port in plan.inputs:
        image = facts.inputs[port.name].image
        for piece in port.pieces:
            name = port.normalisation(piece)
            if piece.device == rank and name is not None and image is not None:
                channels = slice(*port.channels(piece))
                yield name, torch.tensor([image.mean[channels], image.std[channels]], dtype=torch.float32)
