"""Training with devices and messages that are lost, each image losing its own, so that a network can do without them.

Drawn anew for every image of every step. The images of a step lose different devices, so a batch norm's statistics are
those of the mixture, of the same shares in each step and in evaluation. (Were a step to lose the same device for all
its images, each would be normalised by its own kind, and the running statistics, a mixture, would fit none of them.)
"""

from __future__ import annotations

import torch

from sepnas.nets.outage import LOGITS, Message, Outage
from sepnas.separable.architecture import Architecture


def draw_outage(
    architecture: Architecture,
    batch: int,
    generator: torch.Generator,
    device_dropout: float,
    message_dropout: float,
    device: torch.device | None = None,
) -> Outage | None:
    """Each device is lost with ``device_dropout`` in each sample, each message with ``message_dropout``; on ``device``.

    Never all devices, and never the one that alone has the classifier: without it there is no answer to learn from.
    None, and nothing drawn, where both are 0.
    """
    if not device_dropout and not message_dropout:
        return None

    def draw(*shape: int, share: float) -> torch.Tensor:
        return (torch.rand(shape, generator=generator) < share).to(device)

    num_devices, policy = architecture.num_devices, architecture.policy
    devices_NB = draw(num_devices, batch, share=device_dropout)
    if policy.readout.kind == "device":
        devices_NB[policy.readout.device] = False
    spared_B = torch.randint(num_devices, (batch,), generator=generator).to(device)
    devices_NB[spared_B, torch.arange(batch)] &= ~devices_NB.all(0)
    names: list[Message] = [
        (point.after, transfer.source, transfer.destination) for point in policy.points for transfer in point.transfers
    ]
    if policy.readout.kind == "mean":
        reader = policy.readout.device
        names += [(LOGITS, rank, reader) for rank in range(num_devices) if rank != reader]
    messages = {name: draw(batch, share=message_dropout) for name in names} if message_dropout else {}
    return Outage(devices_NB, messages)
