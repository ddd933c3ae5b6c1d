"""The distance between feature maps in a student's and a teacher's graph, computed with each batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sepnas.errors import SpecError, TrainingError
from sepnas.nets.trainable import TrainableGraph
from sepnas.options import option
from sepnas.partition.graph import Graph
from sepnas.separation.document import Separation
from sepnas.separation.network import map_parts
from sepnas.spec.document import few


@dataclass(frozen=True, eq=False)
class MapPair:
    """A student's map ``own``, compared with ``channels`` of the teacher's map ``taught``; None stands for all."""

    own: str
    taught: str
    channels: Tensor | None = None

    def gap(self, own_BCHW: Tensor, taught_BCHW: Tensor) -> Tensor:
        """The mean squared difference, relative to the mean square of the teacher's map, of all channels."""
        wanted = taught_BCHW if self.channels is None else taught_BCHW.index_select(1, self.channels)
        return (own_BCHW - wanted).square().mean() / taught_BCHW.square().mean().clamp_min(1e-12)


class FeatureGap:
    """Compares a student's feature maps with those of teachers that have the same graph, perhaps with other weights.

    With a ``separation``, the student is what a teacher's graph was separated into: each device's part of a map is
    compared with the original's same channels. Maps of tiled layers are exact, and left out.

    Raises :class:`TrainingError` if there is nothing to compare with a teacher.
    """

    def __init__(
        self,
        student: Graph,
        teachers: Sequence[TrainableGraph],
        device: torch.device,
        separation: Separation | None = None,
    ) -> None:
        self._teachers = [each.to(device).eval().requires_grad_(False) for each in teachers]
        self._pairs = [_pairs(student, each.graph, separation, device) for each in self._teachers]

    def answer(self, network: TrainableGraph, images_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """The student's logits, and the gap: the mean over all pairs of maps."""
        output = network.graph.outputs[0].tensor
        own = dict.fromkeys(pair.own for pairs in self._pairs for pair in pairs)
        found = network.tensors((images_BCHW,), [output, *own])
        gaps = []
        for teacher, pairs in zip(self._teachers, self._pairs, strict=True):
            with torch.no_grad():
                wanted = teacher.tensors((images_BCHW,), list(dict.fromkeys(pair.taught for pair in pairs)))
            gaps += [pair.gap(found[pair.own].float(), wanted[pair.taught].float()) for pair in pairs]
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


def _pairs(student: Graph, teacher: Graph, separation: Separation | None, device: torch.device) -> list[MapPair]:
    """The maps to compare: of the same names, or else the devices' parts of the teacher's."""
    same = [name for name in last_maps(student) if teacher.tensors.get(name) == student.tensors[name]]
    if same:
        return [MapPair(name, name) for name in same]
    if separation is None:
        raise TrainingError(
            "`distillation.features` compares feature maps of the same names, and the teacher has none of the "
            "student's; set it to 0, or take the network as teacher that the student was made from"
        )
    try:
        parts = map_parts(teacher, separation)
    except SpecError as error:
        raise TrainingError(
            f"`distillation.features` compares the devices' parts of feature maps with those of the network that was "
            f"separated, which the teacher is not; set it to 0, or take that network as teacher ({error})"
        ) from None
    names = last_maps(teacher)
    found = [
        MapPair(each.name, name, torch.from_numpy(each.order).to(device))
        for name in names for each in parts.get(name, ()) if each.name in student.tensors
    ]  # fmt: skip
    if not found:
        raise TrainingError(
            "`distillation.features` compares the devices' parts of the last feature map of each size, and they have "
            f"none of {few(names) or 'any size'}: maps of tiled layers are exact; set it to 0, or separate the network "
            f"again with {option('--tiles-until', 'tiles_until=')} an earlier layer"
        )
    return found
