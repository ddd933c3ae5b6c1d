"""All facts and functions of one engine, in an object that is read without the engine, torch or onnx.

Functions that need any of these are named as ``module:name`` and imported when they are first asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any


@dataclass(frozen=True)
class EngineKind:
    """An engine: what runs segments on a device.

    Args:
        name: what options, manifests and profiles call it.
        order: its place in lists; a worker without ``--engine`` takes the first that can be used.
        package: the module that must be importable.
        extra: the extra of sepnas that installs it.
        runner: ``module:name`` of a class, called with a shard, a number of threads and this object; see
            :class:`sepnas.runtime.engines.torch_engine.Engine`. It checks each graph before it loads it.
        suffix: of the files that it reads; one exported graph file for each segment.
        export: ``module:name`` of what makes such a file from a ``sepnas.deploy.segments.ExportedSegment``.
        quantised_from: the engine from whose graphs ``export`` makes its own, with weights in fewer bits: it gets that
            graph, the weights and inputs of the segment. "" for an exact engine, which computes in fp32 with the
            weights of ``weights.safetensors`` and gives the answers of all other exact ones.
        reads: the engine whose files it reads, where it has none of its own.
        open_graph: ``module:name`` of what opens a graph that has been checked, for runners that several engines share.
        with_sizes: ``module:name`` of what puts other sizes into a graph that tells them; "" where graphs do not.
        distribution: the package's name at PyPI, where it is not ``package``.
        fuses: it fuses operators, so that an operator by itself takes longer than within a segment.
        light: installs in a few megabytes and starts in less than a second.
        makes_code: it compiles machine code while it runs.
        package_index: an index of packages beside PyPI that has a smaller build.
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
        """The distribution whose version is the engine's."""
        return self.distribution or self.package

    @property
    def graphs(self) -> str:
        """The engine under whose name a manifest lists the files that this one reads."""
        return self.reads or self.name


def late(place: str) -> Callable[..., Any]:
    """The function or class at ``module:name``."""
    module, _, name = place.partition(":")
    found: Callable[..., Any] = getattr(import_module(module), name)
    return found
