"""Dropout of devices and messages in training, drawn per image, so that a network tolerates losses.

The losses are drawn for every image in every step. The images of a step lose different devices, so batch norm
statistics describe the same mixture in each step and in evaluation. (If all images of a step lost the same device,
each step would normalise by its own case, and the running statistics of the mixture would fit no case.)
"""

from __future__ import annotations

import torch

from sepnas.nets.outage import Outage
from sepnas.plan.liveness import losable
from sepnas.plan.plan import Plan


def draw_outage(
    plan: Plan,
    batch: int,
    generator: torch.Generator,
    device_dropout: float,
    message_dropout: float,
    device: torch.device | None = None,
) -> Outage | None:
    """Draw losses per sample, with probability ``device_dropout`` per device and ``message_dropout`` per message.

    Never loses all devices, nor a device that alone answers, because training needs an answer.
    Returns an outage on ``device``; None, without drawing, if both are 0.
    """
    if not device_dropout and not message_dropout:
        return None

    def draw(*shape: int, share: float) -> torch.Tensor:
        return (torch.rand(shape, generator=generator) < share).to(device)

    devices_NB = draw(plan.num_devices, batch, share=device_dropout)
    devices_NB[[rank for rank in range(plan.num_devices) if rank not in losable(plan)]] = False
    spared_B = torch.randint(plan.num_devices, (batch,), generator=generator).to(device)
    devices_NB[spared_B, torch.arange(batch)] &= ~devices_NB.all(0)
    tags = sorted(message.tag for message in plan.transfers())
    messages = {tag: draw(batch, share=message_dropout) for tag in tags} if message_dropout else {}
    return Outage(devices_NB, messages)
