"""Every lowered plan is valid; whatever is done to one is refused, and the step is named."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise, product
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from sepnas.errors import PlanError
from sepnas.plan.plan import Piece, Plan, Port, Segment
from sepnas.plan.shapes import Region, Shape, cover_problem
from sepnas.plan.steps import CLIENT, Compute, Merge, Recv, Send, Slice, Step
from sepnas.plan.validation import check_plan, plan_problems
from sepnas.separable.architecture import Architecture
from sepnas.separable.build import build_plan
from sepnas.separable.lower import lower
from tests.strategies import architectures

QUICK = settings(max_examples=40, deadline=None)
Mutation = Callable[[Step], Step | Sequence[Step] | None]


@QUICK
@given(architectures())
def test_every_lowered_plan_is_valid(architecture: Architecture) -> None:
    """Whatever an architecture and its policy are, their plan can be carried out, pruned or not."""
    assert plan_problems(lower(architecture)) == []
    assert plan_problems(build_plan(architecture)) == []


def _other_region(step: Step) -> Step | None:
    if not isinstance(step, Send):
        return None
    (start, stop), *others = step.region.ranges
    return replace(step, region=Region(((start, stop + 1), *others)))


def _narrower(step: Step) -> Step | None:
    if not isinstance(step, Send) or step.region.ranges[0][1] < 2:
        return None
    (start, stop), *others = step.region.ranges
    return replace(step, region=Region(((start, stop - 1), *others)))


MUTATIONS: dict[str, tuple[type[Step], Mutation]] = {
    "a send is lost": (Send, lambda step: ()),
    "a receive is lost": (Recv, lambda step: ()),
    "a send goes to another device": (Send, lambda step: replace(step, to=99)),
    "a send has another tag": (Send, lambda step: replace(step, tag=1 << 20)),
    "a send is done twice": (Send, lambda step: (step, step)),
    "a send takes what is not there": (Send, lambda step: replace(step, tensor="nothing")),
    "a send takes more than there is": (Send, _other_region),
    "a send takes less than is due": (Send, _narrower),
    "a send goes to itself": (Send, lambda step: replace(step, to=0)),
    "a receive is done twice": (Recv, lambda step: (step, replace(step, tensor="again"))),
    "a receive waits for another device": (Recv, lambda step: replace(step, source=step.source + 1)),
    "a receive waits for another message": (Recv, lambda step: replace(step, tag=1 << 20)),
    "a receive makes a tensor without a shape": (Recv, lambda step: replace(step, tensor="unknown")),
    "a computation is lost": (Compute, lambda step: ()),
    "a computation takes what is not there": (Compute, lambda step: replace(step, inputs=("nothing",))),
    "a computation binds too much": (Compute, lambda step: replace(step, inputs=step.inputs * 2)),
    "a computation makes too little": (Compute, lambda step: replace(step, outputs=())),
    "a segment is not there": (Compute, lambda step: replace(step, segment="nothing")),
    "a merge is lost": (Merge, lambda step: ()),
    "a merge is of no kind": (Merge, lambda step: replace(step, kind="median")),
    "a merge has no axis": (Merge, lambda step: replace(step, axis="T")),
    "a merge does not fit": (Merge, lambda step: replace(step, kind="concat", parameter=None)),
    "a merge takes what is not there": (Merge, lambda step: replace(step, inputs=(*step.inputs, "nothing"))),
}


@pytest.mark.parametrize("name", MUTATIONS)
@settings(max_examples=12, deadline=None)
@given(architecture=architectures(), data=st.data())
def test_a_mutated_plan_is_refused(name: str, architecture: Architecture, data: st.DataObject) -> None:
    """One step that is lost, doubled or changed makes a plan that is refused, with a device and a step or a port."""
    plan = build_plan(architecture)
    kind, change = MUTATIONS[name]
    places = [
        (rank, index)
        for rank, program in enumerate(plan.programs)
        for index, step in enumerate(program)
        if isinstance(step, kind)
    ]
    assume(places)
    rank, index = data.draw(st.sampled_from(places))
    step = plan.programs[rank][index]
    changed = change(step)
    assume(changed is not None and changed != step and not (name.endswith("to itself") and rank))
    steps = changed if isinstance(changed, tuple) else (changed,)
    program = (*plan.programs[rank][:index], *steps, *plan.programs[rank][index + 1 :])
    programs = (*plan.programs[:rank], program, *plan.programs[rank + 1 :])
    with pytest.raises(PlanError, match=r"plan: (device \d+|input|output)"):
        check_plan(replace(plan, programs=programs))


PORTS: dict[str, Callable[[Plan], dict[str, Any]]] = {
    "has no output": lambda plan: {"outputs": ()},
    "no input takes": lambda plan: {"inputs": ()},
    "there twice": lambda plan: {"outputs": plan.outputs * 2},
    "does not send message": lambda plan: {"outputs": (_piece(plan.outputs[0], tag=1 << 20),)},
    "holds C 0..": lambda plan: {"outputs": (_piece(plan.outputs[0], region=Region(((0, 99),))),)},
    "without a value": lambda plan: {"outputs": (_piece(plan.outputs[0], region=Region(((0, 1),))),)},
    "but the piece is fp16": lambda plan: {"outputs": (_piece(plan.outputs[0], wire="fp16"),)},
    "has no fallbacks": lambda plan: {"inputs": (replace(plan.inputs[0], fallbacks=plan.inputs[0].pieces),)},
    "which no step makes": lambda plan: {"shapes": tuple({**each, "spare": Shape.vector(1)} for each in plan.shapes)},
}


def _piece(port: Port, **values: Any) -> Port:
    return replace(port, pieces=(replace(port.pieces[0], **values),))


@pytest.mark.parametrize("says", PORTS)
@settings(max_examples=8, deadline=None)
@given(architecture=architectures())
def test_ports_that_do_not_fit_are_refused(says: str, architecture: Architecture) -> None:
    """An input that nobody takes, or an output that nobody sends or that is not whole, is refused by name."""
    plan = build_plan(architecture)
    says = says.replace("no input takes", "from the client, which never sends it")
    with pytest.raises(PlanError, match=says.replace(".", r"\.")):
        check_plan(replace(plan, **PORTS[says if says in PORTS else "no input takes"](plan)))


VALUE = Shape.vector(4)


def _exchanging(*programs: tuple[Step, ...]) -> Plan:
    """Devices that only receive, slice and send; one of them answers."""
    shapes = tuple({name: VALUE for step in program for name in step.writes} for program in programs)
    pieces = [
        (step.to, rank, step.tag) for rank, program in enumerate(programs) for step in program if isinstance(step, Send)
    ]
    inputs = Port.whole("x", VALUE, *[(rank, rank) for rank in range(len(programs))])
    outputs = Port.whole("y", VALUE, *[(rank, tag) for to, rank, tag in pieces if to == CLIENT])
    return Plan(programs, tuple({} for _ in programs), shapes, (inputs,), (outputs,))


WHOLE = Region.whole(VALUE)


def test_answers_that_the_client_cannot_read_are_refused() -> None:
    """A learned scale is no number that the client has, and a fallback stands for the whole output."""
    part = Region(((0, 2),))
    half = Send("a", part, "fp32", 0, 2)
    other = (Recv(1, CLIENT, "a"), half)
    plan = _exchanging((Recv(0, CLIENT, "a"), Send("a", WHOLE, "int8", CLIENT, 9, "step")), other)
    output = replace(plan.outputs[0], pieces=(Piece(WHOLE, 0, 9, "int8"),), fallbacks=(Piece(part, 1, 2),))
    with pytest.raises(PlanError) as caught:
        check_plan(replace(plan, outputs=(output,)))
    assert "sends message 9 with scale 'step', which the client does not have" in str(caught.value)
    assert "message 2 is a fallback, so it must be the whole output, C 4" in str(caught.value)


def test_devices_that_wait_for_each_other_are_named() -> None:
    """A circle of blocking receives over three devices is refused with each step that waits; sent first, it is none."""

    def device(rank: int, first: Sequence[int], *more: Step) -> tuple[Step, ...]:
        send = Send("x", WHOLE, "fp32", (rank + 1) % 3, 10 + rank)
        recv = Recv(10 + (rank - 1) % 3, (rank - 1) % 3, "r")
        return (Recv(rank, CLIENT, "x"), *((send, recv) if first[rank] else (recv, send)), *more)

    answer = Send("r", WHOLE, "fp32", CLIENT, 20)
    waiting = _exchanging(device(0, (0, 0, 0), answer), device(1, (0, 0, 0)), device(2, (0, 0, 0)))
    with pytest.raises(PlanError, match=r"device 0, step 1 \(recv 'r'\): waits for message 12 from device 2") as found:
        check_plan(waiting)
    assert "0 -> 2 -> 1 -> 0 wait for each other" in str(found.value)
    assert len(str(found.value).splitlines()) == 3
    check_plan(_exchanging(device(0, (1, 1, 1), answer), device(1, (1, 1, 1)), device(2, (1, 1, 1))))


def test_a_message_that_never_comes_is_named() -> None:
    """A receive of a message that its source sends to nobody, or to another device, is refused with both devices."""
    lost = (Recv(1, CLIENT, "x"), Recv(6, 0, "r"), Send("x", WHOLE, "fp32", CLIENT, 9))
    with pytest.raises(PlanError, match=r"step 1 \(recv 'r'\): waits for message 6 from device 0, which never sends"):
        check_plan(_exchanging((Recv(0, CLIENT, "x"),), lost))
    sender = (Recv(0, CLIENT, "x"), Send("x", WHOLE, "fp32", 2, 6))
    with pytest.raises(PlanError, match=r"waits for message 6, which device 0 sends to device 2"):
        check_plan(_exchanging(sender, lost, (Recv(2, CLIENT, "x"),)))


def test_errors_stay_on_their_line() -> None:
    """A name with control characters cannot forge a line of an error or reach a terminal."""
    name = "q\x1b[31m\nforged"
    with pytest.raises(PlanError) as found:
        check_plan(_exchanging((Recv(0, CLIENT, "x"), Send(name, WHOLE, "fp32", CLIENT, 9))))
    assert r"sends tensor 'q\x1b[31m\nforged'" in str(found.value)
    assert all(line.isprintable() for line in str(found.value).splitlines())


@settings(max_examples=60, deadline=None)
@given(data=st.data(), num_axes=st.integers(0, 4))
def test_many_regions_are_compared_like_few(data: st.DataObject, num_axes: int) -> None:
    """Regions that tile a tensor cover it however many they are; moved, doubled or lost ones do not."""
    cuts = [sorted({0, 12, *data.draw(st.lists(st.integers(1, 11), max_size=5))}) for _ in range(num_axes)]
    tiles = [Region(ranges) for ranges in product(*[list(pairwise(each)) for each in cuts])]
    shape = Shape((12,) * num_axes, "ABCD"[:num_axes])
    assert cover_problem(shape, tiles) is None
    lost = data.draw(st.sampled_from(tiles))
    others = [tile for tile in tiles if tile is not lost]
    assert cover_problem(shape, others) == f"leave a part of {shape} without a value"
    twice = data.draw(st.permutations([*tiles, lost]))
    assert cover_problem(shape, twice) == f"overlap at {lost} and {lost}"


def test_tags_that_fall_are_named() -> None:
    """A device that sends a message of a lower tag than it has sent or received before is refused with that step."""
    low, high = (Send("x", WHOLE, "fp32", 1, tag) for tag in (7, 8))
    receiver = (Recv(1, CLIENT, "x"), Recv(7, 0, "r"), Recv(8, 0, "s"), Send("r", WHOLE, "fp32", CLIENT, 9))
    check_plan(_exchanging((Recv(0, CLIENT, "x"), low, high), receiver))
    with pytest.raises(PlanError, match=r"device 0, step 2 \(send 'x'\): sends tag 7 after a message of tag 8"):
        check_plan(_exchanging((Recv(0, CLIENT, "x"), high, low), receiver))


def test_slices_are_checked() -> None:
    """A slice beyond its tensor, or into a tensor of another shape, is refused; one that fits is not."""

    def plan(region: Region, made: Shape) -> Plan:
        program = (Recv(0, CLIENT, "x"), Slice("x", region, "s"), Send("x", WHOLE, "fp32", CLIENT, 9))
        found = _exchanging(program)
        return replace(found, shapes=({**found.shapes[0], "s": made},))

    check_plan(plan(Region(((1, 3),)), Shape.vector(2)))
    with pytest.raises(PlanError, match=r"device 0, step 1 \(slice 's'\): takes C 1..5 of tensor 'x', which has 4"):
        check_plan(plan(Region(((1, 5),)), VALUE))
    with pytest.raises(PlanError, match="makes 's' of C 2, but its shape is C 4"):
        check_plan(plan(Region(((1, 3),)), VALUE))


def test_a_segment_is_what_it_is_run_as() -> None:
    """A segment under another name, on another device, run by no step or on two shapes is refused."""
    segment = Segment("s", 0, ("s",), 1, 0, 0, 4)
    program = (Recv(0, CLIENT, "x"), Compute("s", ("x",), ("y",)), Send("y", WHOLE, "fp32", CLIENT, 9))
    plan = replace(_exchanging(program), segments=({"s": segment},))
    check_plan(plan)
    with pytest.raises(PlanError, match="segment 's' is 's' of device 1"):
        check_plan(replace(plan, segments=({"s": replace(segment, device=1)},)))
    with pytest.raises(PlanError, match="has segment 't', which no step runs"):
        check_plan(replace(plan, segments=({"s": segment, "t": replace(segment, name="t")},)))
    with pytest.raises(PlanError, match=r"binds 1 inputs of segment 's', which has 2: a, b"):
        check_plan(replace(plan, segments=({"s": replace(segment, inputs=("a", "b"))},)))
    again = (*program[:2], Slice("y", Region(((0, 1),)), "z"), Compute("s", ("z",), ("w",)), program[2])
    shapes = ({**plan.shapes[0], "z": Shape.vector(1), "w": VALUE},)
    with pytest.raises(PlanError, match=r"device 0, step 3 .*runs on other shapes than in step 1"):
        check_plan(replace(plan, programs=(again,), shapes=shapes))
