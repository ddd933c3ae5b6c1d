"""The numbers of samples for which a segment's graph has been looked through."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sepnas.deployment.engines.graph import ShapeOf
from sepnas.errors import DeploymentError
from sepnas.runtime.tensors.codec import Array


class CheckedBatches:
    """Looks a graph through once for each number of samples that comes, before it is run.

    ``taken``: the shapes of its inputs, one sample. ``check`` raises :class:`DeploymentError` where a graph would make
    too much of a number of samples; None if no shape depends on sizes, so that the fewest and the most samples tell
    all.
    """

    def __init__(self, taken: Sequence[ShapeOf], check: Callable[[int], None] | None) -> None:
        self._taken, self._check, self._known = [*taken], check, {1}

    def check(self, inputs: Sequence[Array]) -> None:
        """Raises :class:`DeploymentError` for inputs of which the graph would make too much."""
        if self._check is None:
            return
        samples = {x.shape[0] // one[0] for x, one in zip(inputs, self._taken, strict=True) if x.ndim and one[0]}
        if len(samples) != 1:
            raise DeploymentError(f"inputs of shapes {[x.shape for x in inputs]} are not of one number of samples")
        (number,) = samples
        if number not in self._known:
            self._check(number)
            self._known.add(number)
