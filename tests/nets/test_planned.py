"""Any plan, executed in one process, computes what its devices compute, and its gradients are those of its steps."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from copy import deepcopy
from dataclasses import replace
from itertools import compress

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from sepnas.errors import PlanError
from sepnas.nets.outage import Outage
from sepnas.nets.planned import Layers, Lookup, Watcher, run_plan
from sepnas.plan.merges import merge, optional_tensors
from sepnas.plan.plan import Plan, Port, Segment
from sepnas.plan.schedule import schedule
from sepnas.plan.shapes import Region, Shape
from sepnas.plan.steps import CLIENT, Compute, Merge, Recv, Send, Slice, Step
from sepnas.plan.validation import check_plan
from sepnas.runtime.tensors.codec import decode, encode
from tests.helpers_runtime import lively_network, tiny_architecture, transfer
from tests.random_plans import RandomPlan, random_plans

Arrays = dict[str, np.ndarray]


def images_of(plan: Plan, batch: int, seed: int = 0) -> Arrays:
    random = np.random.default_rng(seed)
    return {port.name: random.standard_normal((batch, *port.shape.dims), np.float32) for port in plan.inputs}


def run_devices(made: RandomPlan, images: Arrays, lost: Collection[int] = ()) -> Arrays:
    """Every device's steps with the runtime's own codec and merges, without the ``lost`` messages."""
    plan = made.plan
    messages = {message.tag: message for message in plan.messages()}
    mail = {
        piece.tag: bytes(encode(images[port.name][piece.region.slices], piece.wire))
        for port in plan.inputs
        for piece in port.pieces
    }
    running = [_run_device(made, rank, messages, mail, lost) for rank in range(plan.num_devices)]
    while running:
        running = [each for each in running if next(each, "done") != "done"]
    batch, found = len(next(iter(images.values()))), {}
    for port in plan.outputs:
        out = np.empty((batch, *port.shape.dims), np.float32)
        for piece in port.pieces:
            out[piece.region.slices] = decode(mail[piece.tag], piece.wire, piece.region.shape(port.shape))
        found[port.name] = out
    return found


def _run_device(
    made: RandomPlan, rank: int, messages: dict, mail: dict[int, bytes], lost: Collection[int]
) -> Iterator[None]:
    tensors: Arrays = {}
    for step in made.plan.programs[rank]:
        while isinstance(step, Recv) and step.tag not in mail:
            yield
        if not isinstance(step, Recv) or step.tag not in lost:
            _carry_out(made, rank, step, tensors, messages, mail)


def _carry_out(
    made: RandomPlan, rank: int, step: Step, tensors: Arrays, messages: dict, mail: dict[int, bytes]
) -> None:
    if isinstance(step, Recv):
        message = messages[step.tag]
        tensors[step.tensor] = decode(mail[step.tag], message.wire, message.shape, made.scale(message.scale))
    elif isinstance(step, Send):
        mail[step.tag] = bytes(encode(tensors[step.tensor][step.region.slices], step.wire, made.scale(step.scale)))
    elif isinstance(step, Slice):
        tensors[step.output] = tensors[step.tensor][step.region.slices]
    elif isinstance(step, Merge):
        there = [name in tensors for name in step.inputs]
        numbers = made.weights[rank, step.parameter] if step.parameter else None
        weights = None if numbers is None else [each.detach().numpy() for each in compress(numbers, there[1:])]
        inputs = [tensors[name] for name in step.inputs if name in tensors]
        tensors[step.output] = merge(step, made.plan.shapes[rank][step.output], inputs, weights)
    else:
        values = tuple(torch.from_numpy(tensors[name].copy()) for name in step.inputs)
        for layer in made.plan.segments[rank][step.segment].layers:
            found = made.layers[rank, layer](*values)
            values = found if isinstance(found, tuple) else (found,)
        tensors.update(zip(step.outputs, (value.numpy() for value in values), strict=True))


@settings(deadline=None, max_examples=150)
@given(made=random_plans(), batch=st.integers(1, 3))
def test_any_plan_computes_what_its_devices_compute(made: RandomPlan, batch: int) -> None:
    """Every step, merge kind, wire format and scale, several inputs and outputs, and outputs of several devices."""
    check_plan(made.plan)
    images = images_of(made.plan, batch)
    with torch.no_grad():
        wanted = run_devices(made, images)
        inputs = {name: torch.from_numpy(image) for name, image in images.items()}
        found = run_plan(schedule(made.plan), made.lookup(), inputs)
    assert found.keys() == wanted.keys()
    for name, values in wanted.items():
        scale = max(1.0, float(np.abs(values).max()))
        np.testing.assert_allclose(found[name].numpy(), values, rtol=0, atol=1e-5 * scale)


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.filter_too_much])
@given(made=random_plans(), batch=st.integers(1, 3), data=st.data())
def test_lost_messages_are_missed_as_on_devices(made: RandomPlan, batch: int, data: st.DataObject) -> None:
    """Each sample is what devices compute without the messages that it loses, whatever merges do without them."""
    plan = made.plan
    optional = [optional_tensors(program) for program in plan.programs]
    tags = [
        step.tag
        for tensors, program in zip(optional, plan.programs, strict=True)
        for step in program
        if isinstance(step, Recv) and step.tensor in tensors
    ]
    assume(tags)
    losses = st.lists(st.booleans(), min_size=batch, max_size=batch)
    lost = {tag: torch.tensor(data.draw(losses)) for tag in tags}
    images, nobody = images_of(plan, batch), torch.zeros(plan.num_devices, batch, dtype=torch.bool)
    with torch.no_grad():
        inputs = {name: torch.from_numpy(image) for name, image in images.items()}
        found = run_plan(schedule(plan), made.lookup(), inputs, Outage(nobody, lost))
        for place in range(batch):
            sample = {name: image[place : place + 1] for name, image in images.items()}
            for name, wanted in run_devices(made, sample, [tag for tag in tags if lost[tag][place]]).items():
                scale = max(1.0, float(np.abs(wanted).max()))
                np.testing.assert_allclose(found[name][place].numpy(), wanted[0], rtol=0, atol=1e-5 * scale)


@settings(deadline=None, max_examples=25)
@given(made=random_plans(("fp32",)))
def test_gradients_are_those_of_the_steps(made: RandomPlan) -> None:
    """By finite differences, for inputs, layers and merge weights, through sends, slices and every kind of merge."""
    for module in made.layers.values():
        module.double()
    names = [port.name for port in made.plan.inputs]
    weights = [weight.data.double().requires_grad_() for each in made.weights.values() for weight in each]
    images = [torch.from_numpy(x).double().mul(3).requires_grad_() for x in images_of(made.plan, 1).values()]
    turns = schedule(made.plan)

    def outputs(*tensors: Tensor) -> tuple[Tensor, ...]:
        left = iter(tensors[len(names) :])
        own = replace(made, weights={key: [next(left) for _ in each] for key, each in made.weights.items()})  # type: ignore[misc]
        return tuple(run_plan(turns, own.lookup(), dict(zip(names, tensors, strict=False))).values())

    # a ReLU has no derivative at 0, which random values miss
    assert torch.autograd.gradcheck(outputs, (*images, *weights), eps=1e-7, atol=1e-5, rtol=1e-4)


@settings(deadline=None, max_examples=40)
@given(made=random_plans())
def test_gradients_pass_quantised_messages(made: RandomPlan) -> None:
    """Everything that an output depends on gets a finite gradient, scales included, whatever the wire formats are."""
    inputs = {name: torch.from_numpy(x).requires_grad_() for name, x in images_of(made.plan, 2).items()}
    found = run_plan(schedule(made.plan), made.lookup(), inputs)
    sum(each.sum() for each in found.values()).backward()  # type: ignore[union-attr]
    gradients = [x.grad for x in (*inputs.values(), *made.log_steps.values()) if x.grad is not None]
    assert gradients
    assert all(bool(gradient.isfinite().all()) for gradient in gradients)


def test_a_quantised_message_is_straight_through() -> None:
    """Behind a message of any format the gradient is that of the same plan in fp32."""
    x = torch.randn(2, 2, 3, 3)
    gradients = []
    for wire in ("fp32", "fp16", "int8", "int4", "int2"):
        shape = Shape.chw(2, 3, 3)
        part = Region(((0, 1), (0, 3), (1, 3)))
        plan = relay_plan(shape, part, wire)
        x_bchw = x.clone().requires_grad_()
        out = run_plan(schedule(plan), Lookup(lambda rank, segment: []), {"image": x_bchw})["answer"]
        (out * torch.arange(out.numel()).view(out.shape)).sum().backward()
        gradients.append(x_bchw.grad)
    for gradient in gradients[1:]:
        torch.testing.assert_close(gradient, gradients[0], rtol=0, atol=0)


def relay_plan(shape: Shape, part: Region, wire: str) -> Plan:
    """Device 0 sends a part of the image to device 1, which answers with it."""
    small = part.shape(shape)
    return Plan(
        programs=(
            (Recv(0, CLIENT, "x"), Send("x", part, wire, 1, 1)),
            (Recv(1, 0, "y"), Send("y", Region.whole(small), "fp32", CLIENT, 2)),
        ),
        segments=({}, {}),
        shapes=({"x": shape}, {"y": small}),
        inputs=(Port.whole("image", shape, (0, 0)),),
        outputs=(Port.whole("answer", small, (1, 2)),),
    )


def test_a_message_that_is_needed_cannot_be_lost() -> None:
    """Only merges of what may be missing do without a message; the error names the device and the message."""
    shape = Shape.chw(2, 3, 3)
    turns, lookup = schedule(relay_plan(shape, Region.whole(shape), "fp32")), Lookup(lambda rank, segment: [])
    x = torch.randn(3, 2, 3, 3)
    lost = torch.tensor([False, True, False])
    for outage in (Outage(torch.zeros(2, 3, dtype=torch.bool), {1: lost}), Outage.of({0}, 2, 3)):
        with pytest.raises(PlanError, match="device 1 cannot do without message 1 from device 0"):
            run_plan(turns, lookup, {"image": x}, outage)
    with pytest.raises(PlanError, match="device 1 alone answers with 'answer', so it cannot be lost"):
        run_plan(turns, lookup, {"image": x}, Outage.of({1}, 2, 3))
    whole = run_plan(turns, lookup, {"image": x}, Outage(torch.zeros(2, 3, dtype=torch.bool)))
    assert torch.equal(whole["answer"], x)


def test_inputs_of_other_shapes_are_refused() -> None:
    """A missing input, or one of another size, is named with the shape that the plan takes."""
    shape = Shape.chw(2, 3, 3)
    turns, lookup = schedule(relay_plan(shape, Region.whole(shape), "fp32")), Lookup(lambda rank, segment: [])
    with pytest.raises(PlanError, match="input 'image' is CHW 2x3x3, the one given is missing"):
        run_plan(turns, lookup, {})
    with pytest.raises(PlanError, match="the one given is 2x4x3 for a sample"):
        run_plan(turns, lookup, {"image": torch.zeros(1, 2, 4, 3)})


def test_layers_that_all_devices_share_are_computed_once() -> None:
    """A module that several devices run on the same input runs once; with copies of it, once for each device."""
    network = lively_network(tiny_architecture([{"after": 0, "transfers": [transfer(0, 1)]}], "mean"))
    x, calls, plan = torch.randn(2, 1, 8, 8), [], network.plan
    stems = [network.stem, *(deepcopy(network.stem) for _ in range(1, plan.num_devices))]
    for stem in stems:
        stem.register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        wanted = network(x)
    assert len(calls) == 1

    def layers(rank: int, segment: Segment) -> Layers:
        own = list(network.segment(rank, segment.layers).named_children())
        return [(name, stems[rank] if name == "stem" else module) for name, module in own]

    calls.clear()
    with torch.no_grad():
        found = run_plan(schedule(plan), Lookup(layers), {"image": x})
    assert len(calls) == plan.num_devices
    assert torch.equal(found["logits"], wanted)


@settings(deadline=None, max_examples=60)
@given(made=random_plans())
def test_a_schedule_has_every_step_once(made: RandomPlan) -> None:
    """In each device's order, after the messages that it receives; equal messages are one send; nothing is kept."""
    turns = schedule(made.plan).turns
    sent: set[int] = {piece.tag for port in made.plan.inputs for piece in port.pieces}
    held: list[set[str]] = [set() for _ in made.plan.programs]
    done: list[list[Step]] = [[] for _ in made.plan.programs]
    for turn in turns:
        assert held[turn.rank].issuperset(turn.step.reads)
        assert not isinstance(turn.step, Recv) or turn.step.tag in sent
        assert not sent.intersection(turn.tags)
        sent.update(turn.tags)
        done[turn.rank].append(turn.step)
        held[turn.rank] |= set(turn.step.writes)
        held[turn.rank] -= set(turn.drops)
    assert not any(held)
    for rank, program in enumerate(made.plan.programs):
        assert [step for step in program if step in done[rank]] == done[rank]
        assert all(isinstance(step, Send) and step.tag in sent for step in program if step not in done[rank])


