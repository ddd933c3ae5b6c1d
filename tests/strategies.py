"""Hypothesis strategies: any architecture, policy and cluster of a size that is quick to try."""

from __future__ import annotations

from itertools import islice

from hypothesis import strategies as st

from sepnas.plan.merge_rules import MERGE_RULES
from sepnas.plan.wire import LEVELS, WIRE_FORMATS
from sepnas.separable.architecture import Architecture
from sepnas.separable.backbones.backbone import Backbone
from sepnas.separable.backbones.registry import BACKBONES, DEFAULT_BACKBONE, stages_of
from sepnas.separable.stems.registry import STEMS
from sepnas.spec.cluster import Cluster, Device, Link
from sepnas.spec.device_profile import ConversionCosts, ExchangeCosts
from sepnas.spec.figures import MAX_DEPTH

SMALL_STEMS = [(kind.name, stride) for kind in STEMS.values() for stride in kind.strides if stride <= 4]
"""Every stem with each of its strides that suits small images."""


@st.composite
def policies(draw: st.DrawFn, num_devices: int, depth: int, backbone: str = DEFAULT_BACKBONE) -> dict:
    """The data of any policy that fits: several points, fractions, all wires, scales, lags, merges and read-outs."""
    stages, scales = stages_of(backbone, depth), not BACKBONES[backbone].signed_outputs
    points = []
    for block in range(stages.num_blocks):
        pairs = [(s, d) for s in range(num_devices) for d in range(num_devices) if s != d]
        chosen = draw(st.lists(st.sampled_from(pairs), unique=True, max_size=4)) if pairs else []
        lags = st.just(0) if block in stages.ends else st.sampled_from([0, 1])
        transfers = [_transfer(draw, source, destination, draw(lags), scales) for source, destination in chosen]
        if transfers:
            points.append({"after": block, "transfers": transfers, "merge": draw(st.sampled_from(MERGE_RULES))})
    readout = {
        "kind": draw(st.sampled_from(["device", "mean"])),
        "device": draw(st.integers(0, num_devices - 1)),
    }
    return {"points": points, "readout": readout}


def _transfer(draw: st.DrawFn, source: int, destination: int, lag: int, scales: bool) -> dict:
    wire = draw(st.sampled_from(WIRE_FORMATS))
    data = {"source": source, "destination": destination, "wire": wire, "lag": lag}
    data["fraction"] = draw(st.sampled_from([0.125, 0.3, 0.5, 1.0]))
    return data | {"scale": draw(st.sampled_from(["sample", "learned"])) if scales and wire in LEVELS else "sample"}


@st.composite
def architectures(
    draw: st.DrawFn, min_devices: int = 2, max_devices: int = 5, backbone: str = DEFAULT_BACKBONE
) -> Architecture:
    """Any small architecture of a family: uneven widths, its two smallest depths, one or three channels."""
    num_devices = draw(st.integers(min_devices, max_devices))
    depth = draw(st.sampled_from(small_depths(backbone)))
    stem, stride = draw(st.sampled_from(SMALL_STEMS))
    least = stride * BACKBONES[backbone].min_side
    image_size = draw(st.integers(max(7, least), max(12, least + 1)))
    return Architecture.from_data(
        {
            "backbone": backbone,
            "depth": depth,
            "num_classes": draw(st.integers(2, 7)),
            "in_channels": draw(st.sampled_from([1, 3])),
            "image_size": -(-image_size // stride) * stride if STEMS[stem].whole_windows else image_size,
            "stem": stem,
            "stem_channels": draw(st.integers(2, 5)),
            "stem_stride": stride,
            "parts": [_part(draw, BACKBONES[backbone]) for _ in range(num_devices)],
            "policy": draw(policies(num_devices, depth, backbone)),
        }
    )


def small_depths(backbone: str, count: int = 2) -> list[int]:
    """The smallest depths of a family, all with as many stages as the first."""
    found = {depth: len(stages) for depth in range(1, MAX_DEPTH) if (stages := BACKBONES[backbone].stages(depth))}
    first, *_ = found.values()
    return list(islice((depth for depth, stages in found.items() if stages == first), count))


def _part(draw: st.DrawFn, kind: Backbone) -> dict:
    part = {"cardinality": draw(st.integers(1, 2)), "bottleneck_width": draw(st.integers(1, 3))}
    outputs = kind.output_channels(0, *part.values()) if kind.tied_outputs else draw(st.integers(2, 6))
    return part | {"output_channels": outputs}


@st.composite
def clusters(draw: st.DrawFn, num_devices: int) -> Cluster:
    """Any cluster of this many devices, each link medium among them."""
    devices = tuple(
        Device(
            name=f"d{rank}",
            flops_per_s=draw(st.floats(1e6, 1e11)),
            memory_bytes=1 << 30,
            layer_overhead_s=draw(st.floats(0, 1e-3)),
            exchange=draw(st.none() | exchange_costs()),
        )
        for rank in range(num_devices)
    )
    return Cluster(devices=devices, links=(draw(links()),), client_link=draw(st.none() | links()))


def exchange_costs() -> st.SearchStrategy[ExchangeCosts]:
    """From nothing to a slow board, with and without a core for the threads."""
    values = st.floats(0, 1e-7)
    return st.builds(
        ExchangeCosts,
        message_s=st.floats(0, 1e-3),
        byte_s=st.floats(0, 1e-8),
        convert_s=st.floats(0, 1e-4),
        convert_s_per_value=st.builds(ConversionCosts, fp16=values, int8=values, int4=values),
        merge_s=st.floats(0, 1e-4),
        merge_s_per_value=values,
        resume_s=st.floats(0, 1e-3),
        own_core=st.booleans(),
    )


def links() -> st.SearchStrategy[Link]:
    return st.builds(
        Link,
        bandwidth_bytes_per_s=st.floats(1e3, 1e9),
        latency_s=st.floats(0, 0.1),
        message_overhead_s=st.floats(0, 1e-3),
        medium=st.sampled_from(["own", "switch", "shared"]),
        duplex=st.sampled_from(["full", "half"]),
    )
