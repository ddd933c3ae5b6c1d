"""Inputs as small as they are used: a device that reads only regions of an input is sent no more than these."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from sepnas.plan.plan import Piece, Plan, Port
from sepnas.plan.shapes import Region
from sepnas.plan.steps import Recv, Send, Slice, Step


def shrink_inputs(plan: Plan) -> Plan:
    """The same plan, with each piece of an input cut to the block that holds all regions that its device reads.

    A piece that a segment or a merge reads is read as a whole. The outputs stay the same, bit for bit.
    """
    used = {piece.tag: _used(plan.programs[piece.device], piece) for port in plan.inputs for piece in port.pieces}
    smaller = {tag: region for tag, region in used.items() if region is not None}
    if not smaller:
        return plan
    programs, shapes = list(plan.programs), [dict(known) for known in plan.shapes]
    for rank, program in enumerate(plan.programs):
        for step in program:
            if isinstance(step, Recv) and step.tag in smaller:
                region = smaller[step.tag]
                shapes[rank][step.tensor] = region.shape(shapes[rank][step.tensor])
                programs[rank] = tuple(_moved(each, step.tensor, region) for each in programs[rank])
    inputs = tuple(_cut(port, smaller) for port in plan.inputs)
    return replace(plan, programs=tuple(programs), shapes=tuple(shapes), inputs=inputs, tensors_bytes=None)


def _used(program: Sequence[Step], piece: Piece) -> Region | None:
    """The block of the received tensor that is read; None if that is all of it."""
    name = next(step.tensor for step in program if isinstance(step, Recv) and step.tag == piece.tag)
    readers = [step for step in program if name in step.reads]
    regions = [step.region for step in readers if isinstance(step, Slice | Send)]
    if not regions or len(regions) < len(readers):
        return None
    block = _block(regions)
    return None if block.num_values == piece.region.num_values else block


def _block(regions: Iterable[Region]) -> Region:
    """The smallest block that holds all regions."""
    axes = zip(*(region.ranges for region in regions), strict=True)
    return Region(tuple((min(start for start, _ in axis), max(stop for _, stop in axis)) for axis in axes))


def _moved(step: Step, tensor: str, block: Region) -> Step:
    """A step that reads a region of ``tensor``, of which only ``block`` is left."""
    if isinstance(step, Slice | Send) and step.tensor == tensor:
        return replace(step, region=_shifted(step.region, block, -1))
    return step


def _cut(port: Port, smaller: dict[int, Region]) -> Port:
    """The port with smaller pieces; their new regions are given within the old ones."""
    pieces = (
        replace(piece, region=_shifted(smaller[piece.tag], piece.region, 1)) if piece.tag in smaller else piece
        for piece in port.pieces
    )
    return replace(port, pieces=tuple(pieces))


def _shifted(region: Region, origin: Region, sign: int) -> Region:
    starts = [sign * start for start, _ in origin.ranges]
    return Region(tuple((start + by, stop + by) for (start, stop), by in zip(region.ranges, starts, strict=True)))
