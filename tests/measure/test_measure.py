"""Profiles of this machine: real operators through the real engine, real sockets, small grids and short times."""

from __future__ import annotations

import json
import re
import sys
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from sepnas.cli.main import main
from sepnas.cli.options import cluster_to_predict_with
from sepnas.cost.cross_validation import held_out_errors
from sepnas.cost.operator_model import MIN_ROWS
from sepnas.cost.times import DeviceTimes
from sepnas.errors import SpecError
from sepnas.measure.device import MeasuredDevice, measure_device, with_device
from sepnas.measure.exchange import measure_exchange
from sepnas.measure.fits import fit_costs
from sepnas.measure.grid import grid_networks, operators_of
from sepnas.measure.link_probe import circuit, probe_architecture
from sepnas.measure.links import measure_links, with_links
from sepnas.measure.loopback import Loopback
from sepnas.measure.machine import available_memory_bytes, installed_version, warn_of_another_engine
from sepnas.measure.operators import measure_operators
from sepnas.measure.probes import SideBySide, noise, write_probes
from sepnas.measure.rounds import Rounds, Stop, measure_rounds
from sepnas.plan.operators import Operator
from sepnas.plan.wire import FRAME_HEADER_BYTES
from sepnas.runtime.client.trace import Trace
from sepnas.runtime.engines.torch_engine import TorchEngine
from sepnas.separable.architecture import named_architecture
from sepnas.separable.build import build_plan
from sepnas.separable.layers import device_layers
from sepnas.separable.patterns import all_to_all
from sepnas.spec.cluster import Cluster, Device, Power, uniform_cluster
from sepnas.spec.device_profile import ExchangeCosts
from tests.cost.test_cost_times import grid, profile_of

SMALL = (
    Operator("conv", 8, 16, 3, 2, 2, 4, 4), Operator("conv", 16, 8, height=4, width=4),
    Operator("conv", 64, 64, 3, 1, 1, 16, 16), Operator("add", 8, 8, height=4, width=4),
    Operator("pool", 16, 16, 4, 4), Operator("linear", 16, 10), Operator("max-pool", 8, 8, 2, 2, 1, 4, 4),
)  # fmt: skip

NARROW = device_layers(named_architecture("resnext11_1x4d"), 0)


ATEN = {"conv": "conv2d", "add": "relu", "pool": "mean", "linear": "linear", "max-pool": "max_pool2d"}


def soon(seconds: float = 0.5) -> Stop:
    return Stop(time.monotonic() + seconds)


@pytest.fixture(scope="module")
def measured() -> MeasuredDevice:
    return measure_device("board", seconds=1.0, networks=[NARROW])


@pytest.mark.parametrize("operator", SMALL)
def test_a_probe_computes_its_operator(operator: Operator, tmp_path: Path) -> None:
    """A probe is its operator so many times side by side, and the engine gives what torch gives."""
    probe = SideBySide(operator, 2)
    # another size first: the graph is shared, and must not know sizes
    other = probe._replace(operator=operator.__class__(**_doubled(operator)))
    shard = write_probes([other, probe], tmp_path)
    assert len(list(tmp_path.iterdir())) == 1
    found = TorchEngine(shard).run(probe.name, [noise(probe.input_shape)])[0]
    x, weights = (
        torch.from_numpy(noise(probe.input_shape)),
        {n: torch.from_numpy(w) for n, w in shard.first.weights.items()},
    )
    first = f"{probe.name}.each.0."
    own = {name.removeprefix(first): tensor for name, tensor in weights.items() if name.startswith(first)}
    assert found == pytest.approx(_by_torch(operator, x, own).numpy(), abs=1e-5)
    text = (tmp_path / f"{probe.form}.pt2").read_bytes().decode("latin-1")
    assert text.count(f"torch.ops.aten.{ATEN[operator.kind]}") == 2


def _doubled(operator: Operator) -> dict[str, object]:
    values = {name: getattr(operator, name) for name in Operator.__slots__}
    return values | {"in_channels": 2 * operator.in_channels, "out_channels": 2 * operator.out_channels}


