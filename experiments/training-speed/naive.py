"""The same network and its training as people write them: group convolutions, PIL images, a DataLoader, fp32."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from sepnas.nets.separable import SeparableNetwork
from sepnas.separable.architecture import Architecture
from sepnas.train.images import ImageData
from sepnas.train.vision import import_torchvision


class BatchedProducts(nn.Conv2d):
    """A 1x1 convolution of groups as a batch of matrix products, one for each image and group."""

    def forward(self, x: Tensor) -> Tensor:
        x = x[:, :, :: self.stride[0], :: self.stride[1]]
        batch, _, height, width = x.shape
        weight = self.weight.view(self.groups, -1, self.weight.shape[1])
        y = torch.matmul(weight, x.reshape(batch, self.groups, self.weight.shape[1], height * width))
        return y.view(batch, self.out_channels, height, width)


def conv_bn(
    inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1, batched: bool = False
) -> nn.Sequential:
    kind = BatchedProducts if batched and kernel == 1 else nn.Conv2d
    conv = kind(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs))


class Block(nn.Module):
    def __init__(
        self, inputs: int, middle: int, outputs: int, cardinality: int, devices: int, stride: int, batched: bool
    ) -> None:
        super().__init__()
        self.reduce = conv_bn(inputs, middle, 1, 1, devices, batched)
        self.group = conv_bn(middle, middle, 3, stride, devices * cardinality)
        self.expand = conv_bn(middle, outputs, 1, 1, devices, batched)
        changes = stride != 1 or inputs != outputs
        self.shortcut = conv_bn(inputs, outputs, 1, stride, devices, batched) if changes else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.group(torch.relu(self.reduce(x))))
        return torch.relu(self.expand(y) + self.shortcut(x))


class NaiveNetwork(nn.Module):
    """A separable network of equal parts, the mean of the logits read out, and the hand-made policy.

    ``batched``: its 1x1 convolutions as batches of matrix products.
    """

    def __init__(self, architecture: Architecture, batched: bool = False) -> None:
        super().__init__()
        part, devices = architecture.parts[0], architecture.num_devices
        self.devices, self.classes = devices, architecture.num_classes
        self.stem = conv_bn(architecture.in_channels, architecture.stem_channels, 3, architecture.stem_stride)
        self.shifts = {
            point.after: (point.transfers[0].destination - point.transfers[0].source) % devices
            for point in architecture.policy.points
        }
        self.blocks, inputs = nn.ModuleList(), architecture.stem_channels
        for block in range(architecture.num_blocks):
            stage = architecture.stage_of(block)
            stride = 2 if block and architecture.stage_of(block - 1) != stage else 1
            middle, outputs = part.bottleneck_channels(stage), part.stage_channels(stage)
            sizes = (devices * inputs, devices * middle, devices * outputs)
            self.blocks.append(Block(*sizes, part.cardinality, devices, stride, batched))
            inputs = outputs
        self.classifier = nn.Conv2d(devices * inputs, devices * self.classes, 1, groups=devices)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x)).repeat(1, self.devices, 1, 1)
        sent, shift = None, 0
        for number, block in enumerate(self.blocks):
            before = x = block(x)
            if sent is not None:
                x = (x + sent.roll(shift * x.shape[1] // self.devices, 1)) / 2
                sent = None
            if number in self.shifts:
                sent, shift = before, self.shifts[number]
        logits = self.classifier(x.mean((2, 3), keepdim=True))
        return logits.view(len(x), self.devices, self.classes).mean(1)

    def take(self, network: SeparableNetwork) -> None:
        """The weights of the separable network, whose parts become groups."""
        parts, layers = [part.state_dict() for part in network.parts], {"0": "conv", "1": "bn"}
        stem = network.stem.layer.state_dict()
        for name, value in self.state_dict().items():
            pieces = name.split(".")
            if pieces[0] == "stem":
                value.copy_(stem[f"{layers[pieces[1]]}.{pieces[2]}"])
            elif pieces[0] == "blocks":
                number, layer, index, kind = pieces[1:]
                tensors = [part[f"{number}.{layer}.{layers[index]}.{kind}"] for part in parts]
                value.copy_(tensors[0] if value.ndim == 0 else torch.cat(tensors))
        heads = [network.heads[str(rank)].classifier for rank in range(self.devices)]
        with torch.no_grad():
            self.classifier.weight.copy_(torch.cat([head.weight for head in heads])[:, :, None, None])
            self.classifier.bias.copy_(torch.cat([head.bias for head in heads]))


class PilImages(Dataset[tuple[Tensor, int]]):
    """CIFAR as torchvision has it: PIL images, and transforms one by one."""

    def __init__(self, data: ImageData) -> None:
        transforms = import_torchvision("transforms")
        self.images = data.train.images.permute(0, 2, 3, 1).numpy()
        self.labels = data.train.labels.tolist()
        self.transform = transforms.Compose(
            [
                transforms.RandomCrop(data.image_size, padding=4),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(data.mean, data.std),
            ]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.images[index])), self.labels[index]


def batches(data: ImageData, batch_size: int, workers: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Without end; ``workers`` processes read ahead."""
    loader = DataLoader(
        PilImages(data), batch_size, shuffle=True, drop_last=True, num_workers=workers,
        pin_memory=torch.cuda.is_available(), persistent_workers=workers > 0,
    )  # fmt: skip
    while True:
        yield from loader
