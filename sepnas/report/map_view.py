"""The map of a plan as the page shows it: pictures and texts of each card, and tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from sepnas.report.body import SortableCell, Table
from sepnas.report.figures.device_colours import device_colour, text_colour
from sepnas.report.figures.flows import describe as describe_flow
from sepnas.report.figures.flows import flow_picture
from sepnas.report.figures.regions import describe, region_picture
from sepnas.report.plan_map.values import Card, Flow, PlanMap
from sepnas.units import format_bytes, format_count


@dataclass(frozen=True, slots=True)
class Chip:
    """A device in the legend of a map, and its share of the work."""

    device: int
    name: str
    share: str
    colour: str
    text: str


@dataclass(frozen=True, slots=True)
class Bar:
    """A device's share of a card's work."""

    device: int
    share: float
    colour: str
    tip: str


@dataclass(frozen=True, slots=True)
class ShownCard:
    """One card: what arrives above, the picture, and what it is below."""

    flow: Markup
    arrives: tuple[str, str]
    picture: Markup
    title: str
    full_title: str
    facts: tuple[str, ...]
    bars: tuple[Bar, ...]


@dataclass(frozen=True, slots=True)
class ShownRun:
    """Cards that are repeated ``times`` times."""

    cards: tuple[ShownCard, ...]
    times: int


@dataclass(frozen=True, slots=True)
class ShownMap:
    """A whole map; a ``folded`` one opens on demand."""

    slug: str
    title: str
    lead: str
    chips: tuple[Chip, ...]
    runs: tuple[ShownRun, ...]
    answer: ShownCard | None
    notes: tuple[str, ...]
    tables: tuple[Table, ...]
    folded: bool = False


def shown_map(found: PlanMap, folded: bool = False) -> ShownMap:
    """All pictures and texts of a map."""
    total = sum(share.macs for share in found.devices)
    chips = tuple(
        Chip(rank, share.name, _percent(share.macs, total), device_colour(rank), text_colour(rank))
        for rank, share in enumerate(found.devices)
    )
    numbers = iter(range(len(found.cards)))
    runs = tuple(
        ShownRun(tuple(_shown(card, f"{found.slug}-{next(numbers)}", found) for card in run.cards), run.times)
        for run in found.runs
    )
    tables = (_device_table(found), _card_table(found))
    return ShownMap(
        found.slug, found.title, found.lead, chips, runs, _answer(found), tuple(_notes(found)), tables, folded
    )


def _shown(card: Card, prefix: str, found: PlanMap) -> ShownCard:
    total = sum(share.macs for share in found.devices)
    return ShownCard(
        flow_picture(card.incoming, len(found.devices)),
        flow_text(card.incoming),
        region_picture(card, prefix),
        title_of(card.layers),
        ", ".join(card.layers),
        tuple(_facts(card, total)),
        _bars(card.macs),
    )


def _facts(card: Card, total: int) -> Iterator[str]:
    yield f"{format_count(card.num_layers, 'layer')}, {card.cut}"
    work = f", {_percent(sum(card.macs), total)} of the work" if any(card.macs) else ""
    if card.shape:
        yield f"{card.shape}{work}"
    if card.repeated_macs:
        yield f"{_percent(card.repeated_macs, card.network_macs)} computed again"


def _bars(macs: Sequence[int]) -> tuple[Bar, ...]:
    total = sum(macs)
    return tuple(
        Bar(rank, each / total, device_colour(rank), f"device {rank}: {_percent(each, total)} of these layers' MACs")
        for rank, each in enumerate(macs)
        if each
    )


def title_of(layers: Sequence[str]) -> str:
    """The first and the last layer, as far as they differ: ``features.0 … .3``."""
    first, last = layers[0].split("."), layers[-1].split(".")
    same = next((at for at, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
    if first == last:
        return layers[0]
    ends = [".".join(names[: same + 1]) for names in (first, last)]
    return f"{ends[0]} … .{last[same]}" if 0 < same < len(last) else " … ".join(ends)


def flow_text(flow: Flow) -> tuple[str, str]:
    """The bytes of a flow and its messages."""
    return format_bytes(flow.total_bytes), format_count(flow.messages, "message")


def _answer(found: PlanMap) -> ShownCard | None:
    if not found.answer.messages:
        return None
    picture = flow_picture(found.answer, len(found.devices))
    return ShownCard(picture, flow_text(found.answer), Markup(""), "answer", "", ("to the client",), ())


def _notes(found: PlanMap) -> Iterator[str]:
    """What the marks of this map mean, as far as it has them."""
    cards = found.cards
    if any(len(tile.devices) > 1 for card in cards for tile in card.tiles):
        yield "striped: computed by several devices alike"
    if any(card.halos for card in cards):
        yield "shaded: a halo, which a neighbour needs as well"
    if any(card.partial for card in cards):
        yield "Σ: each device adds up some terms of every sum; the devices then add their sums"
    if any(card.across not in ("", "columns") for card in cards):
        yield "sheets: channels, features or heads"
    if any(run.times > 1 for run in found.runs):
        yield "framed: repeated layers; the numbers are of all repeats together"


def _device_table(found: PlanMap) -> Table:
    total = sum(share.macs for share in found.devices)
    rows = tuple(
        (
            f"{rank}: {share.name}",
            SortableCell(f"{share.macs:,}", share.macs),
            SortableCell(_percent(share.macs, total), share.macs),
            *(SortableCell(format_bytes(n), n) for n in (share.weight_bytes, share.sent_bytes, share.received_bytes)),
        )
        for rank, share in enumerate(found.devices)
    )
    return Table("Each device", ("device", "MACs", "share", "weights", "sends", "receives"), rows)


def _card_table(found: PlanMap) -> Table:
    rows = []
    for run in found.runs:
        for card in run.cards:
            name = title_of(card.layers) + (f" (x {run.times})" if run.times > 1 else "")
            rows.append((name, card.cut, describe(card), describe_flow(card.incoming), f"{card.num_layers:,}"))
    rows.append(("answer", "", "", describe_flow(found.answer), ""))
    header = ("layers", "divided into", "who computes it", "what arrives", "number")
    caption = f"The map of {found.title} in words"
    return Table(caption, header, tuple(rows), folded=True, num_text_columns=4)


def _percent(part: float, total: float) -> str:
    share = 100 * part / total if total else 0.0
    if 0 < share < 0.05:
        return "under 0.1 %"
    return f"{share:.0f} %" if share >= 10 or share == 0 else f"{share:.1f} %"
