"""The shapes of all that a segment's graph makes in torch, worked out without computing."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sepnas.deployment.manifest import MAX_PASS_VALUES, WEIGHTS_NAME
from sepnas.errors import DeploymentError
from sepnas.runtime.protocol.connection import MAX_BATCH

if TYPE_CHECKING:
    from torch import Tensor
    from torch.fx import GraphModule

    from sepnas.deployment.engines.graph import ShapeOf


class GraphShapes:
    """What a segment's graph makes of inputs of the shapes ``taken`` (one sample each); ``weights`` come after them."""

    def __init__(self, path: Path, graph: GraphModule, weights: Sequence[Tensor], taken: Sequence[ShapeOf]) -> None:
        self._path, self._graph, self._taken = path, graph, taken
        self._weights = [weight.to("meta") for weight in weights]
        self._sizes: dict[str, int] = {}

    @property
    def depend_on_sizes(self) -> bool:
        """Whether shapes depend on numbers that the graph works out from sizes."""
        return any("sym_size" in str(node.target) for node in self._graph.graph.nodes)

    def made(self) -> list[ShapeOf]:
        """The shapes of the outputs for one sample, after a look at those for as many as there may be.

        Raises :class:`DeploymentError` where the weights do not fit, too much would be allocated, or memory would grow
        faster than the number of samples.
        """
        found = self._checked(1)
        self.check(MAX_BATCH)
        return found

    def check(self, samples: int) -> None:
        """The same for ``samples`` samples."""
        self._checked(samples)

    def _checked(self, samples: int) -> list[ShapeOf]:
        import torch

        try:
            tensors = [torch.empty((samples, *each[1:]), device="meta") for each in self._taken]
            with torch.inference_mode():
                run = _shapes(torch, samples, self._sizes)
                outputs: tuple[Tensor, ...] = run(self._graph).run(*tensors, *self._weights)
            return [tuple(output.shape) for output in outputs]
        except _TooMuchError as error:
            raise DeploymentError(f"{self._path}: refused: it {error}") from None
        except Exception as error:  # torch raises whatever it likes here
            raise DeploymentError(f"{self._path}: does not fit its input or {WEIGHTS_NAME}: {error}") from error


class _TooMuchError(ValueError):
    """A segment that makes more than any should."""


def _shapes(torch: Any, samples: int, sizes: dict[str, int]) -> Any:
    """An interpreter that only works out shapes, for so many samples; ``sizes`` are those of each node for one."""

    class Shapes(torch.fx.Interpreter):  # type: ignore[misc]
        values = 0

        def run_node(self, n: torch.fx.Node) -> Any:
            made = super().run_node(n)
            if n.op != "call_function" or n.target is operator.getitem:
                return made
            tensors = [each for each in _flat(made) if isinstance(each, torch.Tensor)]
            count = sum(each.numel() for each in tensors)
            if samples > 1 and count > samples * sizes[n.name]:
                raise _TooMuchError(f"makes a tensor ({n}) that grows faster than the number of samples")
            if samples == 1:
                sizes[n.name] = count
            self.values += count
            scratch = _scratch(str(n.target), self.fetch_args_kwargs_from_env(n)[0], tensors[0]) if tensors else 0
            if (held := self.values + scratch) > samples * MAX_PASS_VALUES:
                raise _TooMuchError(f"makes tensors of {held:,} values (the last is {n}); at most {MAX_PASS_VALUES:,}")
            return made

    return Shapes


def _flat(made: Any) -> Iterator[Any]:
    """An operator may make several tensors."""
    if isinstance(made, (tuple, list)):
        for each in made:
            yield from _flat(each)
    else:
        yield made


def _scratch(target: str, args: Sequence[Any], made: Tensor) -> int:
    """The values that an operator may hold besides: patches of an input, one group at a time, all weights of
    attention, or factors of products that are copied for each product."""
    if "conv_transpose" in target:
        return int(args[1][0].numel() * args[0][0, 0].numel())
    if "conv" in target:
        return int(args[1][0].numel() * made[0, 0].numel())
    if "attention" in target:
        return int(made[..., 0].numel() * args[1].shape[-2])
    if "matmul" in target and min(args[0].ndim, args[1].ndim) > 2:
        return sum(prod(made.shape[:-2]) * each[(0,) * (each.ndim - 2)].numel() for each in args[:2])
    return 0
