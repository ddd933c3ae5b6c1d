"""What devices send each other, as arcs between dots: to higher ranks above, to lower ranks below."""

from __future__ import annotations

from collections.abc import Iterator

from markupsafe import Markup

from sepnas.plan.steps import CLIENT
from sepnas.report.figures.device_colours import device_colour, text_colour
from sepnas.report.figures.elements import element
from sepnas.report.plan_map.values import Flow
from sepnas.units import format_bytes, format_count

_WIDTH, _HEIGHT = 100.0, 44.0
_MIDDLE = _HEIGHT / 2
_MAX_RADIUS = 6.0
_THIN, _THICK = 0.7, 2.2


def flow_picture(flow: Flow, num_devices: int) -> Markup:
    """Dots for all devices, and an arc in the sender's colour for each way; more bytes make it thicker."""
    radius = min(_MAX_RADIUS, 0.36 * _WIDTH / num_devices)
    most = max(flow.nbytes.values(), default=1)
    ways = sorted(flow.nbytes.items(), key=lambda way: way[1])
    return element(
        "svg",
        *(_way(source, to, nbytes, most, num_devices, radius) for (source, to), nbytes in ways),
        *_dots(num_devices, radius),
        viewBox=f"0 0 {_WIDTH:g} {_HEIGHT:g}",
        role="img",
        class_="flow",
        aria_label=describe(flow),
    )


def describe(flow: Flow) -> str:
    """All ways with their bytes, in words."""
    told = "; ".join(_way_text(source, to, nbytes) for (source, to), nbytes in sorted(flow.nbytes.items()))
    return f"{format_count(flow.messages, 'message')}: {told}" if told else "nothing is sent"


def _way_text(source: int, to: int, nbytes: int) -> str:
    ends = ("client" if rank == CLIENT else f"device {rank}" for rank in (source, to))
    return f"{' → '.join(ends)}: {format_bytes(nbytes)}"


def _place(rank: int, num_devices: int) -> float:
    return _WIDTH * (rank + 0.5) / num_devices


def _way(source: int, to: int, nbytes: int, most: int, num_devices: int, radius: float) -> Markup:
    width = _THIN + (_THICK - _THIN) * (nbytes / max(most, 1)) ** 0.5
    if CLIENT in (source, to):
        x, inward = _place(max(source, to), num_devices), source == CLIENT
        tail, head = (1.0, _MIDDLE - radius - 2) if inward else (_MIDDLE + radius, _HEIGHT - 3)
        path, tip, colour = f"M{x:.1f} {tail:.1f}V{head:.1f}", (x, head + 1.6, "down"), "var(--muted)"
        colour = colour if inward else device_colour(source)
    else:
        x0, x1 = _place(source, num_devices), _place(to, num_devices)
        side = -1 if x1 > x0 else 1
        high = min(_MIDDLE - 2, radius + 4 + 14 * abs(x1 - x0) / _WIDTH)
        y = _MIDDLE + side * radius * 0.9
        bend = _MIDDLE + side * (2 * high - radius * 0.9)
        path = f"M{x0:.1f} {y:.1f}Q{(x0 + x1) / 2:.1f} {bend:.1f} {x1:.1f} {y + side * 1.6:.1f}"
        tip, colour = (x1, y, "down" if side < 0 else "up"), device_colour(source)
    return element(
        "g",
        element("title", _way_text(source, to, nbytes)),
        element("path", d=path, fill="none", stroke=colour, stroke_width=width),
        element("path", d=_arrow(*tip), fill=colour),
        class_="mark way",
        data_from=source,
        data_to=to,
        data_bytes=nbytes,
    )


def _arrow(x: float, y: float, towards: str) -> str:
    back = -3.2 if towards == "down" else 3.2
    return f"M{x:.1f} {y:.1f}l-1.9 {back}h3.8z"


def _dots(num_devices: int, radius: float) -> Iterator[Markup]:
    for rank in range(num_devices):
        x = _place(rank, num_devices)
        yield element("circle", cx=x, cy=_MIDDLE, r=radius, fill=device_colour(rank))
        if radius >= 3:
            size = 1.35 * radius
            yield element(
                "text", str(rank), x=x, y=_MIDDLE + 0.36 * size, text_anchor="middle", font_size=size,
                fill=text_colour(rank),
            )  # fmt: skip
