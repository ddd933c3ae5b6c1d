"""Operators that change the number of positions: up-sampling and pixel shuffles."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from sepnas.plan.kinds.kind import (
    AtenCall,
    Attributes,
    Dims,
    GraphOperator,
    OperatorUse,
    Restriction,
    exactly,
    sizes_text,
)
from sepnas.plan.shapes import Range, Region


@dataclass(frozen=True)
class Upsampling(GraphOperator):
    """Interpolation to ``output_size``; cut where the factor is a whole number. ``halo``: inputs beside each output."""

    spatial: int = 2
    halo: int = 0

    parameters = ()

    def normalise(self, overload: str, use: OperatorUse) -> Attributes:
        size, data = use.get("output_size"), use["input"]
        factors = use.get("scale_factors")
        if not size:
            size = [math.floor(n * f) for n, f in zip(data[-self.spatial :], factors or (), strict=True)]
        if factors and any(n * f != out for n, f, out in zip(data[-self.spatial :], factors, size, strict=True)):
            raise ValueError(f"scales {sizes_text(data)} by {factors}, to no whole number of positions")
        return {"output_size": list(size), "align_corners": bool(use.get("align_corners", False))}

    def output(self, use: OperatorUse) -> Dims:
        data = use["input"]
        if len(data) != self.spatial + 2:
            raise ValueError(f"{sizes_text(data)} has no {self.spatial} axes besides samples and channels")
        return (*data[:2], *use.per_axis("output_size", self.spatial, 1))

    def cuts(self, use: OperatorUse) -> Mapping[int, int]:
        whole_factors = all(out % size == 0 for size, out in zip(use["input"], self.output(use), strict=True))
        spatial = range(2, 2 + self.spatial)
        return dict.fromkeys((0, 1, *spatial) if whole_factors and not use.get("align_corners") else (0, 1), 1)

    def part(self, use: OperatorUse, region: Region) -> Restriction:
        if 2 not in self.cuts(use):
            own = (*region.ranges[:2], *((0, size) for size in use["input"][2:]))
            return exactly({"input": Region(own)}, use.attributes, region.dims)
        ranges, sizes, crop = list(region.ranges[:2]), [], [(0, n) for n in region.dims[:2]]
        for (start, stop), size, out in zip(region.ranges[2:], use["input"][2:], self.output(use)[2:], strict=True):
            factor = out // size
            low = max(0, start // factor - self.halo)
            high = min(size, -(-stop // factor) + self.halo)
            ranges.append((low, high))
            sizes.append((high - low) * factor)
            crop.append((start - low * factor, stop - low * factor))
        attributes = {**use.attributes, "output_size": sizes}
        return Restriction({"input": Region(tuple(ranges))}, attributes, Region(tuple(crop)))

    def calls(self, use: OperatorUse) -> tuple[AtenCall, ...]:
        arguments = {"output_size": list(self.output(use)[2:])}
        if self.halo:
            arguments["align_corners"] = use.get("align_corners", False)
        return (AtenCall(self.aten[0], {"input": "input"}, arguments),)


class PixelShuffle(GraphOperator):
    """Channels to positions: (..., C r r, H, W) to (..., C, H r, W r) with r = ``upscale_factor``."""

    parameters = ()

    def output(self, use: OperatorUse) -> Dims:
        *leading, channels, height, width = _image(use["self"])
        factor = use.get("upscale_factor", 1)
        if channels % factor**2:
            raise ValueError(f"{channels} channels are not a multiple of {factor}x{factor}")
        return (*leading, channels // factor**2, height * factor, width * factor)

    def cuts(self, use: OperatorUse) -> Mapping[int, int]:
        rank, factor = len(use["self"]), use.get("upscale_factor", 1)
        return {**dict.fromkeys(range(rank - 2), 1), rank - 2: factor, rank - 1: factor}

    def part(self, use: OperatorUse, region: Region) -> Restriction:
        factor, (*leading, channels, rows, columns) = use.get("upscale_factor", 1), region.ranges
        own = (*leading, _times(channels, factor**2), _divided(rows, factor), _divided(columns, factor))
        return exactly({"self": Region(own)}, use.attributes, region.dims)


class PixelUnshuffle(GraphOperator):
    """Positions to channels, the opposite of a pixel shuffle, with ``downscale_factor``."""

    parameters = ()

    def output(self, use: OperatorUse) -> Dims:
        *leading, channels, height, width = _image(use["self"])
        factor = use.get("downscale_factor", 1)
        if height % factor or width % factor:
            raise ValueError(f"{sizes_text(use['self'])} has sides that are no multiple of {factor}")
        return (*leading, channels * factor**2, height // factor, width // factor)

    def cuts(self, use: OperatorUse) -> Mapping[int, int]:
        rank, factor = len(use["self"]), use.get("downscale_factor", 1)
        return {**dict.fromkeys(range(rank), 1), rank - 3: factor**2}

    def part(self, use: OperatorUse, region: Region) -> Restriction:
        factor, (*leading, channels, rows, columns) = use.get("downscale_factor", 1), region.ranges
        own = (*leading, _divided(channels, factor**2), _times(rows, factor), _times(columns, factor))
        return exactly({"self": Region(own)}, use.attributes, region.dims)


def _image(dims: Dims) -> Dims:
    if len(dims) < 3:
        raise ValueError(f"{sizes_text(dims)} has no channels, height and width")
    return dims


def _times(span: Range, factor: int) -> Range:
    return span[0] * factor, span[1] * factor


def _divided(span: Range, factor: int) -> Range:
    return span[0] // factor, span[1] // factor
