"""One layer's output as a small picture: a tile in the colour of each device that computes it."""

from __future__ import annotations

from collections.abc import Iterator

from markupsafe import Markup

from sepnas.report.figures.device_colours import fill_of, stripes, text_colour
from sepnas.report.figures.elements import element
from sepnas.report.plan_map.values import Box, Card, Halo, Tile
from sepnas.units import format_names

_WIDTH = 100.0
_HEIGHTS = {"map": 84.0, "vector": 30.0, "parts": 56.0}
_SHEET = 5.0
"""Distance of the lines that divide a tile of channels into sheets."""
_MIN_HALO = 2.2
_FONT, _MIN_FONT = 9.0, 5.6
_FONT_OF_TILE, _CHARACTER = 0.82, 0.66
"""The size of a number by the height of its tile; the width of a character by its size."""
_GAP = 3.0
"""Between the parts of a network that is not cut."""


def region_picture(card: Card, prefix: str) -> Markup:
    """The tiles of a card's layer with the devices' numbers; ``prefix`` makes the ids of patterns unique."""
    height = _HEIGHTS[card.form]
    shared = dict.fromkeys(tile.devices for tile in card.tiles if len(tile.devices) > 1)
    return element(
        "svg",
        element("defs", *(stripes(devices, prefix) for devices in shared)) if shared else "",
        *(_tile(card, tile, prefix, height) for tile in card.tiles),
        *(_halo(halo, height) for halo in card.halos),
        *_numbers(card, height),
        viewBox=f"0 0 {_WIDTH:g} {height:g}",
        role="img",
        class_="regions",
        aria_label=describe(card),
    )


def describe(card: Card) -> str:
    """The picture in words."""
    told = "; ".join(dict.fromkeys(tile_text(card, tile) for tile in card.tiles))
    halos = len({halo.device for halo in card.halos})
    return f"{card.cut}: {told}" + (f"; {halos} devices receive halos" if halos else "")


def tile_text(card: Card, tile: Tile) -> str:
    """A tile in words: its devices, and its share along each axis that is cut."""
    who = format_names([str(device) for device in tile.devices], "and")
    name = f"device {who}" if len(tile.devices) == 1 else f"devices {who}"
    spans = ((card.down, tile.box[1], tile.box[3]), (card.across, tile.box[0], tile.box[2]))
    told = [f"{100 * (stop - start):.0f} % of the {word}" for word, start, stop in spans if word]
    if card.form == "parts":
        return f"{name}: layers of its own"
    return f"{name}: {' and '.join(told) or 'all'}" + (", each" if len(tile.devices) > 1 else "")


def _scaled(box: Box, height: float) -> Box:
    left, top, right, bottom = box
    return left * _WIDTH, top * height, right * _WIDTH, bottom * height


def _tile(card: Card, tile: Tile, prefix: str, height: float) -> Markup:
    left, top, right, bottom = _scaled(tile.box, height)
    gap = _GAP if card.form == "parts" else 0.0
    rect = element(
        "rect",
        x=left + gap / 2,
        y=top,
        width=right - left - gap,
        height=bottom - top,
        fill=fill_of(tile.devices, prefix),
    )
    return element(
        "g", element("title", tile_text(card, tile)), rect, *_sheets(card, tile.box, height),
        class_="mark tile-of", data_devices=" ".join(map(str, tile.devices)),
        data_box=" ".join(f"{edge:.4f}" for edge in tile.box),
    )  # fmt: skip


def _sheets(card: Card, box: Box, height: float) -> Iterator[Markup]:
    """Lines that make a tile of channels look like a stack of sheets."""
    if card.across in ("", "columns") or card.form == "parts":
        return
    left, top, right, bottom = _scaled(box, height)
    lines = [
        f"M{x:g} {top:.1f}V{bottom:.1f}"
        for x in (_SHEET * number for number in range(1, int(_WIDTH / _SHEET)))
        if left + 1 < x < right - 1
    ]
    if lines:
        yield element("path", d="".join(lines), class_="sheets")


def _halo(halo: Halo, height: float) -> Markup:
    """A shade where a device needs what another one has."""
    left, top, right, bottom = _scaled(halo.box, height)
    if right - left < bottom - top:
        grown = max(0.0, _MIN_HALO - (right - left)) / 2
        left, right = left - grown, right + grown
    else:
        grown = max(0.0, _MIN_HALO - (bottom - top)) / 2
        top, bottom = top - grown, bottom + grown
    return element(
        "rect", x=left, y=top, width=right - left, height=bottom - top, class_="halo", data_halo_of=halo.device
    )


def _numbers(card: Card, height: float) -> Iterator[Markup]:
    """The numbers of the devices, in their largest tile, where there is room."""
    largest: dict[tuple[int, ...], Tile] = {}
    for tile in card.tiles:
        if tile.devices not in largest or _area(tile.box) > _area(largest[tile.devices].box):
            largest[tile.devices] = tile
    for devices, tile in largest.items():
        left, top, right, bottom = _scaled(tile.box, height)
        text = f"Σ {devices[0]}" if card.partial else ",".join(map(str, devices))
        font = min(_FONT, _FONT_OF_TILE * (bottom - top), (right - left) / (_CHARACTER * len(text)))
        if font < _MIN_FONT:
            continue
        plate = len(devices) > 1
        yield element(
            "text", text, x=(left + right) / 2, y=(top + bottom) / 2 + 0.36 * font, text_anchor="middle",
            font_size=font, fill=text_colour(devices[0] if not plate else 1), class_="plate" if plate else "",
        )  # fmt: skip


def _area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])
