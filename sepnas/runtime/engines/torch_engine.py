"""What runs a segment on a device: the interface, and torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from sepnas.deployment.engines.kind import EngineKind
from sepnas.errors import DeploymentError
from sepnas.plan.steps import Compute
from sepnas.runtime.engines.batches import CheckedBatches
from sepnas.runtime.engines.shard import Dims, LoadedPlan, Shard
from sepnas.runtime.engines.torch_archive import load_graph
from sepnas.runtime.engines.torch_shapes import GraphShapes
from sepnas.runtime.tensors.codec import Array

if TYPE_CHECKING:
    from torch import Tensor


class Engine(Protocol):
    """Runs the segments of one shard."""

    def prepare_thread(self) -> None:
        """Called once in each thread before it calls :meth:`run`."""

    def run(self, segment: str, inputs: Sequence[Array]) -> Sequence[Array]:
        """The outputs of a segment of the shard, by its key, for a batch: in its order, float32, not written to by
        anyone afterwards."""
        ...


def calls_of_a_pass(shard: Shard, plan: LoadedPlan | None = None) -> list[tuple[str, list[Array]]]:
    """Each segment of a plan, by default the first, with inputs of zeros, one sample: for warming up and for timing."""
    plan, calls = plan or shard.first, []
    for step in plan.program:
        if isinstance(step, Compute):
            inputs: list[Array] = [np.zeros((1, *plan.shapes[name].dims), np.float32) for name in step.inputs]
            calls.append((plan.keys[step.segment], inputs))
    return calls


def check_outputs(path: Path, found: Sequence[Sequence[int]], expected: Sequence[Dims]) -> None:
    """Raise :class:`DeploymentError` where a segment makes other shapes than the manifest says."""
    shapes = [tuple(each) for each in found]
    if shapes != [*expected]:
        raise DeploymentError(
            f"{path}: makes tensors of shapes {_listed(shapes)}, the manifest says {_listed(expected)}; "
            "export the deployment again"
        )


def _listed(shapes: Sequence[Dims]) -> str:
    return ", ".join(map(str, shapes))


class TorchEngine:
    """Segments in torch, on ``threads`` CPU threads; arrays go in and out without copies."""

    def __init__(self, shard: Shard, threads: int = 1, kind: EngineKind | None = None) -> None:
        import torch

        torch.set_num_threads(threads)
        self._torch, self._folder = torch, shard.folder
        self._runners: dict[str, tuple[Callable[..., Sequence[Tensor]], list[Tensor]]] = {}
        self._batches: dict[str, CheckedBatches] = {}
        graphs: dict[str, Any] = {}
        for key, segment in shard.segments.items():
            file = segment.files.files["torch"]
            digest = shard.manifest.files[file].sha256
            if digest not in graphs:  # equal layers have equal graphs
                graphs[digest] = load_graph(shard.folder / file)
            weights = [torch.from_numpy(weight) for weight in segment.weights]
            shapes = GraphShapes(shard.folder / file, graphs[digest], weights, segment.taken)
            check_outputs(shard.folder / file, shapes.made(), segment.made)
            self._batches[key] = CheckedBatches(segment.taken, shapes.check if shapes.depend_on_sizes else None)
            self._runners[key] = (graphs[digest].forward, weights)

    def prepare_thread(self) -> None:
        self._torch.set_flush_denormal(True)  # denormals make a network ten times slower; the mode is a thread's own

    def run(self, segment: str, inputs: Sequence[Array]) -> Sequence[Array]:
        runner, weights = self._runners[segment]
        self._batches[segment].check(inputs)
        with self._torch.inference_mode():
            try:
                tensors = [self._torch.from_numpy(np.ascontiguousarray(array)) for array in inputs]
                return [output.numpy() for output in runner(*tensors, *weights)]
            except Exception as error:  # torch raises whatever it likes here
                raise DeploymentError(
                    f"{self._folder}: torch cannot run segment '{segment}': {type(error).__name__}: {error}"
                ) from error
