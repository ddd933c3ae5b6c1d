"""A cluster: the devices that run a network together, and the links between them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator
from typing_extensions import Self

from sepnas.errors import PlanError
from sepnas.spec.device_profile import DeviceProfile, ExchangeCosts
from sepnas.spec.document import Document, Part, few, repeated
from sepnas.spec.figures import MAX_DEVICES, Count, NotNegative, Positive, Size, Text
from sepnas.spec.operator_rates import OperatorRates, check_order, rates_on

_SHOWN_PAIRS = 6


class Power(Part):
    """Electric power of a device in watts; ``compute_w`` is added to ``idle_w`` while it computes."""

    idle_w: NotNegative = 0.0
    compute_w: NotNegative = 0.0
    energy_per_byte_j: NotNegative = 0.0


class Device(Part):
    """One machine.

    ``flops_per_s`` is the rate it reaches on the network's convolutions, not its datasheet peak; ``layer_overhead_s``
    is the fixed cost of a layer, whatever its size. ``rates`` of several kinds of operators replace both, and the
    measured times of a ``profile`` replace all of these. Without ``exchange``, converting, sending, receiving and
    merging take no processor time. ``jitter`` is the standard deviation of a segment's time, relative to its mean.

    ``threads`` is the number of threads on which the worker computes. Of ``rates`` it selects those; by default the
    last ones, which are those of most threads. Other figures must have been measured on this number of threads.
    """

    name: Text
    flops_per_s: Positive
    memory_bytes: Count
    layer_overhead_s: NotNegative = 0.0
    power: Power = Power()
    jitter: NotNegative = 0.0
    exchange: ExchangeCosts | None = None
    profile: DeviceProfile | None = None
    threads: Size | None = None
    rates: tuple[OperatorRates, ...] = ()

    @model_validator(mode="after")
    def _check_threads(self) -> Self:
        check_order(self.rates)
        if self.profile is not None and self.threads not in (None, self.profile.machine.threads):
            raise ValueError(
                f"`threads` is {self.threads}, but the profile was measured with `threads` "
                f"{self.profile.machine.threads}; measure again: `sepnas profile device --threads {self.threads}`"
            )
        if self.rates and self.threads is not None:
            rates_on(self.rates, self.threads)
        return self

    @property
    def threads_used(self) -> int:
        """The number of threads that predictions are for."""
        if self.profile is not None:
            return self.profile.machine.threads
        return self.threads or (self.rates[-1].threads if self.rates else 1)

    @property
    def rates_used(self) -> OperatorRates | None:
        """The rates that give the times of operators; None if there are none, or a profile."""
        return rates_on(self.rates, self.threads_used) if self.rates and self.profile is None else None

    def has_figures(self, field: str) -> bool:
        """Whether ``field`` is given, with a value other than its default (0 W of power)."""
        return bool(getattr(self, field) != type(self).model_fields[field].default)


class Link(Part):
    """How messages travel between devices.

    ``between`` names a pair of devices, or is ``all``: every pair that no other link names.
    ``medium`` is the resource that a message occupies while it is on the wire:

    - ``own``: a dedicated cable for each pair;
    - ``switch``: the sender's port and the receiver's port of a switch;
    - ``shared``: the air: one message at a time in the whole cluster.

    With ``duplex: half`` both directions share a cable or port. ``jitter_s`` is the mean random delay of a message
    beyond ``latency_s``; only percentiles include it.
    """

    between: Literal["all"] | tuple[Text, Text] = "all"
    bandwidth_bytes_per_s: Positive
    latency_s: NotNegative = 0.0
    message_overhead_s: NotNegative = 0.0
    medium: Literal["own", "switch", "shared"] = "switch"
    duplex: Literal["full", "half"] = "full"
    jitter_s: NotNegative = 0.0


class Cluster(Document):
    """Devices and links. Without ``client_link``, messages from and to the client cost nothing."""

    format_name: ClassVar[str] = "sepnas.cluster"
    max_values: ClassVar[int] = 250_000

    name: Text = "cluster"
    devices: Annotated[tuple[Device, ...], Field(min_length=1, max_length=MAX_DEVICES)]
    links: Annotated[tuple[Link, ...], Field(max_length=MAX_DEVICES**2)] = ()
    client_link: Link | None = None

    @model_validator(mode="after")
    def _check_names(self) -> Self:
        names = [device.name for device in self.devices]
        twice = sorted(repeated(names))
        if twice:
            raise ValueError(f"device names must differ; repeated: {few(twice)}")
        seen: set[frozenset[str] | str] = set()
        for index, link in enumerate(self.links):
            key = link.between if link.between == "all" else frozenset(link.between)
            if key in seen:
                raise ValueError(f"`links.{index}.between` {link.between!r} is described twice")
            seen.add(key)
            for name in () if link.between == "all" else link.between:
                if name not in names:
                    raise ValueError(
                        f"`links.{index}.between` names device {name!r}; the devices are {', '.join(names)}"
                    )
            if link.between != "all" and len(set(link.between)) == 1:
                raise ValueError(f"`links.{index}.between` must name two different devices, got {link.between!r}")
        return self

    @property
    def num_devices(self) -> int:
        return len(self.devices)

    @property
    def threads(self) -> tuple[int, ...]:
        """The number of threads that predictions are for, by rank."""
        return tuple(device.threads_used for device in self.devices)

    @property
    def every_link(self) -> tuple[Link, ...]:
        """The links between devices, and the client's link if there is one."""
        return self.links if self.client_link is None else (*self.links, self.client_link)

    def link(self, source: int, destination: int) -> Link:
        """The link between two ranks; :class:`PlanError` when the cluster has none."""
        pair = frozenset((self.devices[source].name, self.devices[destination].name))
        for link in self.links:
            if link.between != "all" and frozenset(link.between) == pair:
                return link
        for link in self.links:
            if link.between == "all":
                return link
        first, second = self.devices[source].name, self.devices[destination].name
        raise PlanError(
            f"cluster '{self.name}' has no link between {first} and {second}, but the policy sends a message from rank "
            f"{source} to rank {destination}; write one in `links`: `- {{between: [{first}, {second}], "
            "bandwidth_bytes_per_s: 12500000}`, or one with `between: all` for every pair that has none"
            f" ({format_pairs(self.missing_links())})"
        )

    def missing_links(self, num_devices: int | None = None) -> list[tuple[str, str]]:
        """The pairs of (the first ``num_devices``) devices that no link joins, by name."""
        joined = {frozenset(link.between) for link in self.links if link.between != "all"}
        if len(joined) < len(self.links):  # one of the links is for all pairs
            return []
        names = [device.name for device in self.devices[:num_devices]]
        return [pair for pair in combinations(names, 2) if frozenset(pair) not in joined]


def format_pairs(pairs: Sequence[tuple[str, str]]) -> str:
    """``device0-device2, device1-device2``; a long list is cut after the first few."""
    more = [f"{len(pairs) - _SHOWN_PAIRS} more"] if len(pairs) > _SHOWN_PAIRS else []
    return ", ".join([*(f"{first}-{second}" for first, second in pairs[:_SHOWN_PAIRS]), *more])


def uniform_cluster(
    num_devices: int,
    flops_per_s: float = 5e9,
    memory_bytes: int = 1 << 30,
    bandwidth_bytes_per_s: float = 12.5e6,
    latency_s: float = 5e-4,
    name: str = "uniform",
) -> Cluster:
    """Equal devices behind one switch; the defaults are a slow board and 100 Mbit Ethernet."""
    return Cluster(
        name=name,
        devices=tuple(
            Device(name=f"device{rank}", flops_per_s=flops_per_s, memory_bytes=memory_bytes)
            for rank in range(num_devices)
        ),
        links=(Link(bandwidth_bytes_per_s=bandwidth_bytes_per_s, latency_s=latency_s),),
    )
