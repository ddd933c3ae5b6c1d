"""The contract of a merge rule: devices, training, and training with lost devices compute the same result."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pytest

from sepnas.plan.merge_rules import MERGERS, MergeRule
from sepnas.plan.merges import merge, merge_problem
from sepnas.plan.shapes import Shape
from sepnas.plan.steps import Merge

_Array = npt.NDArray[np.float32]
_CHANNELS = 5


class MergeRuleContract:
    """Fixture: ``rule`` is the rule's name."""

    @pytest.fixture
    def rule(self) -> MergeRule:
        raise NotImplementedError("override the fixture `rule`")

    def test_the_result_has_the_shape_of_the_own_tensor(self, rule: MergeRule) -> None:
        """Messages hold the first channels only; the result has the shape of the own tensor, and inputs stay."""
        for own, received in _inputs():
            before = [array.copy() for array in (own, *received)]
            step = _step(rule, len(received))
            assert merge_problem(step, _shape(own), [_shape(array) for array in (own, *received)]) is None
            assert _on_a_device(rule, own, received).shape == own.shape
            for array, kept in zip((own, *received), before, strict=True):
                np.testing.assert_array_equal(array, kept)

    def test_channels_that_nothing_reaches_stay(self, rule: MergeRule) -> None:
        """A channel keeps the device's own values if no message holds it, or if its weights for all messages are 0."""
        for own, received in _inputs():
            widest = max(array.shape[1] for array in received)
            weights = _weights(rule, received)
            if weights is not None and weights.ndim > 1:
                weights[:, widest:] = 0
            found = _on_a_device(rule, own, received, weights)
            np.testing.assert_array_equal(found[:, widest:], own[:, widest:])

    def test_training_computes_what_the_devices_compute(self, rule: MergeRule) -> None:
        """Training agrees, also the version for lost messages if none is lost; all inputs get gradients.

        Bit for bit, unless the rule convolves: then sums may be taken in another order.
        """
        torch = pytest.importorskip("torch")
        from sepnas.nets import exchange, outage

        for own, received in _inputs():
            tensors = [torch.tensor(array, requires_grad=True) for array in (own, *received)]
            numbers = _weights(rule, received)
            weights = [torch.tensor(each, requires_grad=True) for each in (() if numbers is None else numbers)]
            step = _step(rule, len(received))
            tolerance = 1e-6 if MERGERS[rule].convolves else 0
            whole = exchange.merge_tensors(step, _shape(own), tensors, weights)
            device = _on_a_device(rule, own, received, numbers)
            np.testing.assert_allclose(device, whole.detach().numpy(), tolerance, tolerance)
            rows = torch.arange(len(own))
            parts = [(rows, each) for each in tensors[1:]]
            arrived = outage.merge_arrived(step, _shape(own), tensors[0], parts, weights)
            np.testing.assert_allclose(arrived.detach().numpy(), whole.detach().numpy(), tolerance, tolerance)
            whole.sum().backward()  # type: ignore[no-untyped-call]
            assert all(torch.isfinite(each.grad).all() for each in (*tensors, *weights))

    def test_without_messages_the_own_tensor_is_left(self, rule: MergeRule) -> None:
        """If all messages are lost, the result is the device's own tensor."""
        for own, _ in _inputs():
            np.testing.assert_array_equal(_on_a_device(rule, own, []), own)


def _inputs() -> Iterator[tuple[_Array, list[_Array]]]:
    """A device's own tensor ``(2, C, 3, 2)``, and one to three messages of its first channels."""
    random = np.random.default_rng(0)
    for channels in ((_CHANNELS,), (2,), (_CHANNELS, _CHANNELS), (1, 4, 2)):
        sizes = _CHANNELS, *channels
        own, *received = [random.standard_normal((2, size, 3, 2)).astype(np.float32) for size in sizes]
        yield own, received


def _weights(rule: MergeRule, received: list[_Array]) -> _Array | None:
    """The weights of a learned rule: a number for each message, or a matrix as wide as the widest message."""
    if not MERGERS[rule].learned:
        return None
    dims = (_CHANNELS, max([array.shape[1] for array in received], default=0)) if MERGERS[rule].convolves else ()
    count = len(received) * math.prod(dims)
    return np.linspace(0.2, 0.7, count, dtype=np.float32).reshape(len(received), *dims)


def _on_a_device(rule: MergeRule, own: _Array, received: list[_Array], weights: _Array | None = None) -> _Array:
    weights = _weights(rule, received) if weights is None else weights
    return merge(_step(rule, len(received)), _shape(own), [own, *received], weights)


def _step(rule: MergeRule, number: int) -> Merge:
    inputs = tuple(f"t{place}" for place in range(1 + number))
    return Merge(MERGERS[rule].kind, inputs, "merged", "weights" if MERGERS[rule].learned else None)


def _shape(array: _Array) -> Shape:
    return Shape.chw(*array.shape[1:])
