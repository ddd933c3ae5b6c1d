"""What crosses under a budget: exact bytes, more importance for more bytes, messages dropped whole."""

from __future__ import annotations

import pytest

from sepnas.errors import SpecError
from sepnas.separation.demands import exact_bytes
from sepnas.separation.document import Separation
from sepnas.separation.thinning import thin
from tests.separation.networks import Small, small

SHARES = (1, 1, 1)
LEVELS = (1, 0.5, 0.2, 0.1, 0.05)


def kept(of: Small, separation: Separation) -> float:
    """The importance that crosses."""
    placement = of.placement(SHARES)
    total = 0.0
    for each in separation.crossings:
        for layer in of.channels.readers.get(each.tensor, ()):
            rows = of.importance[layer.node.name][placement.own(layer.output, each.destination)]
            total += float(rows[:, list(each.channels)].sum())
    return total


@pytest.mark.parametrize("wire", ["fp32", "int8"])
@pytest.mark.parametrize("name", ["residual", "dense", "separable", "shuffled"])
def test_bytes_keep_to_the_budget(name: str, wire: str) -> None:
    """No more than the budget, most of it used, and more importance crosses for more bytes."""
    of = small(name)
    exact, placement, importances = exact_bytes(of.placement(SHARES)), of.placement(SHARES), []
    for level in LEVELS:
        separation = of.separated(SHARES, level, wire)
        found = separation.payload_bytes(placement)
        assert found <= level * exact
        most = separation.payload_bytes(placement) == of.separated(SHARES, None, wire).payload_bytes(placement)
        assert most or found >= 0.6 * level * exact
        importances.append(kept(of, separation))
    assert importances == sorted(importances, reverse=True)


def test_in_a_quarter_of_the_bytes_int8_sends_nearly_everything() -> None:
    """The budget is a share of the exact split in fp32: int8 carries four times as many channels for the same bytes."""
    of = small("residual")
    placement = of.placement(SHARES)
    sent = [
        sum(len(each.channels) * placement.channel_values[each.tensor] for each in found.crossings)
        for found in (of.separated(SHARES, 0.1, wire) for wire in ("fp32", "int8"))
    ]
    assert 3.5 <= sent[1] / sent[0] <= 4.1


def test_a_high_cost_of_messages_leaves_fewer_messages() -> None:
    """With a cost for each message, the same budget goes to fewer of them."""
    of = small("residual")
    placement = of.placement(SHARES)
    budget = exact_bytes(placement) // 10
    cheap, expensive = (len(thin(placement, of.importance, budget, message_cost_bytes=cost)) for cost in (0, 5_000))
    assert expensive < cheap


def test_a_budget_that_cannot_be_met_says_by_how_much() -> None:
    """What the read-out device needs is always sent; 0 means only this."""
    of = small("residual")
    placement = of.placement(SHARES)
    assert sum(len(each.channels) for each in thin(placement, of.importance, 0)) == 16
    with pytest.raises(SpecError, match=r"a budget of 40 bytes is 24 short of the 64 that .* in fp32"):
        thin(placement, of.importance, 40)


def test_each_layer_has_an_input_on_each_device() -> None:
    """A device that has none of a layer's input is sent one channel even without a budget."""
    of = small("shuffled")
    placement = of.placement((1, 1, 1, 1, 1))
    found = {(each.tensor, each.destination) for each in thin(placement, of.importance, 0)}
    for layer in of.channels.mixing.values():
        for device in placement.computing(layer.output):
            own = placement.own(layer.operand, device)
            assert len(own) or (layer.operand, device) in found
