"""Turns a matplotlib figure into inline SVG with tooltips, the page's colours and unique ids."""

from __future__ import annotations

import io
import re
import warnings
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator, Sequence

import matplotlib as mpl
from markupsafe import Markup

from sepnas.report.figures.style import SETTINGS, VARIABLES, Drawing, Tip
from sepnas.terminal import printable

_NO_METADATA = {"Date": None, "Creator": None, "Format": None, "Type": None}
_COLOUR = re.compile("|".join(VARIABLES))
# Removed, so that the page's font applies: matplotlib's list would override it.
_FONT_FAMILY = re.compile(r"font-family:[^;]*;?\s*")


def inline_svg(draw: Callable[[], Drawing]) -> Markup:
    """Draw with the page's settings and return the SVG element; the same values give the same text."""
    with mpl.rc_context(dict(SETTINGS)), warnings.catch_warnings():
        # the browser draws the text, with fonts that have more glyphs than matplotlib's
        warnings.filterwarnings("ignore", r"Glyph \d+", UserWarning)
        drawing = draw()
        buffer = io.StringIO()
        with mpl.rc_context({"svg.hashsalt": drawing.name}):
            drawing.figure.savefig(buffer, format="svg", metadata=_NO_METADATA)
    # The DOCTYPE refers to a file on the network; the element tree omits it.
    root = ET.fromstring(printable(buffer.getvalue()))  # control characters in names are invalid in XML
    for element in root.iter():
        _localise(element, drawing.name)
    for gid, tips in drawing.tips.items():
        _add_tips(root, f"{drawing.name}-{gid}", tips)
    return _finished(root, drawing)


def _localise(element: ET.Element, prefix: str) -> None:
    """Remove namespaces (HTML needs none for SVG), make ids unique, use the style sheet's colours."""
    element.tag = element.tag.rpartition("}")[2]
    attributes = {key.rpartition("}")[2]: value for key, value in element.attrib.items()}
    element.attrib.clear()
    for key, value in attributes.items():
        if key == "id":
            value = f"{prefix}-{value}"
        elif key == "href":
            value = f"#{prefix}-{value.removeprefix('#')}"
        elif key == "style":
            value = _COLOUR.sub(lambda found: f"var(--{VARIABLES[found[0]]})", _FONT_FAMILY.sub("", value))
        element.set(key, value.replace("url(#", f"url(#{prefix}-"))


def _add_tips(root: ET.Element, group_id: str, tips: Sequence[Tip]) -> None:
    group = next(element for element in root.iter("g") if element.get("id") == group_id)
    marks = list(_marks(group))
    # matplotlib writes equal shapes as <use>, different ones as <path>, in the order of the values.
    marks = [mark for mark in marks if mark.tag == "use"] or marks
    for mark, tip in zip([group] if len(tips) == 1 else marks, tips, strict=True):
        ET.SubElement(mark, "title").text = printable(tip.text)
        mark.set("class", "mark")
        if tip.key:
            mark.set("data-key", tip.key)


def _marks(element: ET.Element) -> Iterator[ET.Element]:
    for child in element:
        if child.tag in ("use", "path"):
            yield child
        elif child.tag != "defs":
            yield from _marks(child)


def _finished(root: ET.Element, drawing: Drawing) -> Markup:
    width, height = (float(number) for number in root.attrib["viewBox"].split()[2:])
    for style in [child for child in root if child.tag == "defs" and child.find("style") is not None]:
        root.remove(style)
    for key in ("width", "height", "version"):
        root.attrib.pop(key, None)
    root.set("viewBox", f"0 0 {width:g} {height:g}")
    root.set("role", "img")
    root.set("aria-label", printable(drawing.description))
    text = ET.tostring(root, encoding="unicode")
    return Markup(re.sub(r"\s*\n\s*", " ", text))