def _by_torch(each: Operator, x: torch.Tensor, weights: dict[str, torch.Tensor]) -> torch.Tensor:
    if each.kind == "add":
        return torch.relu(x + weights["other"])
    if each.kind == "pool":
        return x.mean((2, 3))
    if each.kind == "max-pool":
        return nn.functional.max_pool2d(x, each.kernel)
    if each.kind == "linear":
        return nn.functional.linear(x, weights["weight"], weights["bias"])
    y = nn.functional.conv2d(x, weights["layer.conv.weight"], None, each.stride, each.kernel // 2, 1, each.groups)
    return torch.relu(y / np.sqrt(1 + 1e-5))  # a fresh batch norm


def test_the_grid_is_the_family() -> None:
    """The grid has each operator once, all operators of the demo-sized and the published four-device network, and each
    kind of operator of every other family."""
    operators = operators_of(grid_networks())
    assert len(set(operators)) == len(operators) < 450
    for name, devices in (("resnext56_4x16d", 4), ("resnext20_4x4d", 4), ("resnext29_8x16d", 8)):
        layers = device_layers(named_architecture(name, devices), 0)
        assert {each for layer in layers for each in layer.operators} <= set(operators)
    kinds = {(each.kind, each.kernel, each.groups == each.in_channels > 1) for each in operators}
    for name in ("vgg16_1x64", "mobilenetv2_6x16", "efficientnet-lite0_6x16"):
        every = [each for layer in device_layers(named_architecture(name), 0)[:-1] for each in layer.operators]
        assert {(each.kind, each.kernel, each.groups == each.in_channels > 1) for each in every} <= kinds


def test_a_call_and_its_operators_are_separated() -> None:
    """Measured operators are positive, a large convolution takes longer than a small one, and a call takes time.

    Beside other programs a short measurement may find otherwise; not thirty times.
    """

    def told_apart() -> bool:
        found = measure_operators(SMALL, soon())
        assert [Operator(*row.key) for row in found.rows] == list(SMALL)
        times = [row.seconds for row in found.rows]
        assert min(times) > 0
        assert found.segment_overhead_s >= 0
        return times[2] > 2 * times[1] and 0 < found.segment_overhead_s < 0.01

    assert any(told_apart() for _ in range(30))


def test_a_measured_device_is_whole(measured: MeasuredDevice, tmp_path: Path) -> None:
    """A measured device has its operators, exchange costs, facts, and two numbers, and survives its file."""
    device = measured.device
    assert device.profile is not None
    assert device.exchange is not None
    assert device.profile.machine.engine_version == installed_version("torch")
    assert min(device.flops_per_s, device.memory_bytes, device.exchange.message_s) > 0
    assert 0 < device.jitter < 10
    assert measured.with_tls
    assert measured.rounds >= 2
    path = Cluster(devices=(device,)).save(tmp_path / "c.yaml")
    assert Cluster.load(path).devices == (device,)


@pytest.mark.slow
def test_time_that_is_up_leaves_operators_out() -> None:
    """The time bounds what is exported too: where it is up at once, one network of the family is measured, and told
    that the others are not."""
    found = measure_device("board", seconds=1e-3)
    assert found.device.profile is not None
    rows = found.device.profile.operators
    every = operators_of(grid_networks())
    assert MIN_ROWS <= len(rows) < 0.2 * len(every)
    assert found.left_out == len(every) - len(rows)
    assert found.rounds == 2
    assert found.device.flops_per_s > 0


def test_rounds_see_drift_and_stop_when_still() -> None:
    """Equal times stop after the least number of rounds; a machine that becomes slower is measured until the end."""
    still = measure_rounds([lambda: [1.0], lambda: [2.0]], soon(60))
    assert (still.num_rounds, still.medians_s(), still.noise, still.jitter) == (10, [1.0, 2.0], 0.0, 0.0)
    clock = iter(range(1, 1 << 30))
    drifting = measure_rounds([lambda: [1.1 ** next(clock)]], Stop(time.monotonic() + 0.01, least_rounds=4))
    assert not drifting.is_stable(soon())
    assert drifting.noise > 0.05


def test_jitter_is_the_spread_without_the_tails() -> None:
    """The jitter of lognormal times is their relative deviation, whatever a few interrupted calls took."""
    times = np.random.default_rng(0).lognormal(0, 0.1, (400, 3, 1))
    times[::40] *= 1000
    assert Rounds(times).jitter == pytest.approx(0.1, rel=0.15)


def test_costs_are_fitted_and_never_negative() -> None:
    """Costs of a line come back; a cost that would be negative is 0."""
    columns = [[1.0, 10.0], [1.0, 100.0], [1.0, 1000.0]]
    assert fit_costs(columns, [2e-6 + 1e-8 * each for _, each in columns]) == pytest.approx([2e-6, 1e-8])
    assert fit_costs(columns, [1e-8 * each * each for _, each in columns])[0] == 0.0


@pytest.mark.parametrize("cores", [1, 4])
def test_exchange_costs_are_those_of_the_runtime(monkeypatch: pytest.MonkeyPatch, cores: int) -> None:
    """Conversions, merges and messages cost something, int4 more than nothing, and all is finite; a core is said."""
    monkeypatch.setattr("sepnas.measure.exchange.usable_cores", lambda: cores)
    calls = []
    costs, with_tls = measure_exchange(0.3, lambda: calls.append(None))
    assert with_tls
    assert costs.own_core is (cores > 1)
    assert min(costs.message_s, costs.byte_s, costs.convert_s, costs.merge_s) >= 0
    assert costs.message_s + costs.byte_s > 0
    assert costs.convert_s_per_value.int4 > 0
    assert costs.merge_s + costs.merge_s_per_value > 0
    assert calls
    assert 0 <= costs.resume_s < 60


def test_a_loopback_without_certificates_is_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the package cryptography is missing, as on a device, messages are measured in plain TCP, and it is said."""
    monkeypatch.setitem(sys.modules, "sepnas.deploy.certificates", None)
    with Loopback() as loopback:
        assert not loopback.with_tls
        assert loopback.ends.processor_s(bytes(64)) >= 0


def test_a_message_holds_a_computing_thread_up() -> None:
    """A long message takes time from who waits for it, even where that does nothing else."""
    with Loopback() as loopback:
        found = [loopback.ends.lost_s(bytes(1 << 17), lambda: None) for _ in range(5)]
        assert 1e-5 < np.median(found) < 1.0


def test_held_out_operators_are_predicted() -> None:
    """Half of a made-up machine's rows is predicted from the other half within 10% in the median, for any seed."""
    profile = profile_of(grid())
    for seed in range(3):
        errors = held_out_errors(profile, seed)
        assert len(errors) == round(len(profile.operators) / 2)
        assert np.median(errors) < 0.10
    with pytest.raises(SpecError, match=r"`share` must leave something out and at least 8 of 9 operators in"):
        held_out_errors(profile_of(grid()[:9]), 0)


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["sepnas", "profile", "device", *arguments])
    with pytest.raises(SystemExit) as stop:
        main()
    return int(stop.value.code or 0)


