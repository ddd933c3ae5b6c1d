"""Device times: measured rows as they are, others within a tenth of a machine that is not smooth."""

from __future__ import annotations

import builtins
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from sepnas.cost.simulator import simulate
from sepnas.cost.times import DeviceTimes, OperatorTable
from sepnas.errors import SpecError
from sepnas.measure.grid import grid_networks, operators_of
from sepnas.plan.operators import Operator
from sepnas.separable.architecture import named_architecture
from sepnas.separable.backbones.registry import BACKBONES
from sepnas.separable.build import build_plan
from sepnas.separable.layers import device_layers
from sepnas.spec.cluster import Cluster, Device, uniform_cluster
from sepnas.spec.device_profile import DeviceProfile
from tests.cost.test_cost import with_devices
from tests.limits import PROCESS_S

MACHINE = {
    "cpu": "made up", "cores": 2, "architecture": "x86_64", "os": "Linux", "python": "3.11", "engine": "torch",
    "engine_version": "2.13.0", "threads": 1, "date": "2026-01-31", "noise": 0.03,
}  # fmt: skip


def grid() -> list[Operator]:
    """What a profile of the family may measure."""
    found = []
    for side in (8, 16, 32):
        square = {"height": side, "width": side}
        for inputs in (4, 8, 12, 16, 32, 64, 128, 256):
            found += [Operator("conv", inputs, outputs, **square) for outputs in (8, 16, 24, 64, 128)]
        for channels in (4, 8, 12, 16, 24, 32, 64, 128):
            for groups in (each for each in (1, 2, 4, 8) if channels % each == 0):
                found.append(Operator("conv", channels, channels, 3, 1, groups, side, side))
                found.append(Operator("conv", channels, channels, 3, 2, groups, side // 2, side // 2))
        for channels in (16, 32, 64, 128, 256):
            found.append(Operator("add", channels, channels, **square))
            found.append(Operator("pool", channels, channels, side, side))
    return found + [Operator("linear", features, classes) for features in (16, 64, 256) for classes in (10, 100, 200)]


def true_s(each: Operator) -> float:
    """A roofline with an overhead and cliffs: three caches, odd channels, narrow groups, strides."""
    rate = 2e10 * (0.35 if each.kernel == 1 else 1.0) * min(1.0, each.in_channels / each.groups / 16) ** 0.5
    rate *= min(1.0, each.height * each.width / 128) ** 0.3 / (1.6 if each.out_channels % 8 else 1.0)
    nbytes = 4 * each.values_moved
    memory_rate = 2e10 if nbytes < 32e3 else 1.2e10 if nbytes < 256e3 else 5e9
    return 4e-6 + max(each.macs / rate, nbytes / memory_rate) * (1.3 if each.stride == 2 else 1.0)


def profile_of(operators: list[Operator], noise: float = 0.03, overhead_s: float = 0.0) -> DeviceProfile:
    random = np.random.default_rng(0)
    rows = [
        {name: getattr(each, name) for name in Operator.__slots__}
        | {"seconds": true_s(each) * float(random.lognormal(0, noise))}
        for each in operators
    ]
    data = {"machine": MACHINE, "operators": rows, "segment_overhead_s": overhead_s}
    return DeviceProfile.model_validate(data)


def halves(seed: int) -> tuple[list[Operator], list[Operator]]:
    operators = grid()
    order = np.random.default_rng(seed).permutation(len(operators))
    half = len(operators) // 2
    return [operators[i] for i in order[:half]], [operators[i] for i in order[half:]]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_operators_between_the_rows(seed: int) -> None:
    """Half of a grid is predicted from the other half within 10% in the median; the measured half is exact."""
    measured, held_out = halves(seed)
    profile = profile_of(measured)
    table = OperatorTable(profile)
    assert table.seconds(measured) == [row.seconds for row in profile.operators]
    errors = [abs(found / true_s(each) - 1) for found, each in zip(table.seconds(held_out), held_out, strict=True)]
    assert np.median(errors) < 0.10
    assert np.quantile(errors, 0.9) < 0.35


def test_predictions_are_the_same_again() -> None:
    """The same rows give the same predictions, whatever was asked before."""
    measured, held_out = halves(0)
    profile = profile_of(measured[:60])
    forward = OperatorTable(profile).seconds(held_out[:20])
    table = OperatorTable(profile)
    backward = [table.seconds([each])[0] for each in reversed(held_out[:20])]
    assert forward == pytest.approx(backward[::-1], rel=1e-9)


@pytest.mark.slow
def test_networks_of_every_family_are_priced() -> None:
    """From the operators that `sepnas profile device` measures, the example of each family is predicted within 5%."""
    table = OperatorTable(profile_of(list(operators_of(grid_networks()))))
    for kind in BACKBONES.values():
        layers = device_layers(named_architecture(kind.example), 0)
        operators = [each for layer in layers for each in layer.operators]
        assert sum(table.seconds(operators)) == pytest.approx(sum(map(true_s, operators)), rel=0.05)


def test_a_segment_is_a_call_and_its_operators() -> None:
    """With a profile a segment takes a call of the engine and, for each sample, the rows of its operators."""
    plan = build_plan(named_architecture("resnext11_4x4d"))
    segment = plan.segments[0]["stem-head"]
    profile = profile_of(sorted(set(segment.operators), key=repr), noise=0.0, overhead_s=1e-3)
    device = Device(name="a", flops_per_s=1.0, memory_bytes=1, profile=profile)
    sample_s = sum(true_s(each) for each in segment.operators)
    assert DeviceTimes(device).segment_s(segment, 3) == pytest.approx(1e-3 + 3 * sample_s)
    result = simulate(plan, Cluster(devices=(device,)))
    assert result.latency_s == pytest.approx(1e-3 + sample_s)


def test_what_passes_the_ends_of_a_segment() -> None:
    """Each value that goes into a segment or comes out takes its time, for each sample."""
    plan = build_plan(named_architecture("resnext11_4x4d"))
    segment = plan.segments[0]["stem-head"]
    alone = profile_of(sorted(set(segment.operators), key=repr), overhead_s=1e-3)
    profile = alone.model_copy(update={"segment_s_per_value": 1e-9})
    without, once, scaled = (
        DeviceTimes(Device(name="a", flops_per_s=1.0, memory_bytes=1, profile=each)).segment_s(segment, 3)
        for each in (alone, profile, profile.scaled(2.0))
    )
    assert once - without == pytest.approx(3 * 1e-9 * (3 * 32 * 32 + 100))
    assert scaled == pytest.approx(2 * once)


def test_too_few_rows_to_predict() -> None:
    """A profile that does not measure a plan's operators, and is too small to predict them, is refused by device."""
    cluster = with_devices(uniform_cluster(1), profile=profile_of(grid()[:3]))
    with pytest.raises(SpecError, match="device 'device0': a profile of 3 operators says nothing about others"):
        simulate(build_plan(named_architecture("resnext11_4x4d")), cluster)


def test_a_merge_that_convolves_is_priced_by_the_profile() -> None:
    """Its convolution is interpolated if no row has it; a profile with too few rows is refused by device."""
    merge = Operator("conv", 48, 16, height=9, width=9)
    times = DeviceTimes(with_devices(uniform_cluster(1), profile=profile_of(grid())).devices[0])
    assert times.operator_s(merge, 3) == pytest.approx(3 * true_s(merge), rel=0.5)
    few = DeviceTimes(with_devices(uniform_cluster(1), profile=profile_of(grid()[:3])).devices[0])
    with pytest.raises(SpecError, match="device 'device0': a profile of 3 operators says nothing about others"):
        few.operator_s(merge)


def test_pricing_imports_no_scikit_learn() -> None:
    """Importing the simulator and the percentiles leaves scikit-learn alone: a second, and no base dependency."""
    code = "import sys, sepnas.cost.simulator, sepnas.cost.jitter; assert 'sklearn' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], timeout=PROCESS_S).returncode == 0


def test_without_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where scikit-learn is not installed, measured operators are priced; for others the extra is named."""
    measured, held_out = halves(0)
    table, real_import = OperatorTable(profile_of(measured[:20])), builtins.__import__

    def without(name: str, *arguments: Any, **keywords: Any) -> Any:
        if name.startswith("sklearn"):
            raise ImportError(name)
        return real_import(name, *arguments, **keywords)

    monkeypatch.setattr(builtins, "__import__", without)
    assert table.seconds(measured[:1]) > [0]
    with pytest.raises(SpecError, match=r"pip install 'sepnas\[train\]'"):
        table.seconds(held_out)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"operators": []}, r"`devices\.0\.profile\.operators`: must.* at least 1 item"),
        ({"operators": [{"seconds": 0.0}]}, r"`devices\.0\.profile\.operators\.0\.seconds`: must be greater than 0"),
        ({"operators": [{"kind": "tanh"}]}, r"`devices\.0\.profile\.operators\.0\.kind`: must be 'conv'"),
        ({"operators": [{"groups": 3}]}, r"`in_channels` \(4\) must be a multiple of `groups` \(3\)"),
        ({"operators": [{}, {}]}, r"`operators\.1` measures the same operator as `operators\.0`"),
        ({"segment_overhead_s": float("inf")}, r"`devices\.0\.profile\.segment_overhead_s`: must be a finite number"),
        ({"machine": MACHINE | {"noise": -1.0}}, r"`devices\.0\.profile\.machine\.noise`: must be at least 0"),
    ],
)
def test_wrong_profiles_are_refused(change: dict[str, Any], message: str) -> None:
    """A profile with a wrong figure, row or kind is refused with its place."""
    data = uniform_cluster(1).to_data()
    row = {"kind": "conv", "in_channels": 4, "out_channels": 4, "seconds": 1e-3}
    profile = {"machine": MACHINE, "operators": [row]} | change
    profile["operators"] = [row | each for each in profile["operators"]]
    data["devices"][0]["profile"] = profile
    with pytest.raises(SpecError, match=r"c\.yaml: field " if "`devices" in message else message) as caught:
        Cluster.from_data(data, "c.yaml")
    assert caught.match(message)


def test_a_measured_cluster_round_trips(tmp_path: Any) -> None:
    """A cluster with profile, exchange costs and jitter that is written and read again is the same."""
    exchange = {"message_s": 1e-4, "convert_s_per_value": {"int8": 1e-9}, "own_core": False}
    data = uniform_cluster(2).to_data()
    data["devices"][1] |= {"jitter": 0.1, "exchange": exchange, "profile": profile_of(grid()[:9]).model_dump()}
    data["links"][0]["jitter_s"] = 1e-3
    cluster = Cluster.from_data(data)
    for name in ("cluster.yaml", "cluster.json"):
        assert Cluster.load(cluster.save(tmp_path / name)) == cluster
