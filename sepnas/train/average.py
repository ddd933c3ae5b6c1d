"""An exponential moving average of a network's weights and statistics, by timm, with its state as plain tensors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from sepnas.train.checkpoint import restore_network
from sepnas.train.vision import import_timm

_PREFIX = "ema/"


class WeightAverage:
    """``network`` is the average, in eval mode; :meth:`follow` updates it after a step, faster at first."""

    def __init__(self, network: nn.Module, decay: float) -> None:
        self._ema = import_timm("utils").ModelEmaV3(network, decay=decay, use_warmup=True)

    @property
    def network(self) -> nn.Module:
        module: nn.Module = self._ema.module
        return module

    def follow(self, network: nn.Module, step: int) -> None:
        """Update the average after step number ``step``, counted from 1."""
        self._ema.update(network, step=step)

    def tensors(self) -> dict[str, Tensor]:
        return {_PREFIX + name: value for name, value in self.network.state_dict().items()}

    def restore(self, tensors: Mapping[str, Tensor], where: Path) -> None:
        """Load the average; raises ``CheckpointError`` if tensors are missing or belong to another network."""
        own = {name.removeprefix(_PREFIX): value for name, value in tensors.items() if name.startswith(_PREFIX)}
        restore_network(self.network, own, where)