def test_the_command_puts_a_device_into_a_cluster(measured, monkeypatch, capsys, tmp_path: Path) -> None:
    """The device of that name is replaced and keeps its power; other devices and the links stay as they are."""
    monkeypatch.setattr(
        "sepnas.measure.device.measure_device",
        lambda name, **_: measured.__class__(measured.device.model_copy(update={"name": name}), 9, True, False),
    )
    before = uniform_cluster(3)
    power = Power(idle_w=1.0, compute_w=2.0)
    devices = (before.devices[0], before.devices[1].model_copy(update={"power": power}), before.devices[2])
    path = before.model_copy(update={"devices": devices}).save(tmp_path / "c.yaml")
    assert run(monkeypatch, "--out", str(path), "--name", "device1") == 0
    after = Cluster.load(path)
    assert (after.devices[0], after.devices[2], after.links) == (devices[0], devices[2], before.links)
    assert (after.devices[1].profile, after.devices[1].power) == (measured.device.profile, power)
    said = capsys.readouterr()
    assert "without TLS" in said.err
    assert run(monkeypatch, "--out", str(tmp_path / "new.yaml"), "--name", "a") == 0
    assert [device.name for device in Cluster.load(tmp_path / "new.yaml").devices] == ["a"]
    assert run(monkeypatch, "--out", str(tmp_path / "new.yaml"), "--name", "b") == 0
    assert "no link yet between a-b" in capsys.readouterr().out
    assert Cluster.load(tmp_path / "new.yaml").num_devices == 2


