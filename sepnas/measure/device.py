"""Measures one device: the figures that ``sepnas profile device`` writes."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sepnas.cost.calibrate import fit_rate
from sepnas.cost.times import OperatorTable, operator_table
from sepnas.deployment.engines.registry import engines
from sepnas.errors import SpecError
from sepnas.measure.exchange import measure_exchange
from sepnas.measure.grid import grid_networks, operators_of
from sepnas.measure.in_layers import measure_in_layers
from sepnas.measure.machine import available_memory_bytes, measured_machine, warn_of_another_machine
from sepnas.measure.operators import OperatorTimes, measure_operators
from sepnas.measure.rounds import Stop, Tick
from sepnas.measure.running import computing
from sepnas.plan.operators import Operator
from sepnas.separable.layer import Layer
from sepnas.spec.cluster import Cluster, Device
from sepnas.spec.device_profile import DeviceProfile
from sepnas.spec.timing import SegmentTime

NOISY = 0.1
"""Noise from which a machine is called noisy: repeated measurements differ by a tenth."""
_EXCHANGE_SHARE = 0.15
"""Share of the measuring time for exchange costs: they are few and soon stable."""

Progress = Callable[[float, str], None]
"""Called with the seconds since the start and the name of the current measurement."""


@dataclass(frozen=True)
class MeasuredDevice:
    """A measured device: whether it was ``stable`` before the time was up, whether its messages went ``with_tls``, and
    the number of grid operators ``left_out`` for lack of time."""

    device: Device
    rounds: int
    stable: bool
    with_tls: bool
    left_out: int = 0


def measure_device(
    name: str,
    *,
    engine: str = "torch",
    threads: int = 1,
    seconds: float = 180.0,
    networks: Sequence[Sequence[Layer]] | None = None,
    progress: Progress = lambda seconds, what: None,
) -> MeasuredDevice:
    """Measure this machine for at most ``seconds``, exports included, but at least two rounds of one network.

    The operators are those of ``networks`` (each a sequence of layers); by default those of the grid, as many as
    there is time for, spread over the grid.
    Raises :class:`SpecError` for an invalid time or number of threads.
    """
    if threads < 1 or not 0 < seconds < float("inf"):
        raise SpecError(f"`threads` must be at least 1 and `seconds` a time above 0, got {threads} and {seconds}")
    start = time.monotonic()
    now = "the engine"

    def tick() -> None:
        progress(time.monotonic() - start, now)

    least = None if networks is not None else 1
    if networks is None:
        networks = grid_networks()
        random.Random(0).shuffle(networks)
    tick()
    with computing(engine, threads) as compute:
        now, left_s = "conversions, merges, messages", max(0.0, start + seconds - time.monotonic())
        exchange, with_tls = measure_exchange(_EXCHANGE_SHARE * left_s, compute, threads, tick)
    now = "operators"
    found = _measure_operators(networks, Stop(start + seconds), engine, threads, tick, least)
    profile = DeviceProfile(
        machine=measured_machine(engine, threads, found.rounds.noise),
        operators=found.rows,
        segment_overhead_s=found.segment_overhead_s,
        segment_s_per_value=found.segment_s_per_value,
    )
    measured = {Operator(*row.key) for row in found.rows}
    known = [[layer for layer in network if measured.issuperset(layer.operators)] for network in networks]
    flops_per_s, layer_overhead_s = fit_rate(_segment_times(known, operator_table(profile)))
    device = Device(
        name=name,
        flops_per_s=flops_per_s,
        layer_overhead_s=layer_overhead_s,
        memory_bytes=available_memory_bytes(),
        jitter=found.rounds.jitter,
        exchange=exchange,
        profile=profile,
    )
    left_out = len(operators_of(networks)) - len(found.rows)
    return MeasuredDevice(device, found.rounds.num_rounds, found.stable, with_tls, left_out)


def _measure_operators(
    networks: Sequence[Sequence[Layer]], stop: Stop, engine: str, threads: int, tick: Tick, least: int | None
) -> OperatorTimes:
    """Time the operators of the networks; the first ``least`` (None: all) are measured in any case."""
    if not engines()[engine].fuses:
        operators = operators_of(networks)
        return measure_operators(
            operators, stop, threads, tick, None if least is None else len(operators_of(networks[:least]))
        )
    return measure_in_layers(networks, stop, engine, threads, tick, least)


def _segment_times(networks: Sequence[Sequence[Layer]], table: OperatorTable) -> list[SegmentTime]:
    """Layers with the times of their operators, so that additions and means count in the constant of a kernel."""
    layers = {layer.operators: layer for network in networks for layer in network}
    return [
        SegmentTime(
            2 * layer.macs,
            layer.num_kernels,
            table.overhead_s + table.passing_s(layer.operators) + sum(table.seconds(layer.operators)),
        )
        for layer in layers.values()
    ]


def with_device(cluster: Cluster | None, device: Device) -> Cluster:
    """The cluster with this device, which replaces the device of the same name or is added at the end.

    Its power is not measured, so it is kept. Warns if the old profile comes from another machine or engine.
    """
    if cluster is None:
        return Cluster(devices=(device,))
    devices = {each.name: each for each in cluster.devices}
    before = devices.get(device.name)
    if before is not None:
        warn_of_another_machine(before, device)
        device = device.model_copy(update={"power": before.power})
    devices[device.name] = device
    return cluster.model_copy(update={"devices": tuple(devices.values())})
