"""What runs a segment on a device: the interface, and torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from sepnas.deployment.engines.kind import EngineKind
from sepnas.errors import DeploymentError
from sepnas.plan.steps import Compute
from sepnas.runtime.engines.shard import Shard
from sepnas.runtime.engines.torch_archive import load_graph, made_shape
from sepnas.runtime.tensors.codec import Array

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


def shapes_of(shard: Shard) -> dict[str, tuple[tuple[int, ...], tuple[int, ...]]]:
    """Of each segment of the program the shapes of its input and of its output, one sample: ``(1, C, H, W)``."""
    found: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {}
    for step in shard.program:
        if isinstance(step, Compute):
            made, taken = (shard.manifest.shapes[name] for name in (step.output, step.inputs[0]))
            ends = (taken.channels, taken.height, taken.width), (made.channels, made.height, made.width)
            shapes = (1, *ends[0]), (1, *ends[1])
            if len(step.inputs) > 1 or found.setdefault(step.segment, shapes) != shapes:
                raise DeploymentError(f"{shard.folder}: segment '{step.segment}' is run on tensors of different shapes")
    return found


def check_output(path: Path, found: Sequence[int], expected: tuple[int, ...]) -> None:
    """Raise :class:`DeploymentError` where a segment makes another shape than the manifest says."""
    if (*found, *(1,) * (4 - len(found))) != expected:
        raise DeploymentError(
            f"{path}: makes a tensor of shape {tuple(found)}, the manifest says {expected}; export the deployment again"
        )


class TorchEngine:
    """Segments in torch, on ``threads`` CPU threads; arrays go in and out without copies."""

    def __init__(self, shard: Shard, threads: int = 1, kind: EngineKind | None = None) -> None:
        import torch

        torch.set_num_threads(threads)
        self._torch = torch
        self._runners: dict[str, tuple[Callable[..., Sequence[Tensor]], list[Tensor]]] = {}
        graphs: dict[str, Any] = {}
        shapes = shapes_of(shard)
        for name, segment in shard.manifest.segments.items():
            file = segment.files["torch"]
            digest = shard.manifest.files[file].sha256
            if digest not in graphs:  # equal layers have equal graphs
                graphs[digest] = load_graph(shard.folder / file)
            weights = [torch.from_numpy(shard.weights[weight]) for weight in segment.weights]
            if name in shapes:
                made = made_shape(shard.folder / file, graphs[digest], weights, shapes[name][0])
                check_output(shard.folder / file, made, shapes[name][1])
            self._runners[name] = (graphs[digest].forward, weights)

    def prepare_thread(self) -> None:
        self._torch.set_flush_denormal(True)  # denormals make a network ten times slower; the mode is a thread's own

    def run(self, segment: str, inputs: Sequence[Array]) -> Array:
        runner, weights = self._runners[segment]
        with self._torch.inference_mode():
            tensors = [self._torch.from_numpy(np.ascontiguousarray(array)) for array in inputs]
            output: Array = runner(*tensors, *weights)[0].numpy()
        return output