def test_equal_messages_are_encoded_once() -> None:
    """A device that sends the same to two peers has one send in the schedule, with the tags of both messages."""
    points = [{"after": 0, "transfers": [transfer(0, 1, "int8"), transfer(0, 2, "int8")]}]
    plan = lively_network(tiny_architecture(points, "mean")).plan
    [send] = [turn for turn in schedule(plan).turns if isinstance(turn.step, Send) and turn.step.wire == "int8"]
    assert len(send.tags) == 2


def test_a_plan_that_waits_for_itself_has_no_schedule() -> None:
    """Devices that wait for each other are named."""
    plan = relay_plan(Shape.chw(1, 2, 2), Region.whole(Shape.chw(1, 2, 2)), "fp32")
    late = (Recv(7, 1, "z"), *plan.programs[0])
    with pytest.raises(PlanError, match="devices 0, 1 wait for messages that are not sent"):
        schedule(replace(plan, programs=(late, plan.programs[1])))


def test_what_a_layer_takes_can_be_watched() -> None:
    """The inputs of every layer, also within a segment, with rank and segment; shared layers for each device."""
    network, seen = lively_network(tiny_architecture([], "mean")), []
    x = torch.randn(2, 1, 8, 8)
    lookup = Lookup(lambda rank, segment: list(network.segment(rank, segment.layers).named_children()))

    class Seeing(Watcher):
        def layer(self, rank: int, segment: Segment, layer: str, inputs: tuple[Tensor, ...]) -> None:
            seen.append((rank, layer))
            assert layer in segment.layers
            assert all(each.shape[0] == 2 for each in inputs)

    with torch.no_grad():
        run_plan(schedule(network.plan), lookup, {"image": x}, watcher=Seeing())
    computed = [
        (rank, layer)
        for rank, program in enumerate(network.plan.programs)
        for step in program
        if isinstance(step, Compute)
        for layer in network.plan.segments[rank][step.segment].layers
    ]
    assert sorted(seen) == sorted(computed)
