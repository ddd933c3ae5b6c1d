"""Presets: figures of common devices and links, each with its sources, for a cluster that is not measured yet."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, TypeVar

from pydantic import Field, model_validator
from typing_extensions import Self

from sepnas.errors import SpecError
from sepnas.spec.cluster import Cluster, Device, Link, Power
from sepnas.spec.document import Document, Part
from sepnas.spec.figures import Count, NotNegative, Positive, Text
from sepnas.spec.operator_rates import OperatorRates, check_order, rates_on

PresetT = TypeVar("PresetT")


class Source(Part):
    """Where a figure is published."""

    title: Text
    address: Annotated[str, Field(pattern=r"^https?://\S+$")]


class Origin(Part):
    """How a figure came about, and the names of its sources.

    An ``estimate`` was derived or assumed as ``note`` says; any other figure is stated in its sources.
    """

    note: Text
    estimate: bool = False
    sources: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _check_sources(self) -> Self:
        if not (self.sources or self.estimate):
            raise ValueError("a figure without `sources` must be marked as an `estimate`")
        return self


class Figure(Origin):
    """A number with its origin."""

    value: NotNegative


class PositiveFigure(Figure):
    value: Positive


class CountFigure(Figure):
    value: Count


class RatesFigure(Origin):
    """Speeds of operators by number of threads: on one, and on all cores."""

    value: Annotated[tuple[OperatorRates, ...], Field(min_length=2)]

    @model_validator(mode="after")
    def _check_threads(self) -> Self:
        check_order(self.value)
        if self.value[0].threads != 1:
            raise ValueError(f"the first rates must be those of one thread, got `threads` {self.value[0].threads}")
        return self

    @property
    def all_threads(self) -> int:
        """The number of cores."""
        return self.value[-1].threads


class _Preset(Part):
    title: Text

    def figures(self) -> Iterator[tuple[str, Origin]]:
        """The figures by name."""
        for name in type(self).model_fields:
            value = getattr(self, name)
            if isinstance(value, Origin):
                yield name, value

    def sources(self) -> list[str]:
        """The names of all sources, each once, in the order of the figures."""
        return list(dict.fromkeys(name for _, figure in self.figures() for name in figure.sources))


class DevicePreset(_Preset):
    """One kind of machine, its CPU only; see :class:`Device` and :class:`Power` for the figures.

    ``flops_per_s`` and ``layer_overhead_s`` are those of one thread in eager PyTorch, ``rates`` those of an engine with
    tuned kernels. ``compute_w`` is for one busy core, ``all_cores_w`` for all of them.
    """

    flops_per_s: PositiveFigure
    layer_overhead_s: Figure
    rates: RatesFigure
    memory_bytes: CountFigure
    idle_w: Figure
    compute_w: Figure
    all_cores_w: Figure

    def busy_w(self, threads: int) -> float:
        """Watts above idle of as many busy cores, in proportion between one and all."""
        one_w, all_w = self.compute_w.value, self.all_cores_w.value
        return one_w + (all_w - one_w) * (threads - 1) / (self.rates.all_threads - 1)


class LinkPreset(_Preset):
    """One kind of link; see :class:`Link`. ``energy_per_byte_j`` is the energy that each end spends on a byte."""

    medium: Literal["own", "switch", "shared"]
    duplex: Literal["full", "half"]
    bandwidth_bytes_per_s: PositiveFigure
    latency_s: Figure
    message_overhead_s: Figure
    energy_per_byte_j: Figure


class Presets(Document):
    """All presets, and the sources that their figures cite."""

    format_name: ClassVar[str] = "sepnas.presets"

    sources: dict[str, Source]
    devices: dict[str, DevicePreset]
    links: dict[str, LinkPreset]

    @model_validator(mode="after")
    def _check_sources(self) -> Self:
        named = {name for preset in (*self.devices.values(), *self.links.values()) for name in preset.sources()}
        for problem, names in (("unknown", named - set(self.sources)), ("unused", set(self.sources) - named)):
            if names:
                raise ValueError(f"{problem} sources: {', '.join(sorted(names))}")
        return self


class PresetNames(NamedTuple):
    """The names that :func:`device_preset` and :func:`link_preset` accept."""

    devices: tuple[str, ...]
    links: tuple[str, ...]


@cache
def load_presets() -> Presets:
    """The presets that come with sepnas."""
    return Presets.load(Path(__file__).with_name("presets.yaml"))


def preset_names() -> PresetNames:
    """The names of all presets."""
    presets = load_presets()
    return PresetNames(tuple(presets.devices), tuple(presets.links))


def device_preset(
    name: str, device_name: str, link: str | None = None, *, threads: int | None = None, rated: bool = True
) -> Device:
    """A device with the figures of a preset, on ``threads`` threads (None: on all of its cores).

    With ``link``, its energy per byte is that of this link's preset. Without ``rated``, it has two figures of one
    thread in eager PyTorch instead of rates: ``flops_per_s`` and ``layer_overhead_s``.
    Raises :class:`SpecError` for an unknown name, which lists the presets, and for more threads than cores.
    """
    preset = _find("device", load_presets().devices, name)
    energy_per_byte_j = _find_link(link).energy_per_byte_j.value if link is not None else 0.0
    used = threads or (preset.rates.all_threads if rated else 1)
    power = Power(idle_w=preset.idle_w.value, compute_w=preset.busy_w(used), energy_per_byte_j=energy_per_byte_j)
    speed = _rated(preset, name, used) if rated else _eager(preset, used)
    return Device(name=device_name, memory_bytes=preset.memory_bytes.value, power=power, **speed)


def _rated(preset: DevicePreset, name: str, threads: int) -> dict[str, Any]:
    """Rates, and the two figures that sum them up."""
    try:
        rates = rates_on(preset.rates.value, threads)
    except ValueError:
        raise SpecError(
            f"device preset '{name}' has {preset.rates.all_threads} cores; `threads` must be 1 to "
            f"{preset.rates.all_threads}, got {threads}"
        ) from None
    return {
        "flops_per_s": rates.dense_flops_per_s, "layer_overhead_s": rates.operator_s, "threads": threads,
        "rates": preset.rates.value,
    }  # fmt: skip


def _eager(preset: DevicePreset, threads: int) -> dict[str, Any]:
    if threads != 1:
        raise SpecError(f"the figures of eager PyTorch are for 1 thread, got `threads` {threads}")
    return {"flops_per_s": preset.flops_per_s.value, "layer_overhead_s": preset.layer_overhead_s.value}


def link_preset(name: str) -> Link:
    """A link between all devices with the figures of a preset; :class:`SpecError` lists the presets."""
    preset = _find_link(name)
    return Link(
        bandwidth_bytes_per_s=preset.bandwidth_bytes_per_s.value,
        latency_s=preset.latency_s.value,
        message_overhead_s=preset.message_overhead_s.value,
        medium=preset.medium,
        duplex=preset.duplex,
    )


def preset_cluster(
    devices: Sequence[str], link: str, name: str = "presets", *, threads: int | None = None, rated: bool = True
) -> Cluster:
    """A cluster of device presets, one for each rank, all linked alike. Rank 2 has a name such as ``jetson-nano-2``.

    ``threads`` and ``rated`` are those of :func:`device_preset`.
    """
    return Cluster(
        name=name,
        devices=tuple(
            device_preset(kind, f"{kind}-{rank}", link, threads=threads, rated=rated)
            for rank, kind in enumerate(devices)
        ),
        links=(link_preset(link),),
    )


def preset_sources(devices: Sequence[str], link: str) -> list[Source]:
    """The sources of these presets, each once."""
    presets = load_presets()
    kinds = [_find("device", presets.devices, name) for name in dict.fromkeys(devices)]
    names = [name for preset in (*kinds, _find_link(link)) for name in preset.sources()]
    return [presets.sources[name] for name in dict.fromkeys(names)]


def _find_link(name: str) -> LinkPreset:
    return _find("link", load_presets().links, name)


def _find(kind: str, presets: Mapping[str, PresetT], name: str) -> PresetT:
    if name not in presets:
        raise SpecError(f"unknown {kind} preset {name!r}; allowed: {', '.join(presets)}")
    return presets[name]
