"""Plans: the published counts, and that liveness only drops what is dead."""

from __future__ import annotations

import pytest
from hypothesis import given, settings

from sepnas.plan.liveness import devices_used, prune
from sepnas.plan.operators import Operator
from sepnas.plan.plan import Plan
from sepnas.plan.steps import CLIENT, Compute, Merge, Recv, Send
from sepnas.separable.architecture import Architecture, named_architecture
from sepnas.separable.build import build_plan
from sepnas.separable.layers import count_macs, count_parameters, device_layers, network_table
from sepnas.separable.lower import lower
from sepnas.separable.policy import Readout, TransmissionPolicy
from sepnas.separable.transfers import BlockCrossings, network_crossings
from tests.kept import forget_all
from tests.strategies import architectures

QUICK = settings(max_examples=40, deadline=None)


@pytest.mark.parametrize(
    ("name", "devices", "parameters"),
    [
        ("resnext56_4x16d", 4, 2_379_316),
        ("resnext56_64x4d", 4, 5_376_052),
        ("resnext56_128x4d", 4, 10_532_916),
        ("resnext110_8x16d", 4, 8_969_268),
        ("resnext56_4x16d", 1, 2_234_548),
        ("resnext56_64x4d", 1, 5_231_284),
    ],
)
def test_published_parameter_counts(name: str, devices: int, parameters: int) -> None:
    """The parameters are the authors', to the unit."""
    assert count_parameters(named_architecture(name, devices)) == parameters


@pytest.mark.parametrize("devices", range(1, 9))
def test_parameters_grow_by_588288_a_device(devices: int) -> None:
    """ResNeXt-56 with 16d a device has 26,164 + 588,288 N parameters."""
    architecture = named_architecture(f"resnext56_{devices}x16d", devices)
    assert count_parameters(architecture) == 26_164 + 588_288 * devices


def test_published_macs() -> None:
    """64x4d takes 800.5 million MACs, and 816.3 over 4 devices, the common stem counted once: 204 a device."""
    assert round(count_macs(named_architecture("resnext56_64x4d"), 0) / 1e6, 1) == 800.5
    separable = named_architecture("resnext56_64x4d", 4)
    per_device = [count_macs(separable, rank) for rank in range(4)]
    stem = device_layers(separable, 0)[0].macs
    assert round((sum(per_device) - 3 * stem) / 1e6, 1) == 816.3
    assert {round(macs / 1e6) for macs in per_device} == {204}


@pytest.mark.parametrize(
    ("policy", "before", "after", "transfers"),
    [("all-to-all", 33_030_144, 32_440_320, 207), ("hand-made", 5_505_024, 5_177_344, 31)],
)
def test_published_bytes(policy: str, before: int, after: int, transfers: int) -> None:
    """ResNeXt-56 over 4 devices sends the published bytes; liveness drops the last, useless ones."""
    architecture = named_architecture("resnext56_4x16d", 4, policy)
    assert lower(architecture).payload_bytes() == before
    plan = build_plan(architecture)
    assert (plan.payload_bytes(), len(plan.transfers())) == (after, transfers)
    assert plan.elements() == plan.payload_bytes() // 4


def test_without_exchange_only_the_reader_works() -> None:
    """With one read-out device and no exchange, the other devices have nothing to do."""
    architecture = named_architecture("resnext11_4x4d", 4, "none")
    alone = architecture.with_policy(architecture.policy.model_copy(update={"readout": Readout()}))
    plan = build_plan(alone)
    assert [len(program) > 0 for program in plan.programs] == [True, False, False, False]
    assert plan.num_segments() == 1


def test_devices_used_are_those_that_the_answer_needs() -> None:
    """A device that sends to one that nobody reads is not used; a sender whose features reach the reader is."""
    messages = {
        "points": [{"after": 0, "transfers": [{"source": 2, "destination": 0}, {"source": 1, "destination": 3}]}]
    }
    architecture = named_architecture("resnext11_4x4d", 4, TransmissionPolicy.from_data(messages))
    assert devices_used(build_plan(architecture)) == devices_used(lower(architecture)) == (0, 2)
    mean = architecture.policy.model_copy(update={"readout": Readout(kind="mean", device=1)})
    assert devices_used(build_plan(architecture.with_policy(mean))) == (0, 1, 2, 3)


@QUICK
@given(architectures())
def test_devices_that_are_not_used_have_no_program(architecture: Architecture) -> None:
    """In a plan without dead steps the devices with steps are those that are used."""
    plan = build_plan(architecture)
    assert devices_used(plan) == devices_used(lower(architecture))
    assert devices_used(plan) == tuple(rank for rank, program in enumerate(plan.programs) if program)


