"""One device's share of a deployment, loaded and checked."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import safetensors
import safetensors.numpy

from sepnas.deploy.verify import verify_device
from sepnas.errors import DeploymentError
from sepnas.plan.serial import message_from_data, program_of
from sepnas.plan.steps import Merge, Message, Step
from sepnas.runtime.codec import Array
from sepnas.spec.manifest import WEIGHTS_NAME, ShardManifest


@dataclass(frozen=True)
class Shard:
    """What a device runs. ``messages`` are by tag; ``weights`` hold the segments' tensors and the merges' numbers."""

    folder: Path
    manifest: ShardManifest
    program: tuple[Step, ...]
    messages: Mapping[int, Message]
    weights: Mapping[str, Array]

    @property
    def rank(self) -> int:
        return self.manifest.rank

    def without_segments(self) -> Shard:
        """The same with the merges' weights alone: an engine that has been made holds those of the segments."""
        merges = {step.parameter for step in self.program if isinstance(step, Merge)}
        return replace(self, weights={name: array for name, array in self.weights.items() if name in merges})

    def expected_from(self, source: int) -> dict[int, int]:
        """What ``source`` sends here by the plan: payload bytes of one sample, by tag."""
        incoming = (m for m in self.messages.values() if (m.source, m.destination) == (source, self.rank))
        return {message.tag: message.payload_bytes() for message in incoming}


def load_shard(folder: str | os.PathLike[str]) -> Shard:
    """Read one device's folder; raises :class:`DeploymentError` that names the file that is wrong."""
    folder = Path(folder)
    manifest = verify_device(folder)
    try:
        weights = safetensors.numpy.load_file(folder / WEIGHTS_NAME)
    # the last ones for a format of numbers that numpy has not
    except (safetensors.SafetensorError, OSError, KeyError, TypeError, AttributeError) as error:
        raise DeploymentError(f"{folder / WEIGHTS_NAME}: not a safetensors file: {error}") from error
    program = program_of(manifest, str(folder))
    _check_weights(folder, manifest, program, weights)
    messages = {data.tag: message_from_data(data) for data in manifest.messages}
    return Shard(folder, manifest, program, messages, weights)


def _check_weights(
    folder: Path, manifest: ShardManifest, program: tuple[Step, ...], weights: Mapping[str, Array]
) -> None:
    merges = [step.parameter for step in program if isinstance(step, Merge) and step.parameter]
    for name in [*(name for segment in manifest.segments.values() for name in segment.weights), *merges]:
        if name not in weights:
            raise DeploymentError(f"{folder / WEIGHTS_NAME}: has no tensor '{name}', which the program needs")
