"""One device's program while a graph is lowered: its steps in order, and the regions of tensors that it holds."""

from __future__ import annotations

from collections.abc import Mapping

from sepnas.errors import PlanError
from sepnas.partition.parts import NodePart
from sepnas.partition.regions import contains, within
from sepnas.partition.segment_run import SegmentRun
from sepnas.plan.kinds.kind import Dims, sizes_text, whole
from sepnas.plan.plan import Segment
from sepnas.plan.shapes import Region, Shape
from sepnas.plan.steps import Compute, Recv, Slice, Step

Held = tuple[Region, str]
"""A region of a tensor of the graph, and its name on the device."""


class ProgramBuilder:
    """The steps of one device in order. ``held`` are the regions that it has of each tensor of the graph."""

    def __init__(self, rank: int) -> None:
        self.rank = rank
        self.held: dict[str, list[Held]] = {}
        self._items: list[Step | SegmentRun] = []
        self._dims: dict[str, tuple[Dims, str]] = {}
        self._open: SegmentRun | None = None

    def new(self, tensor: str, dims: Dims, axes: str) -> str:
        """A name of its own for a tensor that is a part of one of the graph's."""
        name, number = tensor, 1
        while name in self._dims:
            number += 1
            name = f"{tensor}#{number}"
        self._dims[name] = dims, axes
        return name

    def shape(self, name: str) -> Shape:
        """The shape of one sample; :class:`PlanError` for a tensor that does not begin with the axis of samples."""
        dims, axes = self._dims[name]
        if not dims or dims[0] != 1:
            raise PlanError(
                f"tensor '{name}' of {sizes_text(dims)} does not begin with the axis of samples, so it cannot leave a "
                "segment; choose a scheme that leaves the operators around it on one device"
            )
        return Shape(dims[1:], axes[1:])

    def step(self, step: Step) -> None:
        """Append a step; computing that it needs, or that would wait for it, comes before."""
        if self._open is not None and (isinstance(step, Recv) or not set(step.reads).isdisjoint(self._open.made)):
            self._open = None
        # a step that does not end the segment being put together goes before it: the segment may use what it makes
        self._items.insert(len(self._items) - (self._open is not None), step)

    def compute(self, part: NodePart, operands: Mapping[str, Held], axes: tuple[str, ...]) -> tuple[Held, ...]:
        """Compute a part from held tensors by role; what it makes, cropped to the region that was asked for."""
        node = part.node
        names = {role: self.narrowed(held, part.needs[role], node.name) for role, held in operands.items()}
        if self._open is None:
            self._open = SegmentRun()
            self._items.append(self._open)
        made = zip(node.outputs, part.smaller.shapes, axes, strict=True)
        outputs = tuple(self.new(name, dims, letters) for name, dims, letters in made)
        self._open.add(part, names, outputs)
        if node.kind is None or len(outputs) > 1:
            return tuple((whole(dims), name) for name, dims in zip(outputs, part.smaller.shapes, strict=True))
        return ((part.region, self._cropped(self._open, outputs[0], part.smaller.found.crop, node.name)),)

    def narrowed(self, held: Held, region: Region, layer: str | None = None) -> str:
        """The name of a region of a held tensor: a view, or a slice in the segment that makes it for ``layer``."""
        outer, name = held
        own = within(region, outer)
        if region == outer:
            return name
        if layer is not None and self._open is not None and name in self._open.made:
            return self._cropped(self._open, name, own, layer)
        view = self.new(name, region.dims, self._dims[name][1])
        self.step(Slice(name, Region(own.ranges[1:]), view))
        return view

    def _cropped(self, run: SegmentRun, name: str, region: Region, layer: str) -> str:
        dims, axes = self._dims[name]
        for axis, (start, stop) in enumerate(region.ranges):
            if (start, stop) != (0, dims[axis]):
                dims = (*dims[:axis], stop - start, *dims[axis + 1 :])
                smaller = self.new(name, dims, axes)
                run.add_slice(layer, name, smaller, dims, {"dim": axis, "start": start, "end": stop, "step": 1})
                name = smaller
        return name

    def find(self, tensor: str, region: Region) -> Held | None:
        """A held tensor that has a region of a tensor of the graph; the smallest of several."""
        found = [held for held in self.held.get(tensor, ()) if contains(held[0], region)]
        return min(found, key=lambda held: held[0].num_values, default=None)

    def finished(self) -> tuple[tuple[Step, ...], dict[str, Segment], dict[str, Shape]]:
        """The program with its segments by name, and the shapes of its tensors."""
        self._drop_unused()
        read = set[str]().union(*(item.reads for item in self._items))
        steps: list[Step] = []
        segments: dict[str, Segment] = {}
        for item in self._items:
            if isinstance(item, SegmentRun):
                outputs = tuple(name for name in item.made if name in read)
                segment = item.segment(self.rank, outputs, segments)
                segments[segment.name] = segment
                steps.append(Compute(segment.name, item.reads, outputs))
            else:
                steps.append(item)
        used = dict.fromkeys(name for step in steps for name in step.writes)
        return tuple(steps), segments, {name: self.shape(name) for name in used}

    def _drop_unused(self) -> None:
        """Leave out what nothing reads: regions that all who need them compute themselves."""
        read, kept = set[str](), list[Step | SegmentRun]()
        for item in reversed(self._items):
            if isinstance(item, SegmentRun):
                item.keep(read)
            if not isinstance(item, SegmentRun) or item.entries:
                read.update(item.reads)
                kept.append(item)
        self._items = kept[::-1]
