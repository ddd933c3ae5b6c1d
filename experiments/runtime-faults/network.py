"""A network of four devices that all have the classifier, and what it answers without some of them."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from sepnas.deploy.export import export_deployment
from sepnas.nets.separable import SeparableNetwork
from sepnas.separable.architecture import named_architecture
from sepnas.separable.policy import Readout
from sepnas.train.checkpoint import new_network

Logits = npt.NDArray[np.float32]


class Deployed:
    """ResNeXt-20 4x4d over four devices, the hand-made policy, the mean of all logits; random weights."""

    def __init__(self, folder: Path, seed: int) -> None:
        base = named_architecture("resnext20_4x4d", 4, "hand-made")
        policy = base.policy.model_copy(update={"readout": Readout(kind="mean")})
        self.network = new_network(base.model_copy(update={"policy": policy})).eval()
        generator = torch.Generator().manual_seed(seed)
        for name, weights in self.network.named_parameters():
            if name.endswith("classifier.bias"):  # so that another seed is another deployment
                torch.nn.init.normal_(weights, generator=generator)
        self.folder, self.num_devices = folder, 4
        classes = [str(number) for number in range(self.network.architecture.num_classes)]
        mean = (0.0,) * self.network.architecture.in_channels
        manifest = export_deployment(
            self.network, folder, name="faults", classes=classes, mean=mean, std=tuple(1.0 for _ in mean),
            engines=("onnxruntime",),
        )  # fmt: skip
        self.deployment_id = manifest.deployment_id
        self._known: dict[frozenset[int], Logits] = {}

    @cached_property
    def images(self) -> Logits:
        image = self.network.architecture
        shape = (2, image.in_channels, image.image_size, image.image_size)
        return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)

    def logits_without(self, lost: frozenset[int]) -> Logits:
        """The mean of the others' logits, of the network whose policy never heard of those that are lost."""
        if lost not in self._known:
            readers = [rank for rank in range(self.num_devices) if rank not in lost]
            found = [self._logits_of(reader, lost) for reader in readers]
            self._known[lost] = np.mean(found, axis=0, dtype=np.float32)
        return self._known[lost]

    @torch.inference_mode()
    def _logits_of(self, reader: int, lost: frozenset[int]) -> Logits:
        architecture = self.network.architecture
        policy = architecture.policy.without(lost).model_copy(update={"readout": Readout(device=reader)})
        alone = SeparableNetwork(architecture.model_copy(update={"policy": policy})).eval()
        alone.load_state_dict(self.network.state_dict(), strict=False)
        logits: Logits = alone(torch.from_numpy(self.images)).numpy()
        return logits
