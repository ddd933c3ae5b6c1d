"""The networks that are split: those of the publications, from torchvision, timm and this file."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

from torch import nn

NETWORKS: dict[str, tuple[str, tuple[int, ...]]] = {
    "alexnet": ("torchvision:alexnet", (3, 224, 224)),
    "vgg16": ("torchvision:vgg16", (3, 224, 224)),
    "resnet50": ("torchvision:resnet50", (3, 224, 224)),
    "yolov2-16": ("networks:yolov2_first_16", (3, 608, 608)),
    "mobilenet-v2": ("torchvision:mobilenet_v2", (3, 224, 224)),
    "efficientnet-b0": ("torchvision:efficientnet_b0", (3, 224, 224)),
    "xception": ("timm:legacy_xception", (3, 299, 299)),
    "c3d": ("networks:c3d", (3, 16, 112, 112)),
    "vit-tiny": ("timm:vit_tiny_patch16_224", (3, 224, 224)),
}
"""Each network's source and the shape of one sample."""

_DARKNET = (32, "M", 64, "M", 128, (64, 1), 128, "M", 256, (128, 1), 256, "M", 512, (256, 1), 512, (256, 1))
"""Layers 0 to 15 of ``yolov2.cfg``: channels of 3x3 convolutions, pairs of channels and kernel, pooling by 2."""


def yolov2_first_16() -> nn.Module:
    """The first 16 layers of YOLOv2 (12 convolutions, 4 poolings), which DeepThings splits."""
    layers: list[nn.Module] = []
    channels = 3
    for layer in _DARKNET:
        if layer == "M":
            layers.append(nn.MaxPool2d(2))
            continue
        assert not isinstance(layer, str)
        outputs, kernel = layer if isinstance(layer, tuple) else (layer, 3)
        convolution = nn.Conv2d(channels, outputs, kernel, padding=kernel // 2, bias=False)
        layers += [convolution, nn.BatchNorm2d(outputs), nn.LeakyReLU(0.1)]
        channels = outputs
    return nn.Sequential(*layers)


def c3d() -> nn.Module:
    """C3D for clips of 16 frames: eight 3x3x3 convolutions, five poolings, three fully connected layers."""
    layers: list[nn.Module] = []
    widths = ((3, 64), (64, 128), (128, 256, 256), (256, 512, 512), (512, 512, 512))
    for stage, channels in enumerate(widths):
        for inputs, outputs in pairwise(channels):
            layers += [nn.Conv3d(inputs, outputs, 3, padding=1), nn.ReLU()]
        kernel = (1, 2, 2) if stage == 0 else (2, 2, 2)
        layers.append(nn.MaxPool3d(kernel, padding=(0, 1, 1) if stage == 4 else 0))
    head = (nn.Linear(8192, 4096), nn.ReLU(), nn.Linear(4096, 4096), nn.ReLU(), nn.Linear(4096, 487))
    return nn.Sequential(*layers, nn.Flatten(), *head)


def imported(name: str, folder: Path) -> Path:
    """The folder of an imported network; imported with random weights if it is not there yet."""
    from sepnas.api import import_network

    source, shape = NETWORKS[name]
    if not (folder / name / "graph.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        import_network(source, folder / name, input_shapes=[shape])
    return folder / name