def test_devices_measured_at_once_are_all_put_in(measured, monkeypatch, tmp_path: Path) -> None:
    """What another process has written into the cluster file while a device was measured stays there."""
    out = uniform_cluster(2).save(tmp_path / "c.yaml")
    elsewhere = Cluster.load(out).devices[0].model_copy(update={"flops_per_s": 7e9})

    def measure(name: str, **_: object):  # type: ignore[no-untyped-def]
        with_device(Cluster.load(out), elsewhere).save(out)
        return measured.__class__(measured.device.model_copy(update={"name": name}), 9, True, False)

    monkeypatch.setattr("sepnas.measure.device.measure_device", measure)
    assert run(monkeypatch, "--out", str(out), "--name", "device1") == 0
    assert [device.flops_per_s for device in Cluster.load(out).devices] == [7e9, measured.device.flops_per_s]
    assert [path.name for path in tmp_path.iterdir()] == ["c.yaml"]


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["--name", ""], 2, "must not be empty"),
        (["--seconds", "0"], 2, "--seconds"),
        (["--seconds", "nan"], 2, "--seconds"),
        (["--threads", "0"], 2, "--threads"),
        (["--out", "."], 1, "is a folder; name the file to write"),
        (["--out", "bad.yaml"], 1, "bad.yaml: field `devices`: is missing"),
    ],
)
def test_mistakes_are_refused_first(options, code, said, monkeypatch, capsys, tmp_path: Path) -> None:
    """Wrong options and a file that is no cluster are refused before three minutes of measuring."""
    monkeypatch.chdir(tmp_path)
    Path("bad.yaml").write_text("format: sepnas.cluster\n")
    assert run(monkeypatch, *options) == code
    assert said in " ".join(capsys.readouterr().err.replace("│", " ").split())


def test_another_machine_or_engine_is_named(measured: MeasuredDevice, tmp_path: Path) -> None:
    """A device that was measured with another version warns when it is measured again, and where commands predict."""
    assert measured.device.profile is not None
    machine = measured.device.profile.machine.model_copy(update={"engine_version": "2.6.0"})
    profile = measured.device.profile.model_copy(update={"machine": machine})
    old = measured.device.model_copy(update={"profile": profile})
    here = measured.device.profile.machine.engine_version
    with pytest.warns(UserWarning, match=re.escape(f"`engine_version` 2.6.0, now with {here}")):
        with_device(Cluster(devices=(old,)), measured.device)
    with pytest.warns(UserWarning, match="board measured with torch 2.6.0, but torch .* is installed"):
        cluster_to_predict_with(Cluster(devices=(old,)).save(tmp_path / "old.yaml"))


@pytest.mark.filterwarnings("error")
def test_the_same_machine_warns_of_nothing(measured: MeasuredDevice) -> None:
    """Measured again here, or predicted here, nothing is said."""
    cluster = with_device(Cluster(devices=(measured.device,)), measured.device)
    warn_of_another_engine(cluster)
    warn_of_another_engine(uniform_cluster(2))


def test_a_profile_prices_a_network(measured: MeasuredDevice) -> None:
    """A profile whose rows hold a network's operators prices its segments as a call and their sum."""
    layers = device_layers(named_architecture("resnext11_1x4d"), 0)
    operators = tuple(dict.fromkeys(operator for layer in layers for operator in layer.operators))
    found = measure_operators(operators, soon())
    assert measured.device.profile is not None
    profile = measured.device.profile.model_copy(
        update={"operators": found.rows, "segment_overhead_s": found.segment_overhead_s}
    )
    device = Device(name="a", flops_per_s=1.0, memory_bytes=1, profile=profile)
    plan = build_plan(named_architecture("resnext11_1x4d"))
    predicted_s = DeviceTimes(device).segment_s(plan.segments[0]["stem-head"])
    assert found.segment_overhead_s + sum(row.seconds for row in found.rows) <= predicted_s + 1e-12


def test_memory_is_plausible() -> None:
    """Between a mebibyte and a petabyte."""
    assert 1 << 20 < available_memory_bytes() < 1 << 50


