"""What crosses under a budget: exact bytes, less error for more bytes, messages dropped whole."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sepnas.errors import SpecError
from sepnas.separation.bases import Bases
from sepnas.separation.demands import demands_of, exact_bytes
from sepnas.separation.mixtures import Arrival, Known, known_to, readers_of
from sepnas.separation.statistics import Statistics
from sepnas.separation.thinning import MESSAGE_COST_BYTES, Limits, Offers, message_cost_bytes, thin
from sepnas.separation.tiled_layers import tile_ends, tiled_layers_until
from sepnas.spec.cluster import Cluster, uniform_cluster
from tests.separation.networks import Separated, Small, small

SHARES = (1, 1, 1)
LEVELS = (1, 0.5, 0.2, 0.1, 0.05)


def expected_error(found: Separated) -> float:
    """The cost of all errors that devices' estimates leave in their layers, if channels are as the statistics say."""
    placement, of, total = found.placement, found.of, 0.0
    for demand in (each for each in demands_of(placement) if not each.is_fixed):
        count = len(placement.of_tensor(demand.tensor))
        known = known_to(placement, found.statistics, demand.tensor, demand.device)
        sent = [c for c in found.separation.crossings if (c.tensor, c.destination) == (demand.tensor, demand.device)]
        arrivals = [
            Arrival(np.array(c.channels), found.mixtures.get((c.tensor, c.source, c.destination))) for c in sent
        ]
        had = [np.eye(count)[known.own]]
        for each in arrivals:
            taken = np.eye(count)[each.channels]
            had.append(taken if each.mixtures is None else each.mixtures @ taken)
        lost = np.eye(count) - known.estimate(arrivals).matrix @ np.vstack(had)
        readers = readers_of(placement, demand.layers, demand.device, of.arrays, found.statistics) @ lost
        measured = found.statistics.of(demand.tensor, count).padded(placement.channels.padding_share(demand.tensor))
        total += float(np.trace(readers @ measured.covariance @ readers.T))
    return total


@pytest.mark.parametrize("wire", ["fp32", "int8"])
@pytest.mark.parametrize("measured", [False, True], ids=["assumed", "measured"])
@pytest.mark.parametrize("name", ["residual", "dense", "separable", "shuffled"])
def test_bytes_keep_to_the_budget(name: str, measured: bool, wire: str) -> None:
    """No more than the budget, and most of it used."""
    of, statistics = small(name), small(name).measured if measured else None
    most = of.separated(SHARES, None, wire, statistics).payload_bytes
    for level in LEVELS:
        found = of.separated(SHARES, level, wire, statistics)
        assert found.payload_bytes <= level * exact_bytes(found.placement)
        assert found.payload_bytes == most or found.payload_bytes >= 0.6 * level * exact_bytes(found.placement)


@pytest.mark.parametrize("wire", ["fp32", "int8"])
@pytest.mark.parametrize("name", ["residual", "dense", "separable", "squeezed"])
def test_more_bytes_leave_less_error(name: str, wire: str) -> None:
    """In all layers together, as expected of independent channels; with all mixtures none is left."""
    of = small(name)
    every, *fewer, none = (of.separated(SHARES, level, wire) for level in (None, *LEVELS, 0))
    errors = [expected_error(each) for each in (every, *fewer, none)]
    assert errors[0] <= 1e-12 * errors[-1]
    assert errors == sorted(errors)
    assert errors[-2] < errors[-1]


def test_values_are_the_errors_that_messages_spare() -> None:
    """Of independent channels, each mixture spares its value: those left out add up to the error."""
    of = small("residual")
    for level in (0.5, 0.2, 0):
        found, left = of.separated(SHARES, level), 0.0
        sent = {(c.tensor, c.source, c.destination): c.width for c in found.separation.crossings}
        devices = found.placement.of_tensor
        for demand in (each for each in demands_of(found.placement) if not each.is_fixed):
            known = known_to(found.placement, found.statistics, demand.tensor, demand.device)
            for source in {0, 1, 2} - {demand.device}:
                channels = np.flatnonzero(devices(demand.tensor) == source)
                readers = readers_of(found.placement, demand.layers, demand.device, of.arrays, found.statistics)
                values = known.basis(channels, readers[:, channels]).values
                left += float(values[sent.get((demand.tensor, source, demand.device), 0) :].sum())
        assert expected_error(found) == pytest.approx(left, rel=0.002)


def test_images_say_what_is_worth_its_bytes() -> None:
    """With measured costs and covariances, the same budget goes to other mixtures, which leave less error."""
    of = small("residual")
    blind, seeing = of.separated(SHARES, 0.2), of.separated(SHARES, 0.2, statistics=of.measured)
    assert blind.separation.crossings != seeing.separation.crossings
    measured = [
        expected_error(Separated(of, each.placement, each.separation, each.mixtures, of.measured))
        for each in (blind, seeing)
    ]
    assert measured[1] < 0.5 * measured[0]


