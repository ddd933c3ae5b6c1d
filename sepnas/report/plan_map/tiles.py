"""The regions of a layer as tiles on the unit square: rows, tokens and frames run down, columns and channels across."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from sepnas.plan.kinds.kind import Dims
from sepnas.plan.shapes import Region
from sepnas.report.plan_map.layers import MappedLayer
from sepnas.report.plan_map.values import Box, Form, Tile

_AXES_BY_RANK: Mapping[int, str] = {2: "NC", 3: "NLC", 4: "NCHW", 5: "NCTHW"}
"""The names of a tensor's axes where the graph is not known."""
_WORDS: Mapping[str, str] = {"C": "channels", "H": "rows", "W": "columns", "L": "tokens", "T": "frames"}
_DOWN = "HLT"
_WORDS_OF_TERMS: Mapping[int, tuple[str, ...]] = {2: ("rows", "columns"), 3: ("frames", "rows", "columns")}
_ATTENTION = "attention"
_NEAR = 1e-9


@dataclass(frozen=True, slots=True)
class View:
    """The axes of a layer that are drawn: the one that runs down and the one that runs across, where they are cut."""

    across: int | None
    down: int | None
    across_word: str
    down_word: str

    def box(self, region: Region, dims: Dims) -> Box:
        """A region of a tensor of these sizes on the unit square."""
        left, right = _share(region, dims, self.across)
        top, bottom = _share(region, dims, self.down)
        return left, top, right, bottom


def _share(region: Region, dims: Dims, axis: int | None) -> tuple[float, float]:
    if axis is None:
        return 0.0, 1.0
    return region.ranges[axis][0] / dims[axis], region.ranges[axis][1] / dims[axis]


def axes_of(dims: Dims, axes: str | None) -> str:
    """The names of a layer's axes: the graph's, or those that are usual for their number."""
    if axes is not None and len(axes) == len(dims):
        return axes
    return _AXES_BY_RANK.get(len(dims), "N" + "?" * (len(dims) - 1))


def form_of(dims: Dims) -> Form:
    """How the output of a layer is drawn."""
    return "vector" if sum(size > 1 for size in dims) < 2 else "map"


def view_of(layer: MappedLayer, axes: str) -> View:
    """Which axes of a layer to draw: those along which the parts of the devices differ."""
    if layer.partial:
        return _view_of_terms(layer)
    cut = [axis for axis in range(1, len(layer.dims)) if _is_cut(layer, axis)]
    down = next((axis for axis in cut if axes[axis] in _DOWN), None)
    across = next((axis for axis in cut if axis != down), None)
    return View(across, down, _word(layer, axes, across), _word(layer, axes, down))


def _view_of_terms(layer: MappedLayer) -> View:
    """Terms are input channels of layers that multiply, and else places, which are rows and columns if on two axes."""
    down, across = _cut_terms(layer)
    if any(part.macs for part in layer.parts):
        return View(None, None, "input channels", "")
    words = _WORDS_OF_TERMS.get(len(_sizes_of_terms(layer)), ())
    found = ["" if axis is None else words[axis] if words else "places" for axis in (across, down)]
    return View(None, None, found[0], found[1])


def _sizes_of_terms(layer: MappedLayer) -> Dims:
    """The number of terms along each of their axes: where the last share ends."""
    shares = (part.terms.ranges for part in layer.parts if part.terms)
    return tuple(max(stop for _, stop in ranges) for ranges in zip(*shares, strict=True))


def _cut_terms(layer: MappedLayer) -> tuple[int | None, int | None]:
    """The axes of the terms that run down and across, where they are cut; a single axis runs across."""
    sizes, shares = _sizes_of_terms(layer), [part.terms for part in layer.parts if part.terms]
    cut = [axis for axis, size in enumerate(sizes) if any(each.ranges[axis] != (0, size) for each in shares)]
    if len(sizes) == 1:
        return None, 0
    down = next((axis for axis in cut if axis < len(sizes) - 1), None)
    return down, next((axis for axis in cut if axis != down), None)


def _is_cut(layer: MappedLayer, axis: int) -> bool:
    whole = (0, layer.dims[axis])
    return any(part.region is not None and part.region.ranges[axis] != whole for part in layer.parts)


def _word(layer: MappedLayer, axes: str, axis: int | None) -> str:
    if axis is None:
        return ""
    if _ATTENTION in layer.operator and axis == 1 and len(layer.dims) > 3:
        return "heads"
    return _WORDS.get(axes[axis], "features" if axis == len(layer.dims) - 1 else "parts")


def boxes_of(layer: MappedLayer, view: View) -> list[tuple[Box, int]]:
    """The part of each device on the unit square; for partial results, the terms that they join."""
    if layer.partial:
        sizes, (down, across) = _sizes_of_terms(layer), _cut_terms(layer)
        shown = View(across, down, "", "")
        return [(shown.box(part.terms, sizes), part.device) for part in layer.parts if part.terms]
    return [(view.box(part.region, layer.dims), part.device) for part in layer.parts if part.region is not None]


def tiles_of(boxes: Sequence[tuple[Box, int]]) -> tuple[Tile, ...]:
    """Disjoint tiles, each with all devices that have it; neighbours of the same devices are joined."""
    xs = sorted({edge for box, _ in boxes for edge in (box[0], box[2])})
    ys = sorted({edge for box, _ in boxes for edge in (box[1], box[3])})
    cells = [
        Tile((left, top, right, bottom), devices)
        for top, bottom in pairwise(ys)
        for left, right in pairwise(xs)
        if (devices := _having(boxes, (left + right) / 2, (top + bottom) / 2))
    ]
    return tuple(_joined(_joined(cells, _beside), _below))


def _having(boxes: Iterable[tuple[Box, int]], x: float, y: float) -> tuple[int, ...]:
    return tuple(sorted({device for (x0, y0, x1, y1), device in boxes if x0 < x < x1 and y0 < y < y1}))


def _joined(tiles: Iterable[Tile], touches: Callable[[Box, Box], bool]) -> list[Tile]:
    found: list[Tile] = []
    for tile in tiles:
        at = next(
            (n for n, other in enumerate(found) if other.devices == tile.devices and touches(other.box, tile.box)), None
        )
        if at is None:
            found.append(tile)
        else:
            found[at] = Tile((*found[at].box[:2], *tile.box[2:]), tile.devices)
    return found


def _beside(one: Box, other: Box) -> bool:
    return abs(one[2] - other[0]) < _NEAR and one[1] == other[1] and one[3] == other[3]


def _below(one: Box, other: Box) -> bool:
    return abs(one[3] - other[1]) < _NEAR and one[0] == other[0] and one[2] == other[2]


def parts_beside(devices: Sequence[int], num_devices: int) -> Iterator[Tile]:
    """A column for each device that has a part of its own."""
    for device in devices:
        yield Tile((device / num_devices, 0.0, (device + 1) / num_devices, 1.0), (device,))