def _check_well_formed(plan: Plan) -> None:
    sent = {m.tag: m for m in plan.messages()}
    received = set()
    for rank, program in enumerate(plan.programs):
        known: set[str] = set()
        for step in program:
            if isinstance(step, Recv):
                message = sent[step.tag]
                assert (message.source, message.destination) == (step.source, rank)
                assert message.shape == plan.shapes[rank][step.tensor]
                received.add(step.tag)
                known.add(step.tensor)
            elif isinstance(step, Send):
                assert step.tensor in known
            else:
                assert set(step.inputs) <= known
                assert isinstance(step, Compute | Merge)
                known.update(step.writes)
    assert received == {tag for tag, m in sent.items() if m.destination != CLIENT}


@QUICK
@given(architectures())
def test_plans_are_well_formed(architecture: Architecture) -> None:
    """Every message is sent and received once with one shape, and every step's inputs exist before it."""
    _check_well_formed(lower(architecture))
    _check_well_formed(build_plan(architecture))


@QUICK
@given(architectures())
def test_liveness_never_adds(architecture: Architecture) -> None:
    """Liveness sends no more, computes no more and is done after one pass."""
    before, after = lower(architecture), build_plan(architecture)
    assert {m.tag for m in after.messages()} <= {m.tag for m in before.messages()}
    for rank in range(before.num_devices):
        layers = [name for s in after.segments[rank].values() for name in s.layers]
        assert set(layers) <= {name for s in before.segments[rank].values() for name in s.layers}
        assert len(layers) == len(set(layers))
    assert prune(after) == after


@QUICK
@given(architectures())
def test_lowering_only_what_lives_is_pruning(architecture: Architecture) -> None:
    """The quick way to a plan without dead steps and the general one agree in every step, segment and shape."""
    assert build_plan(architecture) == prune(lower(architecture))


def test_what_is_kept_of_a_block_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A table of transfers that is full is emptied, and lowering goes on as before."""
    architecture = named_architecture("resnext20_4x4d", 4, "all-to-all")
    expected = lower(architecture)
    forget_all()
    monkeypatch.setattr(BlockCrossings, "MAX_KEPT", 5)
    assert lower(architecture) == expected
    blocks = network_crossings(network_table(architecture))
    assert [len(crossings) for crossings in blocks] == [2] * 6  # twelve transfers: emptied twice


@QUICK
@given(architectures())
def test_tags_rise_along_dependencies(architecture: Architecture) -> None:
    """A device that sends has received only messages of lower tags before."""
    for program in build_plan(architecture).programs:
        highest = -1
        for step in program:
            if isinstance(step, Recv):
                highest = max(highest, step.tag)
            elif isinstance(step, Send):
                assert step.tag > highest


@QUICK
@given(architecture=architectures())
def test_operators_are_what_a_segment_computes(architecture: Architecture) -> None:
    """The operators of a segment have its arithmetic, and its convolutions and products are its kernels."""
    for plan in (build_plan(architecture), prune(lower(architecture))):
        for segments in plan.segments:
            for segment in segments.values():
                assert 2 * sum(operator.macs for operator in segment.operators) == segment.flops
                kernels = [operator for operator in segment.operators if operator.kind in ("conv", "linear")]
                assert len(kernels) == segment.num_kernels
                assert 4 * sum(operator.num_weights for operator in kernels) < segment.weight_bytes


def test_operators_of_a_network() -> None:
    """The first block of the family is reduce, group convolution, expand, shortcut and addition; the head is a mean
    over its whole input and a product."""
    segment = build_plan(named_architecture("resnext11_4x4d")).segments[0]["stem-head"]
    side = {"height": 32, "width": 32}
    assert segment.operators[:6] == (
        Operator("conv", 3, 16, kernel=3, **side),
        Operator("conv", 16, 16, **side),
        Operator("conv", 16, 16, kernel=3, groups=4, **side),
        Operator("conv", 16, 64, **side),
        Operator("conv", 16, 64, **side),
        Operator("add", 64, 64, **side),
    )
    assert segment.operators[-2:] == (Operator("pool", 256, 256, kernel=8, stride=8), Operator("linear", 256, 100))


def test_values_moved() -> None:
    """What an operator moves: its inputs (of an addition both), its output, its weights and biases."""
    conv = Operator("conv", 8, 16, kernel=3, stride=2, groups=2, height=4, width=4)
    assert conv.values_moved == 8 * 8 * 8 + 16 * 4 * 4 + 8 * 16 * 9 // 2 + 16
    assert conv.macs == 8 * 16 * 9 // 2 * 16
    assert Operator("add", 8, 8, height=4, width=4).values_moved == 3 * 8 * 16
    assert Operator("pool", 8, 8, kernel=4, stride=4).values_moved == 8 * 16 + 8
    assert Operator("linear", 8, 5).values_moved == 8 + 5 + 8 * 5 + 5
