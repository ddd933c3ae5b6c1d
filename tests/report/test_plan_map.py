"""Maps of plans: the shares, tiles and bytes on the page are those of the plan, for every scheme and any plan."""

from __future__ import annotations

import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sepnas.errors import PlanError
from sepnas.partition.graph import Graph
from sepnas.partition.schemes.registry import SCHEMES, on_one_device, partition
from sepnas.plan.document import PlanDocument
from sepnas.plan.plan import Plan
from sepnas.report.content import DrawnMap, ReportContent
from sepnas.report.page import render_report
from sepnas.report.plan_map.folding import repeats
from sepnas.report.plan_map.make import map_of
from sepnas.report.plan_map.tiles import tiles_of
from sepnas.report.plan_map.values import Flow, PlanMap
from sepnas.separable.architecture import named_architecture
from sepnas.separable.build import build_plan
from tests.partition.chains import Builder
from tests.report.test_report import Page

DEVICES = 3
NAMES = tuple(f"board-{rank}" for rank in range(DEVICES))


@pytest.fixture(scope="module")
def graph() -> Graph:
    """Two residual blocks at 24x24, three layers at 12x12, and a classifier."""
    torch.manual_seed(0)
    made = Builder(3, 24, 24)
    made.conv(12, 3, padding=(1, 1))
    for _ in range(2):
        before = made.last
        made.conv(12, 3, padding=(1, 1))
        made.add("relu", {"self": made.last})
        made.add("add", {"self": made.last, "other": before})
    made.conv(24, 3, padding=(1, 1), stride=(2, 2))
    for _ in range(2):
        made.conv(24, 3, padding=(1, 1))
    made.head(10)
    return made.graph()


def split(graph: Graph, scheme: str) -> Plan:
    for count in (DEVICES, 2):
        try:
            return partition(graph, scheme, [1.0] * count)
        except PlanError:
            continue
    return pytest.skip(f"{scheme} cannot split this network")


def drawn(plan: Plan, graph: Graph | None = None, title: str = "a plan") -> PlanMap:
    return map_of(plan, NAMES, slug="map-0", title=title, graph=graph)


def summed(found: PlanMap) -> Flow:
    return sum((card.incoming for card in found.cards), found.answer)


