"""Tensor parallelism by DTensor over gloo.

Variant ``as-it-is`` hands the network over; ``rewritten`` is what DTensor can do for it, by hand, as Megatron does for
attention: 1x1 convolutions become linear layers over channels, split by outputs before and by inputs after the group
convolution, of which each process has its own groups, and one all-reduce ends each block.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from contestant import Job, follow_group, followers, join_group
from measure import Array, Asking
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.nn.utils.fusion import fuse_conv_bn_eval

from sepnas.nets.blocks import ConvBlock


@contextmanager
def asking(job: Job) -> Iterator[Asking]:
    with followers(job):
        network = make_network(job)

        @torch.no_grad()  # in inference mode DTensor finds its shardings anew at each call: 2.5 times as slow
        def ask(images: Array) -> Array:
            x_BCHW = torch.from_numpy(images)
            dist.broadcast(x_BCHW, 0)
            logits: Array = network(x_BCHW).numpy()
            return logits

        yield Asking(ask)


@torch.no_grad()  # in inference mode DTensor finds its shardings anew at each call: 2.5 times as slow
def follow(job: Job) -> None:
    follow_group(make_network(job))


def make_network(job: Job) -> nn.Module:
    join_group(job)
    mesh = init_device_mesh("cpu", (job.processes,))
    layers = job.original()
    if job.variant == "as-it-is":
        convolutions = [name for name, layer in layers.named_modules() if isinstance(layer, nn.Conv2d)]
        return parallelize_module(layers, mesh, {name: ColwiseParallel() for name in convolutions})
    for name, layer in layers.named_children():
        if isinstance(layer, ConvBlock) and name != "stem":
            setattr(layers, name, SplitBottleneck(layer, mesh))
    return layers


class SplitBottleneck(nn.Module):
    """One process's share of a block: all inputs and outputs ``(B, C, H, W)``, some of the groups."""

    def __init__(self, block: ConvBlock, mesh: DeviceMesh) -> None:
        super().__init__()
        self.reduce, self.expand = as_linear(block.reduce), as_linear(block.expand)
        self.group = own_groups(block.group, mesh.get_local_rank(), mesh.size())
        self.shortcut = block.shortcut
        parallelize_module(self, mesh, {"reduce": ColwiseParallel(), "expand": RowwiseParallel()})

    def forward(self, x_BCHW: Tensor) -> Tensor:
        y_BHWC = torch.relu(self.reduce(x_BCHW.permute(0, 2, 3, 1)))
        y_BCHW = torch.relu(self.group(y_BHWC.permute(0, 3, 1, 2)))
        y_BHWC = self.expand(y_BCHW.permute(0, 2, 3, 1))
        return torch.relu(y_BHWC.permute(0, 3, 1, 2) + self.shortcut(x_BCHW))


def as_linear(conv_bn: nn.Sequential) -> nn.Linear:
    conv = fuse_conv_bn_eval(conv_bn.conv, conv_bn.bn)
    linear = nn.Linear(conv.in_channels, conv.out_channels)
    linear.weight.data, linear.bias.data = conv.weight.data[:, :, 0, 0].contiguous(), conv.bias.data
    return linear


def own_groups(conv_bn: nn.Sequential, rank: int, processes: int) -> nn.Conv2d:
    conv = fuse_conv_bn_eval(conv_bn.conv, conv_bn.bn)
    channels = conv.out_channels // processes
    own = nn.Conv2d(
        channels, channels, conv.kernel_size, conv.stride, conv.padding, groups=conv.groups // processes
    )  # fmt: skip
    mine = slice(rank * channels, (rank + 1) * channels)
    own.weight.data, own.bias.data = conv.weight.data[mine].clone(), conv.bias.data[mine].clone()
    return own
