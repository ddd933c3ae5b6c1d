"""Rates by number of threads: times of operators, Amdahl's law between the numbers given, and the boards' presets."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sepnas.cost.rated_operators import rated_s
from sepnas.cost.simulator import simulate
from sepnas.cost.times import DeviceTimes
from sepnas.errors import SpecError
from sepnas.plan.operators import Operator
from sepnas.separable.architecture import named_architecture
from sepnas.separable.build import build_plan
from sepnas.spec.cluster import Cluster, Device, uniform_cluster
from sepnas.spec.operator_rates import OperatorRates, rates_on
from sepnas.spec.presets import device_preset, load_presets, preset_cluster
from tests.cost.test_cost_times import grid, profile_of

ONE = OperatorRates(
    threads=1, dense_flops_per_s=2e9, conv3x3_flops_per_s=4e9, depthwise_flops_per_s=1e9, bytes_per_s=1e9,
    operator_s=1e-5,
)  # fmt: skip
FOUR = ONE.scaled(0.25).model_copy(update={"threads": 4, "bytes_per_s": 2e9, "operator_s": 3e-5})
VGG16 = ((3, 64, 224), (64, 64, 224), (64, 128, 112), (128, 128, 112), (128, 256, 56), (256, 256, 56), (256, 256, 56),
         (256, 512, 28), (512, 512, 28), (512, 512, 28), (512, 512, 14), (512, 512, 14), (512, 512, 14))  # fmt: skip
"""Inputs, outputs and side of its convolutions."""


def device(**fields: object) -> Device:
    return Device.model_validate(
        {"name": "a", "flops_per_s": 1e9, "memory_bytes": 1 << 30, "rates": (ONE, FOUR), **fields}
    )


@pytest.mark.parametrize(
    ("operator", "flop_s"),
    [
        (Operator("conv", 24, 16, 1, 1, 1, 7, 7), 0.5e-9 * 7 / 8 + 1e-9 / 8),
        (Operator("conv", 8, 16, 3, 2, 1, 7, 7), 0.5e-9 * 7 / 8 + 1e-9 / 8),
        (Operator("conv", 8, 16, 3, 1, 1, 7, 7), 0.25e-9 * 7 / 8 + 1e-9 / 8),
        (Operator("conv", 8, 16, 3, 1, 4, 7, 7), 0.25e-9 / 2 + 1e-9 / 2),
        (Operator("conv", 8, 8, 3, 1, 8, 7, 7), 1e-9),
        (Operator("conv", 8, 8, 5, 1, 8, 7, 7), 0.5e-9 * 2 / 5 + 1e-9 * 3 / 5),
        (Operator("linear", 24, 16), 0.5e-9 * 7 / 8 + 1e-9 / 8),
        (Operator("add", 8, 8, 1, 1, 1, 7, 7), 0.0),
    ],
)
def test_an_operator_takes_its_flops_bytes_and_a_constant(operator: Operator, flop_s: float) -> None:
    """FLOPs count at the rate of their kind, which falls with shorter sums; bytes and a constant add."""
    expected = 2 * operator.macs * flop_s + 4 * operator.values_moved / 1e9 + 1e-5
    assert rated_s(operator, ONE) == pytest.approx(expected)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 4), st.sampled_from(grid()))
def test_threads_follow_amdahls_law(threads: int, operator: Operator) -> None:
    """A time is a serial part plus a part that threads share, both taken from the times on one and on four threads."""
    one_s, four_s = rated_s(operator, ONE), rated_s(operator, FOUR)
    parallel_s = (one_s - four_s) / (1 - 1 / 4)
    serial_s = one_s - parallel_s
    assert rated_s(operator, rates_on((ONE, FOUR), threads)) == pytest.approx(serial_s + parallel_s / threads)


def test_a_device_computes_on_its_threads() -> None:
    """`threads` selects the rates, by default those of most threads; a segment takes the sum of its operators."""
    plan = build_plan(named_architecture("resnext11_4x4d"))
    segment = plan.segments[0]["stem-head"]
    for board, rates in ((device(), FOUR), (device(threads=4), FOUR), (device(threads=1), ONE)):
        expected = sum(rated_s(each, rates) for each in segment.operators)
        assert DeviceTimes(board).segment_s(segment, 3) == pytest.approx(3 * expected)
        assert simulate(plan, Cluster(devices=(board,))).latency_s == pytest.approx(expected)
        assert board.threads_used == rates.threads


def test_clusters_without_threads_mean_what_they_meant() -> None:
    """Without rates, the two figures of a device give its time on one thread, or on the threads of its profile."""
    plan, cluster = build_plan(named_architecture("resnext11_4x4d")), uniform_cluster(1, flops_per_s=1e9)
    flops = sum(segment.flops for segment in plan.segments[0].values())
    assert simulate(plan, cluster).latency_s == pytest.approx(flops / 1e9)
    assert cluster.threads == (1,)
    profile = profile_of(grid())
    four = profile.model_copy(update={"machine": profile.machine.model_copy(update={"threads": 4})})
    assert device(profile=four).threads_used == 4


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"threads": 5}, r"devices\.0`: `threads` must be 1 to 4, for which `rates` are given; got 5"),
        ({"threads": 0}, r"`devices\.0\.threads`: must be greater than 0"),
        ({"rates": [FOUR.model_dump(), ONE.model_dump()]}, "must have rising `threads`, got 4 before 1"),
        ({"threads": 4, "profile": profile_of(grid()[:9]).model_dump()}, "measured with `threads` 1"),
        ({"rates": [{**ONE.model_dump(), "bytes_per_s": 0.0}]}, r"rates\.0\.bytes_per_s`: must be greater than 0"),
    ],
)
def test_wrong_threads_are_refused(fields: dict[str, object], said: str) -> None:
    """Threads without rates or beside a profile of others are refused, with the device and what is allowed."""
    data = device().model_dump(mode="json") | fields
    with pytest.raises(SpecError, match=said):
        Cluster.from_data({"devices": [data]})


@pytest.mark.parametrize("name", load_presets().devices)
def test_a_preset_has_all_cores(name: str, tmp_path: Path) -> None:
    """By default a preset computes on all of its cores: faster than on one, and with more power."""
    preset = load_presets().devices[name]
    plan = build_plan(named_architecture("resnext20_4x4d"))
    every, one = preset_cluster([name], "ethernet-100mbit"), preset_cluster([name], "ethernet-100mbit", threads=1)
    assert every.threads == (preset.rates.all_threads,)
    assert one.threads == (1,)
    assert simulate(plan, every).latency_s < simulate(plan, one).latency_s
    watts = [device_preset(name, "a", threads=each).power.compute_w for each in range(1, preset.rates.all_threads + 1)]
    assert watts == sorted(watts)
    assert (watts[0], watts[-1]) == pytest.approx((preset.compute_w.value, preset.all_cores_w.value))
    assert Cluster.load(every.save(tmp_path / "c.yaml")) == every


def test_figures_of_eager_pytorch_are_for_one_thread() -> None:
    """Unrated, a preset has its two figures; more threads, or more threads than cores, are refused."""
    preset = load_presets().devices["raspberry-pi-4b"]
    plain = device_preset("raspberry-pi-4b", "a", rated=False)
    assert (plain.flops_per_s, plain.layer_overhead_s) == (preset.flops_per_s.value, preset.layer_overhead_s.value)
    assert (plain.threads_used, plain.rates, plain.power.compute_w) == (1, (), preset.compute_w.value)
    with pytest.raises(SpecError, match="figures of eager PyTorch are for 1 thread, got `threads` 4"):
        device_preset("raspberry-pi-4b", "a", rated=False, threads=4)
    with pytest.raises(SpecError, match="'raspberry-pi-4b' has 4 cores; `threads` must be 1 to 4, got 5"):
        device_preset("raspberry-pi-4b", "a", threads=5)


@pytest.mark.parametrize(
    ("name", "threads", "published_s"),
    [
        ("raspberry-pi-4b", 1, 1.072),
        ("raspberry-pi-4b", 4, 0.547),
        ("raspberry-pi-5", 1, 0.190),
        ("raspberry-pi-5", 4, 0.129),
    ],
)
def test_vgg16_takes_as_long_as_published(name: str, threads: int, published_s: float) -> None:
    """VGG16's convolutions and linear layers add up to ncnn's time for it within 25 %, on one thread and on four."""
    operators = [Operator("conv", inputs, outputs, 3, 1, 1, side, side) for inputs, outputs, side in VGG16]
    operators += [Operator("linear", *sizes) for sizes in ((25088, 4096), (4096, 4096), (4096, 1000))]
    rates = rates_on(load_presets().devices[name].rates.value, threads)
    assert sum(rated_s(each, rates) for each in operators) == pytest.approx(published_s, rel=0.25)
