"""A network of a user's own for 8x8 gray images, to be imported: `tests.train.tiny:Tiny`."""

from __future__ import annotations

from torch import Tensor, nn


class Tiny(nn.Sequential):
    """Two convolutions with batch norms, and scores for ten classes."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__(
            *(nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()),
            *(nn.Conv2d(16, 32, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU()),
            *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, classes)),
        )


class Probabilities(Tiny):
    """The same with a last softmax."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).softmax(1)


class Maps(nn.Conv2d):
    """A network whose output is no scores."""

    def __init__(self) -> None:
        super().__init__(1, 10, 3)


class Squeezed(nn.Sequential):
    """A network that ends, as SqueezeNet, with a convolution, an activation and a mean; scores for 7 classes."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 7, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        )


class Halves(nn.Module):
    """A network whose scores are the mean of two layers' scores."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(64, 10), nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(1)
        found: Tensor = (self.first(flat) + self.second(flat)) / 2
        return found