def flights(offset_s: float, latency_s: float, byte_s: float, num_devices: int = 3) -> Trace:
    """What a probe's circuits would leave on such links, with the clock of rank 1 ahead by ``offset_s``."""
    steps: dict[int, list[dict]] = {rank: [] for rank in range(num_devices)}
    now, tag, clock = 0.0, 0, {1: offset_s}
    for size in (1 << 10, 1 << 12, 1 << 14, 1 << 16):
        for source, to in circuit(num_devices):
            sent, tag = {"step": "send", "peer": to}, tag + 1
            had_s = now + latency_s + byte_s * (size + FRAME_HEADER_BYTES)
            shared = {"name": "x", "tag": tag, "payload_bytes": size}
            times = {"start_s": now + clock.get(source, 0.0), "end_s": now + clock.get(source, 0.0)}
            steps[source].append(shared | sent | times)
            end_s = had_s + clock.get(to, 0.0)
            times = {"start_s": end_s - 1e-4, "arrived_s": end_s, "end_s": end_s}
            steps[to].append(shared | {"step": "recv", "peer": source} | times)
            now = had_s + 1e-3
    devices = [{"rank": rank, "uncertainty_s": 1e-4, "steps": found} for rank, found in steps.items()]
    request = {"request": 1, "batch": 1, "sent_s": 0.0, "answered_s": now, "devices": devices}
    return Trace.from_data({"deployment_id": "0" * 64, "requests": [request]})


def test_links_are_found_whatever_the_clocks_say() -> None:
    """Latency and bandwidth of each pair come out exactly though a clock is wrong; a direction is off by that."""
    found = measure_links(flights(5e-4, 2e-3, 1e-7), 3)
    assert [(each.source, each.destination) for each in found.pairs] == [(0, 1), (0, 2), (1, 2)]
    for each in found.pairs:
        assert each.latency_s == pytest.approx(2e-3, rel=1e-6)
        assert each.bandwidth_bytes_per_s == pytest.approx(1e7, rel=1e-6)
    directions = {(each.source, each.destination): each for each in found.directions}
    assert directions[0, 1].latency_s == pytest.approx(2.5e-3, rel=1e-6)
    assert directions[1, 0].latency_s == pytest.approx(1.5e-3, rel=1e-6)
    assert directions[1, 0].bandwidth_bytes_per_s == pytest.approx(1e7, rel=1e-6)
    cluster = with_links(uniform_cluster(4), found)
    assert cluster.link(1, 2).latency_s == pytest.approx(2e-3, rel=1e-6)
    assert cluster.link(1, 3) == uniform_cluster(4).link(1, 3)


def test_a_link_excludes_the_processors_at_its_ends() -> None:
    """Of the time of a message a link has what the exchange costs of both devices do not explain."""
    costs = ExchangeCosts(message_s=2e-4, byte_s=1e-8)
    cluster = uniform_cluster(3)
    devices = tuple(device.model_copy(update={"exchange": costs}) for device in cluster.devices)
    found = with_links(cluster.model_copy(update={"devices": devices}), measure_links(flights(0.0, 2e-3, 1e-7), 3))
    assert found.link(0, 1).latency_s == pytest.approx(2e-3 - 2 * 2e-4, rel=1e-6)
    assert 1 / found.link(0, 1).bandwidth_bytes_per_s == pytest.approx(1e-7 - 2 * 1e-8, rel=1e-6)


def client_request(number: int, batch: int, latency_s: float, byte_s: float) -> dict:
    """A request of 1,000 bytes a sample to each of two devices, 8 bytes back from the second, whose clock is off."""
    nbytes = 2 * (1000 * batch + FRAME_HEADER_BYTES) + 8 + FRAME_HEADER_BYTES
    ways_s, clock = 2 * latency_s + nbytes * byte_s, 0.25
    shared = {"name": "x", "tag": 0, "peer": -1}
    came = shared | {"step": "recv", "payload_bytes": 1000 * batch, "start_s": 0.0}
    devices = [
        {
            "rank": rank,
            "uncertainty_s": 0.0,
            "steps": [came | {"arrived_s": clock + ways_s / 3, "end_s": clock + ways_s / 3}],
        }
        for rank in range(2)
    ]
    left_s = clock + ways_s / 3 + 0.01
    devices[1]["steps"].append(
        shared | {"step": "send", "tag": 1, "payload_bytes": 8, "start_s": left_s, "end_s": left_s}
    )
    answered_s = 0.01 + ways_s
    return {"request": number, "batch": batch, "sent_s": 0.0, "answered_s": answered_s, "devices": devices}


