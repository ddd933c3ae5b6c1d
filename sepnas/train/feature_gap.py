"""The distance between tensors of the same names in a student's and a teacher's graph, computed with each batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sepnas.errors import TrainingError
from sepnas.nets.trainable import TrainableGraph
from sepnas.partition.graph import Graph


class FeatureGap:
    """Compares a student's feature maps with those of teachers that have the same graph, perhaps with other weights.

    Raises :class:`TrainingError` if a teacher has no map of the same name and size.
    """

    def __init__(self, student: Graph, teachers: Sequence[TrainableGraph], device: torch.device) -> None:
        self._teachers = [each.to(device).eval().requires_grad_(False) for each in teachers]
        self.names = last_maps(student)
        for each in self._teachers:
            self.names = [n for n in self.names if each.graph.tensors.get(n) == student.tensors[n]]
        if not self.names:
            raise TrainingError(
                "`distillation.features` compares feature maps of the same names, and the teacher has none of the "
                "student's; set it to 0, or take the network as teacher that the student was made from"
            )

    def answer(self, network: TrainableGraph, images_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """The student's logits, and the gap: mean squared differences, relative to the teacher's mean squares."""
        output = network.graph.outputs[0].tensor
        found = network.tensors((images_BCHW,), [output, *self.names])
        gaps = []
        for teacher in self._teachers:
            with torch.no_grad():
                wanted = teacher.tensors((images_BCHW,), self.names)
            gaps += [_relative_gap(found[name].float(), wanted[name].float()) for name in self.names]
        return found[output], torch.stack(gaps).mean()


def last_maps(graph: Graph) -> list[str]:
    """The last feature map of each size, in order: those before a layer that makes smaller ones."""
    found: dict[tuple[int, ...], str] = {}
    for node in graph.nodes:
        for name in node.outputs:
            tensor = graph.tensors[name]
            if tensor.axes.startswith("NC") and len(tensor.dims) > 2 and max(tensor.dims[2:]) > 1:
                found[tensor.dims[2:]] = name
    return list(found.values())


def _relative_gap(own: Tensor, other: Tensor) -> Tensor:
    return (own - other).square().mean() / other.square().mean().clamp_min(1e-12)