def test_in_a_quarter_of_the_bytes_int8_sends_nearly_everything() -> None:
    """The budget is a share of the exact split in fp32: int8 carries four times as many mixtures for the same bytes."""
    found = [small("residual").separated(SHARES, 0.1, wire) for wire in ("fp32", "int8")]
    sent = [sum(each.width * of.placement.channel_values[each.tensor] for each in of.separation.crossings)
            for of in found]  # fmt: skip
    assert 3.5 <= sent[1] / sent[0] <= 4.1


def test_a_high_cost_of_messages_leaves_fewer_messages() -> None:
    """With a cost for each message, the same budget goes to fewer of them."""
    placement = small("residual").placement(SHARES)
    budget = exact_bytes(placement) // 10
    cheap, expensive = (
        len(thin(placement, small("residual").arrays, Statistics(), Limits(budget, message_cost_bytes=cost)).crossings)
        for cost in (0, 20_000)
    )
    assert expensive < cheap


def points_of(found: Separated) -> set[str]:
    """The exchange points at which something crosses that may also stay away."""
    open_ = {(each.tensor, each.device) for each in demands_of(found.placement) if not each.is_fixed}
    return {c.tensor for c in found.separation.crossings if (c.tensor, c.destination) in open_}


@pytest.mark.parametrize("level", [None, 0.2])
def test_few_exchange_points_are_those_that_matter_most(level: float | None) -> None:
    """So many at most, with the same budget; one more leaves less error, and as many as there are change nothing."""
    of = small("residual")
    free, none = of.separated(SHARES, level), of.separated(SHARES, level, exchange_points=0)
    most, always = len(points_of(free)), len(points_of(none))
    assert most - always >= 3
    found = [of.separated(SHARES, level, exchange_points=count) for count in range(most + 1)]
    errors = [expected_error(each) for each in found]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > errors[1] > errors[-1]
    assert all(len(points_of(each)) <= max(count, always) for count, each in enumerate(found))
    assert found[-1].separation == free.separation
    if level:
        assert all(each.payload_bytes <= level * exact_bytes(each.placement) for each in found)


@pytest.mark.parametrize("count", [0, 1, 2])
@pytest.mark.parametrize("level", [None, 0.1])
def test_the_end_of_tiles_is_one_of_the_exchange_points(count: int, level: float | None) -> None:
    """It is needed, so that others are chosen besides it only if more are allowed; and it is filled like them."""
    of = small("separable")
    found = of.separated(SHARES, level, "auto", of.measured, count, tiles="hardswish2")
    assert "hardswish2" in points_of(found)
    assert len(points_of(found)) == max(count, 1)
    sent = [each for each in found.separation.crossings if each.source is None]
    assert all(each.width > 1 for each in sent)
    assert all(each.wire != "fp32" for each in sent) == (level is not None)


def test_a_message_costs_what_the_links_of_its_devices_take() -> None:
    """A slow link between other devices does not count, nor one for all pairs that have links of their own."""
    four = uniform_cluster(4)
    first, second, *others = (each.name for each in four.devices)
    near, far = (
        four.links[0].model_copy(update={"between": pair, "latency_s": latency_s})
        for pair, latency_s in (((first, second), 1e-4), (tuple(others), 1.0))
    )
    wanted = MESSAGE_COST_BYTES + 1e-4 * near.bandwidth_bytes_per_s
    for links in ((near,), (near, far), (near, far, four.links[0])):
        found = message_cost_bytes(Cluster(name="mixed", devices=four.devices, links=links), 2)
        assert found == pytest.approx(wanted)
    assert message_cost_bytes(four, 1) == MESSAGE_COST_BYTES
    assert message_cost_bytes(four, 4, "any") == MESSAGE_COST_BYTES


@pytest.mark.parametrize("level", LEVELS[1:])
@pytest.mark.parametrize("name", ["residual", "dense", "separable"])
def test_the_format_of_each_message_is_that_of_least_error(name: str, level: float) -> None:
    """For the same bytes, with the error of rounding, no format for all messages is better by more than a little."""
    of = small(name)
    best, *others = (of.separated(SHARES, level, wire) for wire in ("auto", "fp32", "fp16", "int8", "int4"))
    kept = [sum(value_of(each).values()) for each in (best, *others)]
    assert kept[0] >= 0.97 * max(kept)


def value_of(found: Separated) -> dict[tuple[str, int, int], float]:
    """What each message spares, less what its rounding takes."""
    of, placement, values = found.of, found.placement, {}
    demands = {(each.tensor, each.device): each for each in demands_of(placement) if not each.is_fixed}
    for c in found.separation.crossings:
        if (c.tensor, c.destination) in demands:
            layers = demands[c.tensor, c.destination].layers
            readers = readers_of(placement, layers, c.destination, of.arrays, found.statistics)
            own = np.array(c.channels)
            basis = known_to(placement, found.statistics, c.tensor, c.destination).basis(own, readers[:, own])
            values[c.tensor, c.source, c.destination] = float(basis.values_in(c.wire)[: c.width].sum())
    return values


