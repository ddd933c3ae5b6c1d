"""A device is sent no more of an input than it reads."""

from __future__ import annotations

from hypothesis import given, settings

from sepnas.plan.input_regions import shrink_inputs
from sepnas.plan.liveness import prune
from sepnas.plan.plan import Piece, Plan, Port, Segment
from sepnas.plan.shapes import Region, Shape
from sepnas.plan.steps import CLIENT, Compute, Merge, Recv, Send, Slice, Step
from sepnas.plan.validation import check_plan
from sepnas.separable.architecture import Architecture
from sepnas.separable.lower import lower
from tests.strategies import architectures

IMAGE = Shape.chw(3, 8, 8)
WHOLE = Region.whole(IMAGE)


def rows(start: int, stop: int, channels: tuple[int, int] = (0, 3)) -> Region:
    return Region((channels, (start, stop), (0, 8)))


def reading(*readers: Step, shapes: dict[str, Shape], piece: Region = WHOLE) -> Plan:
    """One device that receives a piece of an image as ``x``, reads it and answers with ``y``."""
    answer = Send("y", Region.whole(shapes["y"]), "fp32", CLIENT, 9)
    program = (Recv(0, CLIENT, "x"), *readers, answer)
    segment = Segment("s", 0, ("s",), 1, 1, 0, 0)
    used = {"s": segment} if any(isinstance(step, Compute) for step in readers) else {}
    return Plan(
        programs=(program,),
        segments=(used,),
        shapes=({"x": piece.shape(IMAGE), **shapes},),
        inputs=(Port("image", IMAGE, (Piece(piece, 0, 0, "uint8"),)),),
        outputs=(Port.whole("y", shapes["y"], (0, 9)),),
    )


def test_a_piece_is_cut_to_what_its_slices_read() -> None:
    """Two slices of four rows in all: the client sends these rows, and the slices are counted from their first."""
    parts = (Slice("x", rows(1, 3), "a"), Slice("x", rows(3, 5), "b"))
    shapes = {"a": Shape.chw(3, 2, 8), "b": Shape.chw(3, 2, 8), "y": Shape.chw(3, 4, 8)}
    plan = reading(*parts, Merge("concat", ("a", "b"), "y", axis="H"), shapes=shapes)
    check_plan(plan)
    found = shrink_inputs(plan)
    check_plan(found)
    assert found.inputs[0].pieces[0].region == rows(1, 5)
    assert [step.region for step in found.programs[0][1:3]] == [rows(0, 2), rows(2, 4)]  # type: ignore[union-attr]
    assert (plan.input_bytes(), found.input_bytes()) == (192, 96)
    assert prune(plan) == found


def test_a_region_within_a_piece_is_one_of_the_image() -> None:
    """A piece that is not the whole image is cut further, in rows and channels, and its numbers are named by these."""
    piece = rows(2, 8, (1, 3))
    part = Slice("x", Region(((1, 2), (2, 4), (0, 8))), "y")
    plan = reading(part, shapes={"y": Shape.chw(1, 2, 8)}, piece=piece)
    found = shrink_inputs(plan)
    check_plan(found)
    [port] = found.inputs
    assert port.pieces[0].region == rows(4, 6, (2, 3))
    assert (plan.inputs[0].normalisation(plan.inputs[0].pieces[0]), port.normalisation(port.pieces[0])) == (
        "normalise:image:1-3", "normalise:image:2-3",
    )  # fmt: skip


def test_a_piece_that_a_segment_reads_stays_whole() -> None:
    """A slice beside a segment changes nothing, and neither do slices of everything."""
    shapes = {"a": Shape.chw(3, 2, 8), "y": Shape.chw(3, 2, 8)}
    computed = reading(Slice("x", rows(0, 2), "a"), Compute("s", ("x",), ("y",)), shapes=shapes)
    assert shrink_inputs(computed) is computed
    whole = reading(Slice("x", rows(0, 8), "y"), shapes={"y": IMAGE})
    assert shrink_inputs(whole) is whole


@settings(max_examples=20, deadline=None)
@given(architectures())
def test_a_part_reads_its_whole_image(architecture: Architecture) -> None:
    """Plans of separable networks stay as they are."""
    plan = lower(architecture)
    assert shrink_inputs(plan) is plan
