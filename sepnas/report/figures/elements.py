"""Elements of SVG as text, with escaped attributes."""

from __future__ import annotations

from markupsafe import Markup, escape

from sepnas.terminal import printable


def element(tag: str, *children: str, **attributes: str | float) -> Markup:
    """An element; ``_`` in an attribute's name is a hyphen, and a final one is dropped (``class_``)."""
    written = Markup("").join(
        Markup(' {}="{}"').format(name.rstrip("_").replace("_", "-"), _text(value))
        for name, value in attributes.items()
    )
    inside = Markup("").join(child if isinstance(child, Markup) else escape(_text(child)) for child in children)
    return Markup(f"<{tag}{written}>{inside}</{tag}>")


def _text(value: str | float) -> str:
    return printable(value) if isinstance(value, str) else f"{value:.2f}".rstrip("0").rstrip(".")