def test_formats_are_finer_where_bytes_abound() -> None:
    """With few bytes messages are coarse, with many fine; with all that matters sent they are fp32."""
    of = small("residual")
    formats = [
        {each.wire for each in of.separated(SHARES, level, "auto").separation.crossings} for level in (0.02, 0.3, None)
    ]
    assert "int2" in formats[0]
    assert not {"int2", "int4"} & formats[1]
    assert formats[2] == {"fp32"}


def test_a_budget_that_cannot_be_met_says_by_how_much() -> None:
    """What the read-out device needs is always sent; 0 means only this."""
    of = small("residual")
    placement = of.placement(SHARES)
    assert sum(each.width for each in thin(placement, of.arrays, Statistics(), Limits(0)).crossings) == 16
    with pytest.raises(SpecError, match=r"a budget of 40 bytes is 24 short of the 64 that .* in fp32"):
        thin(placement, of.arrays, Statistics(), Limits(40))


def test_messages_are_offered_once_for_all_limits() -> None:
    """What is found of a placement serves any limits, in any order; it knows the bytes that are always needed."""
    of = small("residual")
    placement = of.placement(SHARES)
    offers = Offers(placement, Bases(of.arrays, of.measured))
    for limits in (Limits(2000, wires=("int8",)), Limits(), Limits(0), Limits(900, exchange_points=1), Limits(2000)):
        found, wanted = offers.within(limits), thin(placement, of.arrays, of.measured, limits)
        assert found.crossings == wanted.crossings
        assert found.lost == wanted.lost
        assert found.mixtures.keys() == wanted.mixtures.keys()
    assert offers.needed_bytes(Limits(40)) == 64


def test_ends_of_tiles_share_what_lies_behind_them() -> None:
    """Mixtures are found once for all ends; what is sent is the same as with those of each end by itself."""
    of, read = small("chain"), list[str]()
    placement = of.placement(SHARES)
    ends = [placement.tiled(tiled_layers_until(of.channels, end, SHARES)) for end in tile_ends(of.channels)]

    def noted(*arguments: Any) -> Known:
        read.append(arguments[2])
        return known_to(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sepnas.separation.bases.known_to", noted)
        bases, limits = Bases(of.arrays, of.measured), Limits(2000)
        shared, times = [Offers(each, bases).within(limits) for each in (placement, *ends)], len(read)
        alone = [thin(each, of.arrays, of.measured, limits) for each in (placement, *ends)]
    assert [each.crossings for each in shared] == [each.crossings for each in alone]
    assert len(ends) > 1
    assert times < (len(read) - times)


def mixing_inputs(of: Small, devices: int) -> list[tuple[str, int]]:
    """The input of each layer that mixes channels, and each device that computes some of it without any of its own."""
    placement = of.placement((1,) * devices)
    return [
        (layer.operand, device)
        for layer in of.channels.mixing.values()
        for device in placement.computing(layer.output)
        if not len(placement.own(layer.operand, device))
    ]


@pytest.mark.parametrize("measured", [False, True], ids=["assumed", "measured"])
def test_each_layer_has_an_input_on_each_device(measured: bool) -> None:
    """A device that has none of a layer's input is sent one mixture even without a budget: the best that there is."""
    of = small("shuffled")
    found = of.separated((1,) * 5, 0, statistics=of.measured if measured else None)
    without = mixing_inputs(of, 5)
    assert without
    for tensor, device in without:
        sent = [c for c in found.separation.crossings if (c.tensor, c.destination) == (tensor, device)]
        assert len(sent) == 1
        assert sent[0].width == 1


def test_what_nothing_reads_is_not_sent() -> None:
    """Channels whose weights are zero for all outputs of a device are in no message, not even without a budget."""
    of = small("chain")
    placement = of.placement((1, 1))
    layer = of.channels.mixing[list(of.channels.mixing)[1]]
    name = layer.node.inputs[layer.weight]
    weight = of.arrays[name].copy()
    weight[np.ix_(placement.own(layer.output, 0), placement.own(layer.operand, 1))] = 0
    found = thin(placement, {**of.arrays, name: weight}, Statistics())
    assert [c.source for c in found.crossings if c.tensor == layer.operand] == [0]


def test_few_readers_make_few_mixtures() -> None:
    """A message has no more mixtures than its device has outputs that read it: what is saved without any error."""
    of = small("separable")
    placement = of.placement((3, 1))
    found = thin(placement, of.arrays, Statistics())
    messages = [c for c in found.crossings if (c.source, c.destination) == (0, 1) and c.mixtures]
    assert messages
    for each in messages:
        [layer] = of.channels.readers[each.tensor]
        assert each.width == len(placement.own(layer.output, 1)) < len(each.channels)
        assert found.mixtures[each.tensor, 0, 1].shape == (each.width, len(each.channels))
    every = exact_bytes(placement)
    assert of.separated((3, 1)).payload_bytes < 0.5 * every