@pytest.mark.parametrize("name", SCHEMES)
def test_each_device_and_each_message_is_on_the_map(name: str, graph: Graph) -> None:
    """The cards' MACs are those of each device, their tiles cover the maps, their bytes are those of all messages."""
    plan = split(graph, name)
    for found in (drawn(plan, graph), drawn(plan)):
        for rank in range(plan.num_devices):
            flops = sum(segment.flops for segment in plan.segments[rank].values())
            assert sum(card.macs[rank] for card in found.cards) == flops // 2 == found.devices[rank].macs
        assert summed(found).total_bytes == plan.total_bytes()
        assert summed(found).messages == sum(1 for _ in plan.messages())
        for card in found.cards:
            areas = [(x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in (tile.box for tile in card.tiles)]
            assert sum(areas) == pytest.approx(1.0)
    assert sum(card.network_macs for card in drawn(plan, graph).cards) == graph.macs


@pytest.mark.parametrize(
    ("scheme", "cut"),
    [("rows", "rows"), ("output-channels", "channels"), ("grid", "rows and columns"), ("pipeline", "whole")],
)
def test_layers_are_divided_as_the_scheme_says(scheme: str, cut: str, graph: Graph) -> None:
    """Rows, channels and tiles are named; each device of a split has its tile, and a stage of a pipeline is whole."""
    plan = partition(graph, scheme, [1.0] * (4 if scheme == "grid" else 3))
    card = map_of(plan, (), slug="m", title="t", graph=graph).cards[0]
    assert card.cut == cut
    owners = {tile.devices for tile in card.tiles}
    assert owners == ({(0,)} if cut == "whole" else {(rank,) for rank in range(plan.num_devices)})


def test_shares_and_halos_of_rows(graph: Graph) -> None:
    """Uneven rows are drawn as tall as they are, and each inner border has the halo of the devices on both sides."""
    card = drawn(partition(graph, "rows", [2.0, 1.0, 1.0]), graph).cards[0]
    assert [tile.box for tile in card.tiles] == [(0, 0, 1, 0.5), (0, 0.5, 1, 0.75), (0, 0.75, 1, 1)]
    row = 1 / 24
    found = {(halo.device, round(halo.box[1] / row), round(halo.box[3] / row)) for halo in card.halos}
    assert found == {(0, 12, 13), (1, 11, 12), (1, 18, 19), (2, 17, 18)}


def test_what_is_computed_twice_is_striped(graph: Graph) -> None:
    """Fused tiles overlap where two devices compute the same rows, and the card says how much is computed again."""
    plan = partition(graph, "fused-tiles", [1.0] * 3)
    found = drawn(plan, graph)
    assert any(tile.devices == (0, 1) for card in found.cards for tile in card.tiles)
    again = sum(card.repeated_macs for card in found.cards)
    assert again == sum(share.macs for share in found.devices) - graph.macs > 0


def test_a_plan_from_a_file_has_the_same_map(graph: Graph) -> None:
    """A plan's document keeps the region of every operator, so its map needs no scheme."""
    for name in SCHEMES:
        plan = split(graph, name)
        read = PlanDocument.from_data(PlanDocument.of(plan).to_data()).plan()
        assert drawn(read, graph) == drawn(plan, graph)


def test_the_parts_of_a_separable_network_are_columns() -> None:
    """A separable network is drawn from its plan alone: a part for each device, and what it receives before a block."""
    plan = build_plan(named_architecture("resnext20_3x4d", 3, "hand-made"))
    found = drawn(plan)
    assert {card.form for card in found.cards} == {"parts"}
    assert [tile.devices for tile in found.cards[0].tiles] == [(0,), (1,), (2,)]
    assert summed(found).total_bytes == plan.total_bytes()


def test_one_device_alone_is_one_card(graph: Graph) -> None:
    """A network that one device computes is folded into one card, whatever the sizes of its layers."""
    found = drawn(on_one_device(graph, 1, 3), graph)
    assert [(card.num_layers, card.tiles[0].devices) for card in found.cards] == [(len(graph.nodes), (1,))]


def test_the_page_has_each_share(graph: Graph) -> None:
    """The attributes of the page's elements are the plan's figures; its texts are escaped, its ids are unique."""
    plan = partition(graph, "fused-tiles", [1.0] * 3)
    found = drawn(plan, graph, "<i>a plan</i>")
    text = render_report(ReportContent(maps=(DrawnMap(found), DrawnMap(drawn(plan, graph), folded=True))))
    page = Page(text)
    assert "<i>a plan" not in text
    ids = [value for value in page.ids() if not value.startswith("map-0")]
    assert len(ids) == len(set(ids))
    first = text[text.index('class="cards"') : text.index("</ol>")]
    for card, shown in zip(found.cards, first.split('<li class="card')[1:], strict=False):
        shares = dict(re.findall(r'data-device="(\d)" data-share="([\d.]+)"', shown))
        expected = {str(rank): macs / sum(card.macs) for rank, macs in enumerate(card.macs) if macs}
        assert {rank: float(share) for rank, share in shares.items()} == pytest.approx(expected, abs=1e-5)
        ways = re.findall(r'data-from="(-?\d)" data-to="(-?\d)" data-bytes="(\d+)"', shown)
        assert {(int(a), int(b)): int(n) for a, b, n in ways} == card.incoming.nbytes
        assert len(re.findall("data-box=", shown)) == len(card.tiles)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from("abc"), max_size=24))
def test_repeats_keep_every_item(items: list[str]) -> None:
    """Folding keeps all items in order, and folds only equal ones."""
    unfolded: list[str] = []
    for places, times in repeats(items, str.__eq__):
        assert all(len(set(place)) == 1 and len(place) == times for place in places)
        unfolded += [place[turn] for turn in range(times) for place in places]
    assert unfolded == items


def test_repeats_are_found() -> None:
    """A stretch that comes several times in sequence is folded into one."""
    found = [("".join(place[0] for place in places), times) for places, times in repeats("abcbcbcd", str.__eq__)]
    assert found == [("a", 1), ("bc", 3), ("d", 1)]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(*[st.integers(0, 6)] * 4), min_size=1, max_size=6))
def test_tiles_are_disjoint_and_cover_all_boxes(corners: list[tuple[int, int, int, int]]) -> None:
    """Every point belongs to one tile, which names all devices whose boxes have the point."""
    boxes = [
        ((min(a, c) / 7, min(b, d) / 7, (max(a, c) + 1) / 7, (max(b, d) + 1) / 7), rank)
        for rank, (a, b, c, d) in enumerate(corners)
    ]
    tiles = tiles_of(boxes)
    for x, y in ((i / 14, j / 14) for i in range(1, 14, 2) for j in range(1, 14, 2)):
        inside = [t.devices for t in tiles if t.box[0] < x < t.box[2] and t.box[1] < y < t.box[3]]
        having = tuple(rank for (x0, y0, x1, y1), rank in boxes if x0 < x < x1 and y0 < y < y1)
        assert inside == ([having] if having else [])
