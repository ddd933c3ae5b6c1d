"""Measures block times of the network family on this machine, the basis of a cluster's compute rate."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator

import torch

from sepnas.nets.separable import SeparableNetwork
from sepnas.separable.architecture import Architecture, DevicePart
from sepnas.separable.layers import device_layers
from sepnas.spec.timing import SegmentTime

# from blocks dominated by overhead to blocks dominated by arithmetic
WIDTHS = (2, 8, 16, 32)
IMAGE_SIZES = (8, 16, 32)


def time_blocks(repeats: int = 15, threads: int = 1) -> Iterator[SegmentTime]:
    """Median times of stem, blocks and head for several widths and image sizes, at batch 1 in eager torch."""
    threads_before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.inference_mode():
            for image_size in IMAGE_SIZES:
                for width in WIDTHS:
                    yield from _time_network(width, image_size, repeats)
    finally:
        torch.set_num_threads(threads_before)


def _time_network(width: int, image_size: int, repeats: int) -> Iterator[SegmentTime]:
    part = DevicePart(bottleneck_width=width, output_channels=4 * width)
    architecture = Architecture(depth=11, image_size=image_size, num_classes=10, parts=(part,))
    network = SeparableNetwork(architecture).eval()
    x_BCHW = torch.rand(1, architecture.in_channels, image_size, image_size)
    for layer in device_layers(architecture, 0):
        module = network.segment(0, (layer.name,))
        run = lambda module=module, x=x_BCHW: module(x)  # noqa: E731
        yield SegmentTime(2 * layer.macs, layer.num_kernels, _median_seconds(run, repeats))
        x_BCHW = module(x_BCHW)


def _median_seconds(run: Callable[[], object], repeats: int) -> float:
    for _ in range(3):
        run()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return statistics.median(times)
