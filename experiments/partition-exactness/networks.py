"""The networks that are split: by their source, at a size that one core computes in under a second."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sepnas.partition.graph import Graph
from sepnas.partition.trace.program import Weights, trace
from sepnas.train.vision import import_timm, import_torchvision

SEED = 0


@dataclass(frozen=True)
class Network:
    """A network of a library or of this file, and the shape of one input."""

    source: str
    shape: tuple[int, ...]

    def traced(self) -> tuple[Graph, Weights]:
        """The graph with random weights."""
        torch.manual_seed(SEED)
        module = _made(self.source).eval()
        _spread(module)
        return trace(module, [torch.randn(1, *self.shape)], name=self.source.partition(":")[2], source=self.source)


def _made(source: str) -> nn.Module:
    library, _, name = source.partition(":")
    if library == "own":
        return OWN[name]()
    if library == "timm":
        import_timm("models")
        module: nn.Module = importlib.import_module("timm").create_model(name)
        return module
    options = {"weights_backbone": None} if "raspp" in name or "deeplab" in name else {}
    found: nn.Module = import_torchvision("models").get_model(name, weights=None, **options)
    return found


def _spread(module: nn.Module) -> None:
    """Statistics and scales as training leaves them: all different, and no answer that is nearly zero."""
    generator = torch.Generator().manual_seed(SEED)
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if name.endswith("running_var") or (tensor.dim() == 1 and name.endswith(("weight", "gamma"))):
            tensor.data.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
        elif name.endswith(("bias", "running_mean")):
            tensor.data.copy_(0.1 * torch.randn(tensor.shape, generator=generator))


class C3D(nn.Module):
    """C3D (Tran et al.) at an eighth of its widths: eight 3-D convolutions, five poolings, three layers."""

    def __init__(self, width: int = 8, classes: int = 101) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = 3
        for place, (outputs, count) in enumerate(((1, 1), (2, 1), (4, 2), (8, 2), (8, 2))):
            for _ in range(count):
                layers += [nn.Conv3d(inputs, outputs * width, 3, padding=1), nn.ReLU()]
                inputs = outputs * width
            window = (1, 2, 2) if place == 0 else 2
            layers.append(nn.MaxPool3d(window, window, padding=(0, 1, 1) if place == 4 else 0))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(
            nn.Linear(8 * width * 4 * 4, 64 * width), nn.ReLU(), nn.Linear(64 * width, 64 * width), nn.ReLU(),
            nn.Linear(64 * width, classes),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.classifier(self.features(x).flatten(1))
        return found


class UNet(nn.Module):
    """U-Net of three levels, with transposed convolutions and skips; its answer is a map."""

    def __init__(self, width: int = 16, classes: int = 5) -> None:
        super().__init__()
        widths = (width, 2 * width, 4 * width)
        self.down = nn.ModuleList(_twice(i, o) for i, o in zip((3, *widths[:-1]), widths, strict=True))
        self.up = nn.ModuleList(nn.ConvTranspose2d(2 * w, w, 2, stride=2) for w in widths[-2::-1])
        self.join = nn.ModuleList(_twice(2 * w, w) for w in widths[-2::-1])
        self.head = nn.Conv2d(width, classes, 1)
        self.pool = nn.MaxPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        skips: list[Tensor] = []
        for place, block in enumerate(self.down):
            x = block(self.pool(x) if place else x)
            skips.append(x)
        for up, join, skip in zip(self.up, self.join, skips[-2::-1], strict=True):
            x = join(torch.cat([skip, up(x)], dim=1))
        found: Tensor = self.head(x)
        return found


def _twice(inputs: int, outputs: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for taken in (inputs, outputs):
        layers += [nn.Conv2d(taken, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers)


def _depthwise() -> nn.Module:
    """Two blocks of MobileNet: a depthwise convolution, and one over channels."""
    layers: list[nn.Module] = [nn.Conv2d(3, 16, 3, stride=2, padding=1), nn.ReLU()]
    for _ in range(2):
        layers += [nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.ReLU(), nn.Conv2d(16, 16, 1), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))


OWN: dict[str, Callable[[], nn.Module]] = {"c3d_small": C3D, "unet_small": UNet, "depthwise_small": _depthwise}

NETWORKS = (
    Network("torchvision:alexnet", (3, 95, 95)),
    Network("torchvision:vgg16", (3, 64, 64)),
    Network("torchvision:resnet18", (3, 96, 96)),
    Network("torchvision:resnet50", (3, 96, 96)),
    Network("torchvision:mobilenet_v2", (3, 96, 96)),
    Network("torchvision:efficientnet_b0", (3, 96, 96)),
    Network("timm:legacy_xception", (3, 107, 107)),
    Network("timm:vit_tiny_patch16_224", (3, 224, 224)),
    Network("timm:swin_tiny_patch4_window7_224", (3, 224, 224)),
    Network("timm:convnext_tiny", (3, 96, 96)),
    Network("torchvision:lraspp_mobilenet_v3_large", (3, 96, 96)),
    Network("own:unet_small", (3, 64, 64)),
    Network("torchvision:r3d_18", (3, 8, 48, 48)),
    Network("own:c3d_small", (3, 16, 112, 112)),
)
