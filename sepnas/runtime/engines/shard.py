"""One device's share of a deployment, loaded and checked."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy

from sepnas.deployment.manifest import SHARD_NAME, WEIGHTS_NAME, ShardManifest
from sepnas.deployment.serial import program_of
from sepnas.deployment.verify import verify_device
from sepnas.errors import DeploymentError
from sepnas.plan.plan import Message
from sepnas.plan.serial import message_from_data, shape_from_data
from sepnas.plan.shapes import Shape
from sepnas.plan.steps import Compute, Merge, Send, Step
from sepnas.runtime.tensors.codec import Array
from sepnas.spec.files import name_of, open_regular, why


@dataclass(frozen=True)
class Shard:
    """What a device runs. ``messages`` are by tag; ``weights`` hold the segments' tensors, the merges' numbers and the
    messages' learned scales."""

    folder: Path
    manifest: ShardManifest
    program: tuple[Step, ...]
    messages: Mapping[int, Message]
    weights: Mapping[str, Array]
    shapes: Mapping[str, Shape]

    @property
    def rank(self) -> int:
        return self.manifest.rank

    def without_segments(self) -> Shard:
        """The same without the segments' tensors: an engine that has been made holds them."""
        kept = {step.parameter for step in self.program if isinstance(step, Merge)} | set(self.scale_names)
        return replace(self, weights={name: array for name, array in self.weights.items() if name in kept})

    @property
    def scale_names(self) -> list[str]:
        return [message.scale for message in self.messages.values() if message.scale]

    def scale(self, message: Message | Send) -> np.float32 | None:
        """The learned step between two levels of a message, if it has one."""
        return np.float32(self.weights[message.scale]) if message.scale else None

    def expected_from(self, source: int) -> dict[int, int]:
        """What ``source`` sends here by the plan: payload bytes of one sample, by tag."""
        incoming = (m for m in self.messages.values() if (m.source, m.destination) == (source, self.rank))
        return {message.tag: message.payload_bytes() for message in incoming}


def load_shard(folder: str | os.PathLike[str]) -> Shard:
    """Read one device's folder; raises :class:`DeploymentError` that names the file that is wrong."""
    folder = Path(folder)
    manifest = verify_device(folder)
    try:
        with open_regular(folder / WEIGHTS_NAME) as file:
            weights = safetensors.numpy.load_file(name_of(file, folder / WEIGHTS_NAME))
    except PermissionError as error:
        where = folder / WEIGHTS_NAME
        raise DeploymentError(f"{where}: cannot be read: {why(error, where)}") from error
    # the last ones for a format of numbers that numpy has not
    except (safetensors.SafetensorError, OSError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise DeploymentError(f"{folder / WEIGHTS_NAME}: not a safetensors file: {error}") from error
    program = program_of(manifest, str(folder))
    messages = {data.tag: message_from_data(data) for data in manifest.messages}
    unused = sorted(set(manifest.segments) - {step.segment for step in program if isinstance(step, Compute)})
    if unused:  # nothing would say what it may allocate
        raise DeploymentError(
            f"{folder / SHARD_NAME}: segment '{unused[0]}' is in no step; export the deployment again"
        )
    shapes = {name: shape_from_data(data) for name, data in manifest.shapes.items()}
    shard = Shard(folder, manifest, program, messages, weights, shapes)
    _check_weights(shard)
    return shard


def _check_weights(shard: Shard) -> None:
    where, weights = shard.folder / WEIGHTS_NAME, shard.weights
    merges = [step.parameter for step in shard.program if isinstance(step, Merge) and step.parameter]
    segments = [name for segment in shard.manifest.segments.values() for name in segment.weights]
    for name in [*segments, *merges, *shard.scale_names]:
        if name not in weights:
            raise DeploymentError(f"{where}: has no tensor '{name}', which the program needs")
    for name in segments:
        if weights[name].dtype != np.float32:
            raise DeploymentError(f"{where}: tensor '{name}' is {weights[name].dtype}; segments compute in float32")
    for step in shard.program:
        if isinstance(step, Merge) and step.parameter:
            found, wanted = weights[step.parameter], (len(step.inputs) - 1,)
            if found.shape != wanted or found.dtype != np.float32 or not np.isfinite(found).all():
                raise DeploymentError(
                    f"{where}: tensor '{step.parameter}' weighs what is merged into '{step.output}': finite float32 of "
                    f"shape {wanted}, got {found.dtype} of shape {found.shape}"
                )
    for name in shard.scale_names:
        scale = weights[name]
        if scale.shape or scale.dtype != np.float32 or not 0 < scale < np.inf:
            raise DeploymentError(
                f"{where}: tensor '{name}' is the step of a message: one fp32 number above 0, got {scale.dtype} "
                f"{np.array2string(scale, threshold=4)}"
            )