def test_the_clients_link_is_half_of_there_and_back() -> None:
    """From requests of two sizes come the client's latency and bandwidth, whatever the device's clock says, without
    what the device takes; requests of one size leave the cluster's."""
    trace = flights(0.0, 2e-3, 1e-7).to_data()
    ways = [client_request(2, 2, 3e-3, 1e-6), client_request(3, 5, 3e-3, 1e-6)]
    found = measure_links(Trace.from_data({**trace, "requests": [*trace["requests"], *ways]}), 3)
    assert found.client is not None
    assert (found.client.source, found.client.destination) == (-1, 1)
    assert found.client.latency_s == pytest.approx(3e-3)
    assert found.client.bandwidth_bytes_per_s == pytest.approx(1e6)
    costs = ExchangeCosts(message_s=2e-4, byte_s=1e-7)
    cluster = uniform_cluster(3)
    devices = tuple(device.model_copy(update={"exchange": costs}) for device in cluster.devices)
    link = with_links(cluster.model_copy(update={"devices": devices}), found).client_link
    assert link is not None
    assert link.latency_s == pytest.approx(3e-3 - 2e-4)
    assert 1 / link.bandwidth_bytes_per_s == pytest.approx(1e-6 - 1e-7)
    one_size = measure_links(Trace.from_data({**trace, "requests": [*trace["requests"], ways[0]]}), 3)
    assert one_size.client is None
    assert with_links(cluster, one_size).client_link is None


def test_missing_measurements_of_a_trace_are_named() -> None:
    """A trace without a pair's messages, and a cluster that is too small, are refused with the pair and the field."""
    trace = flights(0.0, 1e-3, 1e-8)
    with pytest.raises(SpecError, match="from device 0 to 3, 1 to 3, 2 to 3, 3 to 0, 3 to 1, 3 to 2; run a deployment"):
        measure_links(trace, 4)
    with pytest.raises(SpecError, match=r"field `devices`: has 2, but links between 3 devices"):
        with_links(uniform_cluster(2), measure_links(trace, 3))


@pytest.mark.parametrize("num_devices", [2, 3, 4, 8])
def test_a_probe_goes_over_all_pairs(num_devices: int) -> None:
    """A circuit joins all ordered pairs end to end, and the probe's plan has six sizes of messages for each."""
    path = circuit(num_devices)
    assert sorted(path) == sorted(all_to_all(num_devices))
    assert all(first[1] == second[0] for first, second in pairwise(path))
    plan = build_plan(probe_architecture(num_devices))
    sizes = {}
    for message in plan.transfers():
        sizes.setdefault((message.source, message.destination), set()).add(message.payload_bytes())
    assert set(sizes) == set(path)
    assert all({65536, 32768, 16384, 8192, 4096, 1024} <= each for each in sizes.values())
    with pytest.raises(SpecError, match=r"a probe is for 2\.\.8 devices, got 9"):
        probe_architecture(9)


@pytest.mark.slow
def test_links_of_this_machine(monkeypatch, capsys, tmp_path: Path) -> None:
    """`sepnas profile links --local 2` starts workers, measures both directions under load too, and writes the link
    into the cluster file that was given."""
    monkeypatch.chdir(tmp_path)
    out = uniform_cluster(2).save(tmp_path / "c.yaml")
    another = uniform_cluster(3).save(tmp_path / "cluster.yaml")
    before = another.read_bytes()
    options = ["--local", "2", "--cluster", str(out), "--requests", "5", "--json"]
    monkeypatch.setattr(sys, "argv", ["sepnas", "profile", "links", *options])
    with pytest.raises(SystemExit) as stop:
        main()
    assert not stop.value.code
    found = json.loads(capsys.readouterr().out)
    assert [(each["source"], each["destination"]) for each in found["directions"]] == [(0, 1), (1, 0)]
    link = Cluster.load(out).links[0]
    assert link.between == ("device0", "device1")
    assert link.bandwidth_bytes_per_s == found["pairs"][0]["bandwidth_bytes_per_s"] > 0
    assert 0 <= link.latency_s < 60
    client = Cluster.load(out).client_link
    assert client is not None
    assert client.between == "all"
    assert found["client"]["latency_s"] == client.latency_s > 0
    assert another.read_bytes() == before


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--write-probe", "p"], "go together"),
        (["probe"], "the cluster whose links are measured"),
        (["--cluster", "c.yaml"], "name either a probe's folder or --local N"),
        (["probe", "--local", "2", "--cluster", "c.yaml"], "name either a probe's folder or --local N"),
    ],
)
def test_links_options_that_do_not_fit(options: list[str], said: str, monkeypatch, capsys) -> None:
    """Options that miss each other are refused before anything is measured."""
    monkeypatch.setattr(sys, "argv", ["sepnas", "profile", "links", *options])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    assert said in " ".join(capsys.readouterr().err.replace("│", " ").split())
