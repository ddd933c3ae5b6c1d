"""The file of a separation: it round-trips, and what is wrong in it is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sepnas.errors import SpecError
from sepnas.plan.wire import payload_bytes
from sepnas.separation.document import CrossingData, Separation
from sepnas.separation.network import separated_graph
from tests.separation.networks import small


def data() -> dict[str, Any]:
    return small("chain").separated((1, 1), 0.4).separation.to_data()


def test_it_round_trips(tmp_path: Path) -> None:
    """Written and read, it is the same."""
    made = small("chain").separated((1, 1), 0.4, "int8").separation
    assert any(each.mixtures for each in made.crossings)
    assert Separation.load(made.save(tmp_path / "separation.json")) == made


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_devices": 1}, "names device 1 of 1"),
        ({"read_out": 2}, "names device 2 of 2"),
        ({"spaces": []}, "field `spaces`: must have at least 1 item"),
        ({"version": 2}, "update sepnas"),
        ({"further": 1}, "unknown key"),
    ],
)
def test_a_wrong_field_is_named(changes: dict[str, Any], message: str) -> None:
    """Its place and what is allowed there."""
    with pytest.raises(SpecError, match=message):
        Separation.from_data(data() | changes, "separation.json")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"source": 0, "destination": 0}, "both device 0"),
        ({"channels": [3, 3]}, "ascending order"),
        ({"channels": [1, 3], "mixtures": 2}, "`mixtures` 2 must be fewer than the 2 channels"),
        ({"mixtures": -1}, "`crossings.0.mixtures`: must be at least 0"),
        ({"wire": "int7"}, r"`crossings.0.wire`: must be 'fp32', 'fp16'.*got 'int7'"),
    ],
)
def test_a_wrong_message_is_named(changes: dict[str, Any], message: str) -> None:
    """A message to its own sender, channels that are named twice, or as many mixtures as channels."""
    found = data()
    found["crossings"][0] |= changes
    with pytest.raises(SpecError, match=message):
        Separation.from_data(found, "separation.json")


def test_two_messages_for_one_pair_are_refused() -> None:
    """Each pair of devices has one message for a tensor."""
    found = data()
    found["crossings"].append(found["crossings"][0])
    with pytest.raises(SpecError, match="two messages for one tensor"):
        Separation.from_data(found)


def test_another_network_is_refused() -> None:
    """By its digest; or by spaces and channels that it does not have."""
    made, of = small("chain").separated((1, 1)).separation, small("chain")
    with pytest.raises(SpecError, match=r"separation of network 'chain': its graph has the digest \w{12}"):
        separated_graph(small("dense").graph, made)
    with pytest.raises(SpecError, match="`spaces` are not those of this network"):
        separated_graph(of.graph, made.model_copy(update={"spaces": made.spaces[:2]}))
    first = made.crossings[0]
    for changes, message in (
        ({"tensor": "conv0"}, "'conv0' is sent to device [01], which needs nothing of it"),
        ({"channels": (999,), "mixtures": 0}, "channel 999 is not one of device [01], which sends it"),
        ({"source": first.destination, "destination": first.source}, "is not one of device"),
    ):
        strange = made.model_copy(update={"crossings": (first.model_copy(update=changes),)})
        with pytest.raises(SpecError, match=message):
            separated_graph(of.graph, strange)


def test_mixtures_are_as_wide_as_their_number() -> None:
    """A message costs the values of its mixtures, or of its channels if there are none, each with a map's values."""
    channels = CrossingData(tensor="conv0", source=0, destination=1, channels=(1, 4, 5), wire="int8")
    mixtures = channels.model_copy(update={"mixtures": 2})
    assert (channels.width, mixtures.width) == (3, 2)
    made = small("chain").separated((1, 1), 0.4, "int8")
    values = made.placement.channel_values
    sizes = [payload_bytes(each.width * values[each.tensor], "int8") for each in made.separation.crossings]
    assert made.separation.payload_bytes(made.placement) == sum(sizes)
