"""Processor times of the steps on a device: computing, converting, handling messages, merging."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from sepnas.cost.identity_key import Same
from sepnas.cost.operator_model import OperatorTimeModel
from sepnas.cost.rated_operators import RatedOperators
from sepnas.errors import SpecError
from sepnas.plan.operators import Operator
from sepnas.plan.plan import Segment
from sepnas.plan.wire import CONVERTED, UNCONVERTED, WireFormat
from sepnas.spec.cluster import Cluster, Device
from sepnas.spec.device_profile import DeviceProfile, ExchangeCosts

_MAX_KEPT = 1 << 14


class DeviceTimes:
    """Times of steps on one device, in seconds.

    Without a profile, a segment takes its FLOPs at a rate plus a constant for each kernel. With one, it takes a call of
    the engine, the values that enter and leave, and its operators one after another; with rates, its operators. Then a
    batch takes as long as its samples one by one. Without exchange costs, only computing takes time.
    """

    def __init__(self, device: Device) -> None:
        self.device = device
        self.exchange: ExchangeCosts | None = device.exchange
        self._convert_s_per_value = _conversions(device.exchange)
        self.resume_s = 0.0 if device.exchange is None else device.exchange.resume_s
        """Extra seconds of the computing that follows a wait for messages."""
        self._flops_per_s, self._kernel_s = device.flops_per_s, device.layer_overhead_s
        self._table = _table_of(device)
        self._kept: dict[int, tuple[Segment, float, float]] = {}
        self._operators_s: dict[Operator, float] = {}

    @property
    def call_s(self) -> float:
        """Seconds of calling the engine once, whatever it computes."""
        return 0.0 if self._table is None else self._table.overhead_s

    def segment_s(self, segment: Segment, batch: int = 1) -> float:
        """Seconds of one call of the engine; :class:`SpecError` if the profile cannot predict it."""
        if self._table is None:
            return batch * segment.flops / self._flops_per_s + segment.num_kernels * self._kernel_s
        # by identity: a segment is built once for a part, and hashing its operators would dominate the cost
        kept = self._kept.get(id(segment))
        if kept is None:
            kept = self._keep(segment, self._table)
        return kept[1] + batch * kept[2]

    def _keep(self, segment: Segment, table: OperatorTable | RatedOperators) -> tuple[Segment, float, float]:
        if segment.num_kernels and not segment.operators:
            raise SpecError(
                f"segment '{segment.name}' does not list its operators, so device '{self.device.name}' "
                f"cannot price it by its {'rates' if self.device.profile is None else 'profile'}"
            )
        if len(self._kept) >= _MAX_KEPT:
            self._kept.clear()
        sample_s = sum(self._seconds(table, segment.operators)) + table.passing_s(segment.operators)
        # keep the segment itself, so that no other object can get its id
        kept = self._kept[id(segment)] = (segment, table.overhead_s, sample_s)
        return kept

    def operator_s(self, operator: Operator, batch: int = 1) -> float:
        """Seconds of an operator outside of segments, without the call of an engine."""
        if self._table is None:
            return 2 * batch * operator.macs / self._flops_per_s + self._kernel_s
        if operator not in self._operators_s:
            [self._operators_s[operator]] = self._seconds(self._table, [operator])
        return batch * self._operators_s[operator]

    def _seconds(self, table: OperatorTable | RatedOperators, operators: Sequence[Operator]) -> list[float]:
        try:
            return table.seconds(operators)
        except SpecError as error:
            raise SpecError(f"device '{self.device.name}': {error}") from None

    def convert_s(self, num_values: int, wire: WireFormat) -> float:
        """Seconds for converting values to a wire format or back; an fp32 message is the tensor's memory."""
        costs = self.exchange
        if costs is None or wire == UNCONVERTED:
            return 0.0
        return costs.convert_s + num_values * self._convert_s_per_value[wire]

    def handle_s(self, wire_bytes: int) -> float:
        """Seconds of the *computing* core for sending or receiving a message; 0 if messages have their own core."""
        costs = self.exchange
        if costs is None or costs.own_core:
            return 0.0
        return costs.message_s + wire_bytes * costs.byte_s

    def merge_s(self, num_values: int) -> float:
        """Seconds of a merge; ``num_values`` is the total over its inputs."""
        costs = self.exchange
        return 0.0 if costs is None else costs.merge_s + num_values * costs.merge_s_per_value


def _table_of(device: Device) -> OperatorTable | RatedOperators | None:
    """The times of operators, if the device has any."""
    if device.profile is not None:
        return operator_table(device.profile)
    rates = device.rates_used
    return None if rates is None else RatedOperators(rates)


def _conversions(costs: ExchangeCosts | None) -> dict[WireFormat, float]:
    return {} if costs is None else {wire: costs.convert_s_per_value.of(wire) for wire in CONVERTED}


class OperatorTable:
    """The operators of a profile: measured times as they are, others interpolated, each computed once."""

    def __init__(self, profile: DeviceProfile) -> None:
        self.overhead_s = profile.segment_overhead_s
        self._value_s = profile.segment_s_per_value
        self._measured = {Operator(*row.key): row.seconds for row in profile.operators}
        self._known = dict(self._measured)
        self._model: OperatorTimeModel | None = None

    def seconds(self, operators: Sequence[Operator]) -> list[float]:
        """One time for each operator, for one sample."""
        known = self._known
        unknown = [each for each in dict.fromkeys(operators) if each not in known]
        if unknown:
            if self._model is None:
                self._model = OperatorTimeModel(tuple(self._measured), tuple(self._measured.values()))
            known.update(zip(unknown, self._model.seconds(unknown), strict=True))
        return [known[each] for each in operators]

    def passing_s(self, operators: Sequence[Operator]) -> float:
        """Seconds for passing values into and out of a segment of these operators, for one sample."""
        if not operators:
            return 0.0
        return self._value_s * (operators[0].input_values + operators[-1].output_values)


@lru_cache(maxsize=32)
def operator_table(profile: DeviceProfile) -> OperatorTable:
    """The table of a profile, the same object for equal profiles: devices of one kind share its fits."""
    return OperatorTable(profile)


def times_of(cluster: Cluster) -> tuple[DeviceTimes, ...]:
    """Times by rank; the same objects for the same cluster."""
    return _times_of(Same(cluster))


def has_equal_devices(cluster: Cluster) -> bool:
    """Whether all devices take the same time for the same work."""
    return _has_equal_devices(Same(cluster))


@lru_cache(maxsize=16)
def _has_equal_devices(same: Same[Cluster]) -> bool:
    devices = same.value.devices
    facts = ("flops_per_s", "layer_overhead_s", "profile", "exchange", "rates_used")
    return all(getattr(device, name) == getattr(devices[0], name) for device in devices for name in facts)


@lru_cache(maxsize=16)
def _times_of(same: Same[Cluster]) -> tuple[DeviceTimes, ...]:
    return tuple(DeviceTimes(device) for device in same.value.devices)
