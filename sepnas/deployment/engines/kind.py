"""All facts and functions of one engine, in one object that needs neither the engine nor torch nor onnx.

Functions that need any of these are named as ``module:name`` and imported on first use.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any


@dataclass(frozen=True)
class EngineKind:
    """An engine: it runs the segments of a device.

    Args:
        name: its name in options, manifests and profiles.
        order: its place in lists; a worker without ``--engine`` takes the first engine that is installed.
        package: the module that must be importable.
        extra: the extra of sepnas that installs the package.
        runner: ``module:name`` of a class, called with a shard, a number of threads and this object; see
            :class:`sepnas.runtime.engines.torch_engine.Engine`. It checks each graph before it loads it.
        suffix: suffix of its graph files, one for each segment.
        export: ``module:name`` of the function that makes such a file from a
            :class:`sepnas.deploy.segments.ExportedSegment`.
        quantised_from: the exact engine whose graphs ``export`` quantises; ``export`` then takes such a graph, the
            weights and calibration inputs of the segment. It is "" for an exact engine, which computes in fp32 with
            the weights of ``weights.safetensors`` and gives the same answers as all other exact engines.
        reads: the engine whose graph files it reads, if it has none of its own.
        open_graph: ``module:name`` of the function that opens a checked graph, for a runner shared by several engines.
        with_sizes: ``module:name`` of the function that changes the sizes in a graph; "" if graphs have no sizes.
        distribution: the package's name on PyPI, if it is not ``package``.
        fuses: operators are fused, so a single operator takes longer alone than within a segment.
        light: takes tens of megabytes installed and starts in less than a second on an idle machine.
        makes_code: compiles machine code at run time.
        package_index: an additional package index with a smaller build than PyPI's.
    """

    name: str
    order: int
    package: str
    extra: str
    runner: str
    suffix: str = ""
    export: str = ""
    quantised_from: str = ""
    reads: str = ""
    open_graph: str = ""
    with_sizes: str = ""
    distribution: str = ""
    fuses: bool = False
    light: bool = True
    makes_code: bool = False
    package_index: str = ""

    @property
    def exact(self) -> bool:
        return not self.quantised_from

    @property
    def version_of(self) -> str:
        """The distribution that gives the engine's version."""
        return self.distribution or self.package

    @property
    def graphs(self) -> str:
        """The engine name under which a manifest lists the graph files that this engine reads."""
        return self.reads or self.name


def late(place: str) -> Callable[..., Any]:
    """Import the function or class ``module:name``."""
    module, _, name = place.partition(":")
    found: Callable[..., Any] = getattr(import_module(module), name)
    return found
