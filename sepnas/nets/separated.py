"""Separated networks in torch: their weights, cut from the original's, and the activations that importances need."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sepnas.nets.graph import GraphNetwork
from sepnas.nets.partitioned import PartitionedNetwork
from sepnas.partition.graph import GraphOutput
from sepnas.separation.channels import ChannelMap
from sepnas.separation.network import SeparatedGraph
from sepnas.separation.pieces import Recipe, Selection


def separated_weights(recipe: Recipe, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a separated network, given those of the original by name; gradients reach the original's."""
    return {
        name: torch.from_numpy(each.made()) if isinstance(each, Selection) else each.taken(weights[each.source])
        for name, each in recipe.items()
    }


def separated_network(separated: SeparatedGraph, weights: Mapping[str, Tensor]) -> PartitionedNetwork:
    """A separated network in evaluation, given the weights of the original by name."""
    with torch.no_grad():
        made = {name: each.contiguous() for name, each in separated_weights(separated.recipe, weights).items()}
        return PartitionedNetwork(separated.graph, made).eval()


def as_array(weight: Tensor) -> npt.NDArray[np.generic]:
    """A weight for numpy, which has no bfloat16."""
    found: npt.NDArray[np.generic] = (weight.float() if weight.dtype == torch.bfloat16 else weight).detach().numpy()
    return found


@torch.no_grad()
def mean_squares(
    channels: ChannelMap, weights: Mapping[str, Tensor], samples: Iterable[tuple[Tensor, ...]]
) -> dict[str, npt.NDArray[np.float64]]:
    """The mean square of each channel of each tensor that layers mix, by the tensor's name.

    Each of ``samples`` has the inputs of the network, with a batch of one; without samples there are none.
    """
    names = list(dict.fromkeys(layer.operand for layer in channels.mixing.values()))
    outputs = tuple(GraphOutput(name=f"point{place}", tensor=name) for place, name in enumerate(names))
    network = GraphNetwork(channels.graph.model_copy(update={"outputs": outputs}), weights).eval()
    sums, count = {name: np.zeros(1) for name in names}, 0
    for inputs in samples:
        made = network(*inputs)
        found = made if isinstance(made, dict) else {outputs[0].name: made}
        for output in outputs:
            axis, values = channels.axis(output.tensor), found[output.name].double()
            others = [each for each in range(values.dim()) if each != axis]
            sums[output.tensor] = sums[output.tensor] + values.square().mean(others).numpy()
        count += 1
    return {name: total / count for name, total in sums.items()} if count else {}
