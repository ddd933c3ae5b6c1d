"""Training of the supernet: the sandwich rule with in-place distillation.

Each step trains the largest architecture on the labels, and the smallest and a few random ones on the largest's outputs
(arXiv 1903.05134): the extremes of the space bound all others. The smallest draws its read-out at random, because the
head of every device that may answer must be trained to answer alone. Dropout of devices or messages applies to the
students only, so they learn from the answer of all devices together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from sepnas.nets.separable import planned
from sepnas.separable.architecture import Architecture
from sepnas.separable.space import SearchSpace
from sepnas.train.dropout import draw_outage


class SandwichStep:
    """One training step over a space, for ``train_network``.

    ``step(network, images_BCHW, labels_B, generator)`` returns the mean loss of ``num_random + 2`` architectures, so
    that a learning rate means the same as for one network. All draws use ``generator``, so a resumed training repeats
    them. ``device_dropout`` and ``message_dropout`` are as in :func:`draw_outage`.
    """

    def __init__(
        self, space: SearchSpace, num_random: int = 2, device_dropout: float = 0.0, message_dropout: float = 0.0
    ) -> None:
        self.space, self.num_random = space, num_random
        self.device_dropout, self.message_dropout = device_dropout, message_dropout
        self.largest = space.architecture_of(space.largest())

    def __call__(self, network: nn.Module, images_BCHW: Tensor, labels_B: Tensor, generator: torch.Generator) -> Tensor:
        teacher_BK = network(images_BCHW, self.largest)
        losses = [functional.cross_entropy(teacher_BK, labels_B)]
        target_BK = teacher_BK.detach().softmax(dim=1)
        for student in self.students(generator):
            # The gradient equals that of the KL divergence, because the target's entropy is constant.
            outage = draw_outage(
                planned(student).schedule.plan,
                len(labels_B),
                generator,
                self.device_dropout,
                self.message_dropout,
                images_BCHW.device,
            )
            losses.append(functional.cross_entropy(network(images_BCHW, student, outage), target_BK))
        return torch.stack(losses).mean()

    def students(self, generator: torch.Generator) -> Sequence[Architecture]:
        """The smallest architecture with a random read-out, and ``num_random`` random architectures."""
        readouts = self.space.policy.readouts
        readout = readouts[_draw(generator)(len(readouts))]
        smallest = self.space.architecture_of(self.space.smallest() | {"readout": readout})
        return [smallest, *(random_architecture(self.space, generator) for _ in range(self.num_random))]


def random_architecture(space: SearchSpace, generator: torch.Generator) -> Architecture:
    """A random architecture of the space, sampled to spread over the range of bytes."""
    return space.architecture_of(space.sample_spread(_draw(generator)))


def _draw(generator: torch.Generator) -> Callable[[int], int]:
    return lambda count: int(torch.randint(count, (), generator=generator))
