"""Colours of devices, and stripes for what several devices compute: the same on the whole page and in both themes.

The hues are those of Okabe and Ito, distinguishable with all common kinds of colour vision; each device has its number
on them as well. From the ninth device on they are repeated.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from markupsafe import Markup

from sepnas.report.figures.elements import element

DARK, LIGHT = "#14171b", "#ffffff"
DEVICE_COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442", "#8f98a3")
_LIGHT_TEXT = frozenset((DEVICE_COLOURS[0],))
_STRIPE = 3.2


def device_colour(device: int) -> str:
    """The fill of a device's regions."""
    return DEVICE_COLOURS[device % len(DEVICE_COLOURS)]


def text_colour(device: int) -> str:
    """A colour of text that is legible on the device's colour."""
    return LIGHT if device_colour(device) in _LIGHT_TEXT else DARK


def fill_of(devices: Sequence[int], prefix: str) -> str:
    """The fill of what these devices compute: a colour, or the pattern of :func:`stripes` with the same prefix."""
    return device_colour(devices[0]) if len(devices) == 1 else f"url(#{_pattern_id(devices, prefix)})"


def _pattern_id(devices: Iterable[int], prefix: str) -> str:
    return f"{prefix}-both-{'-'.join(map(str, devices))}"


def stripes(devices: Sequence[int], prefix: str) -> Markup:
    """A pattern of a stripe in the colour of each device."""
    width = _STRIPE * len(devices)
    bars = [
        element("rect", x=_STRIPE * place, width=_STRIPE, height=width, fill=device_colour(device))
        for place, device in enumerate(devices)
    ]
    return element(
        "pattern", *bars, id=_pattern_id(devices, prefix), patternUnits="userSpaceOnUse", width=width, height=width,
        patternTransform="rotate(45)",
    )  # fmt: skip
