"""What runs a segment on a device: the interface, and torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from sepnas.plan.steps import Compute
from sepnas.runtime.codec import Array
from sepnas.runtime.graphs import load_graph
from sepnas.runtime.shard import Shard

if TYPE_CHECKING:
    from torch import Tensor


class Engine(Protocol):
    """Runs the segments of one shard."""

    def prepare_thread(self) -> None:
        """Called once in each thread before it calls :meth:`run`."""

    def run(self, segment: str, inputs: Sequence[Array]) -> Array:
        """The output of a segment for a batch; float32, not written to by anyone afterwards."""
        ...


def calls_of_a_pass(shard: Shard) -> list[tuple[str, list[Array]]]:
    """Each segment of the program with inputs of zeros, one sample: for warming up and for timing."""
    calls = []
    for step in shard.program:
        if isinstance(step, Compute):
            shapes = [shard.manifest.shapes[name] for name in step.inputs]
            inputs: list[Array] = [np.zeros((1, s.channels, s.height, s.width), np.float32) for s in shapes]
            calls.append((step.segment, inputs))
    return calls


class TorchEngine:
    """Segments in torch, on ``threads`` CPU threads; arrays go in and out without copies."""

    def __init__(self, shard: Shard, threads: int = 1) -> None:
        import torch

        torch.set_num_threads(threads)
        self._torch = torch
        self._runners: dict[str, tuple[Callable[..., Sequence[Tensor]], list[Tensor]]] = {}
        graphs: dict[str, Any] = {}
        for name, segment in shard.manifest.segments.items():
            file = segment.files["torch"]
            digest = shard.manifest.files[file].sha256
            if digest not in graphs:  # equal layers have equal graphs
                graphs[digest] = load_graph(shard.folder / file)
            weights = [torch.from_numpy(shard.weights[weight]) for weight in segment.weights]
            self._runners[name] = (graphs[digest].forward, weights)

    def prepare_thread(self) -> None:
        self._torch.set_flush_denormal(True)  # denormals make a network ten times slower; the mode is a thread's own

    def run(self, segment: str, inputs: Sequence[Array]) -> Array:
        runner, weights = self._runners[segment]
        with self._torch.inference_mode():
            tensors = [self._torch.from_numpy(np.ascontiguousarray(array)) for array in inputs]
            output: Array = runner(*tensors, *weights)[0].numpy()
        return output
