"""One device's part of a deployment, in memory: its plans, and the segments and weights that they share."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import TypeAlias

import numpy as np
import safetensors
import safetensors.numpy

from sepnas.deployment.manifest import SHARD_NAME, WEIGHTS_NAME, SegmentFiles, ShardManifest
from sepnas.deployment.plans import overlay_file
from sepnas.deployment.serial import program_of
from sepnas.deployment.verify import verify_device
from sepnas.errors import DeploymentError
from sepnas.plan.merges import merge_weights_dims
from sepnas.plan.plan import Message
from sepnas.plan.serial import message_from_data, shape_from_data
from sepnas.plan.shapes import Shape
from sepnas.plan.steps import Compute, Merge, Send, Step
from sepnas.runtime.tensors.codec import Array
from sepnas.spec.files import name_of, open_regular, why

Dims: TypeAlias = tuple[int, ...]
"""The shape of an array, one sample: ``(1, *shape.dims)``."""


@dataclass(frozen=True)
class LoadedPlan:
    """A device's part of one plan.

    ``messages`` are by tag; ``weights`` hold the segments' tensors, the merges' numbers, the messages' learned scales,
    and the means and deviations of images. ``keys`` name the segment of the shard for each that the steps name;
    ``layers`` are what it computes.
    """

    name: str
    program: tuple[Step, ...]
    messages: Mapping[int, Message]
    weights: Mapping[str, Array]
    shapes: Mapping[str, Shape]
    keys: Mapping[str, str]
    fallbacks: frozenset[int] = frozenset()
    layers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def message_numbers(self) -> list[str]:
        """The names of the learned scales, and of the means and deviations of images."""
        names = (name for message in self.messages.values() for name in (message.scale, message.normalisation))
        return [name for name in names if name]

    def scale(self, message: Message | Send) -> np.float32 | None:
        """The learned step between two levels of a message, if it has one."""
        return np.float32(self.weights[message.scale]) if message.scale else None

    def without_segments(self) -> LoadedPlan:
        kept = {step.parameter for step in self.program if isinstance(step, Merge)} | set(self.message_numbers)
        return replace(self, weights={name: array for name, array in self.weights.items() if name in kept})

    def incoming(self, rank: int, normalised: bool) -> dict[tuple[int, int], int]:
        """What device ``rank`` is sent: payload bytes of one sample, by source and tag.

        ``normalised``: images come as fp32 values.
        """
        messages = (message.sent_as(normalised) for message in self.messages.values())
        return {(m.source, m.tag): m.payload_bytes() for m in messages if m.destination == rank}


@dataclass(frozen=True)
class LoadedSegment:
    """A segment for an engine: its files, its tensors in the graph's order, and the shapes of its inputs and outputs.

    Plans that compute it with equal tensors share it.
    """

    files: SegmentFiles
    weights: tuple[Array, ...]
    taken: tuple[Dims, ...]
    made: tuple[Dims, ...]


@dataclass(frozen=True)
class Shard:
    """What a device runs: its plans by name, and all segments of these that an engine opens, by key."""

    folder: Path
    manifest: ShardManifest
    plans: Mapping[str, LoadedPlan]
    segments: Mapping[str, LoadedSegment] = field(default_factory=dict)

    @classmethod
    def of(cls, folder: Path, manifest: ShardManifest, plans: Iterable[LoadedPlan]) -> Shard:
        """The shard of these plans; raises :class:`DeploymentError` for a segment that is run on different shapes."""
        by_name = {plan.name: plan for plan in plans}
        segments: dict[str, LoadedSegment] = {}
        for plan in by_name.values():
            for step in plan.program:
                if isinstance(step, Compute):
                    _add_segment(segments, folder, manifest, plan, step)
        return cls(folder, manifest, by_name, segments)

    @property
    def rank(self) -> int:
        return self.manifest.rank

    @property
    def first(self) -> LoadedPlan:
        """The plan that was exported first."""
        return next(iter(self.plans.values()))

    def without_segments(self) -> Shard:
        """The same without the segments and their tensors: an engine that has been made holds them."""
        plans = {name: plan.without_segments() for name, plan in self.plans.items()}
        return replace(self, plans=plans, segments={})

    def expected_from(self, source: int) -> dict[int, frozenset[int]]:
        """What ``source`` sends here in any plan and form: payload bytes of one sample, by tag."""
        found: dict[int, frozenset[int]] = {}
        for plan, normalised in product(self.plans.values(), (False, True)):
            for (sender, tag), sample_bytes in plan.incoming(self.rank, normalised).items():
                if sender == source:
                    found[tag] = found.get(tag, frozenset()) | {sample_bytes}
        return found


def _add_segment(
    segments: dict[str, LoadedSegment], folder: Path, manifest: ShardManifest, plan: LoadedPlan, step: Compute
) -> None:
    key = plan.keys[step.segment]
    taken, made = (
        tuple((1, *plan.shapes[name].dims) for name in names) for names in (step.inputs, step.outputs)
    )  # fmt: skip
    if key not in segments:
        files = manifest.segments[manifest.plans[plan.name].segment(step.segment)]
        weights = tuple(plan.weights[name] for name in files.weights)
        segments[key] = LoadedSegment(files, weights, taken, made)
    elif (segments[key].taken, segments[key].made) != (taken, made):
        raise DeploymentError(f"{folder}: segment '{step.segment}' is run on tensors of different shapes")


def load_shard(folder: str | os.PathLike[str]) -> Shard:
    """Read one device's folder; raises :class:`DeploymentError` that names the file that is wrong."""
    folder = Path(folder)
    manifest = verify_device(folder)
    shared = _read_tensors(folder / WEIGHTS_NAME)
    plans = []
    for name in manifest.plans:
        file = overlay_file(name)
        own = _read_tensors(folder / file) if file in manifest.weight_files else {}
        plans.append(_loaded_plan(folder, manifest, name, shared, own))
    _check_all_used(folder, manifest, plans)
    return Shard.of(folder, manifest, plans)


def _loaded_plan(
    folder: Path, manifest: ShardManifest, name: str, shared: Mapping[str, Array], own: Mapping[str, Array]
) -> LoadedPlan:
    part, program = manifest.plans[name], program_of(manifest, name, str(folder))
    plan = LoadedPlan(
        name=name,
        program=program,
        messages={data.tag: message_from_data(data) for data in part.messages},
        weights={**shared, **own},
        shapes={tensor: shape_from_data(data) for tensor, data in part.shapes.items()},
        keys=_keys(manifest, name, program, own),
        fallbacks=frozenset(part.fallbacks),
        layers={
            step.segment: manifest.segments[part.segment(step.segment)].layers
            for step in program
            if isinstance(step, Compute)
        },
    )
    _check_weights(folder, manifest, plan, own)
    return plan


def _keys(manifest: ShardManifest, plan: str, program: Iterable[Step], own: Collection[str]) -> dict[str, str]:
    """The key of each segment: its name, with the plan's after it if it takes tensors of the plan's own."""
    keys = {}
    for step in program:
        if isinstance(step, Compute):
            entry = manifest.plans[plan].segment(step.segment)
            differs = any(name in own for name in manifest.segments[entry].weights)
            keys[step.segment] = f"{entry}@{plan}" if differs else entry
    return keys


def _read_tensors(path: Path) -> dict[str, Array]:
    try:
        with open_regular(path) as file:
            return safetensors.numpy.load_file(name_of(file, path))
    except PermissionError as error:
        raise DeploymentError(f"{path}: cannot be read: {why(error, path)}") from error
    # the last ones for a format of numbers that numpy has not
    except (safetensors.SafetensorError, OSError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise DeploymentError(f"{path}: not a safetensors file: {error}") from error


def _check_all_used(folder: Path, manifest: ShardManifest, plans: Iterable[LoadedPlan]) -> None:
    used = {
        manifest.plans[plan.name].segment(step.segment)
        for plan in plans
        for step in plan.program
        if isinstance(step, Compute)
    }
    unused = sorted(set(manifest.segments) - used)
    if unused:  # nothing would say what it may allocate
        raise DeploymentError(
            f"{folder / SHARD_NAME}: segment '{unused[0]}' is in no step; export the deployment again"
        )


def _check_weights(folder: Path, manifest: ShardManifest, plan: LoadedPlan, own: Collection[str]) -> None:
    weights = plan.weights
    merges = [step.parameter for step in plan.program if isinstance(step, Merge) and step.parameter]
    entries = {manifest.plans[plan.name].segment(s.segment) for s in plan.program if isinstance(s, Compute)}
    segments = [name for entry in sorted(entries) for name in manifest.segments[entry].weights]

    def where(name: str) -> Path:
        return folder / (overlay_file(plan.name) if name in own else WEIGHTS_NAME)

    for name in [*segments, *merges, *plan.message_numbers]:
        if name not in weights:
            raise DeploymentError(f"{where(name)}: has no tensor '{name}', which the program needs")
    for name in segments:
        if weights[name].dtype != np.float32:
            found = weights[name].dtype
            raise DeploymentError(f"{where(name)}: tensor '{name}' is {found}; segments compute in float32")
    for step in plan.program:
        if isinstance(step, Merge) and step.parameter:
            _check_merge(where(step.parameter), step, plan.shapes, weights[step.parameter])
    for message in plan.messages.values():
        for name in filter(None, (message.scale, message.normalisation)):
            _check_numbers(where(name), name, message, weights[name])


def _check_merge(where: Path, step: Merge, shapes: Mapping[str, Shape], found: Array) -> None:
    wanted = merge_weights_dims(step, shapes)
    if found.shape != wanted or found.dtype != np.float32 or not np.isfinite(found).all():
        raise DeploymentError(
            f"{where}: tensor '{step.parameter}' weighs what is merged into '{step.output}': finite float32 of "
            f"shape {wanted}, got {found.dtype} of shape {found.shape}"
        )


def _check_numbers(where: Path, name: str, message: Message, found: Array) -> None:
    if name == message.normalisation:
        _check_normalisation(where, message, found)
    else:
        _check_scale(where, name, found)


def _check_scale(where: Path, name: str, scale: Array) -> None:
    if scale.shape or scale.dtype != np.float32 or not 0 < scale < np.inf:
        raise DeploymentError(
            f"{where}: tensor '{name}' is the step of a message: one fp32 number above 0, got {scale.dtype} "
            f"{np.array2string(scale, threshold=4)}"
        )


def _check_normalisation(where: Path, message: Message, found: Array) -> None:
    wanted = (2, message.shape.size("C"))
    if found.shape != wanted or found.dtype != np.float32 or not np.isfinite(found).all() or not (found[1] > 0).all():
        raise DeploymentError(
            f"{where}: tensor '{message.normalisation}' holds the means and deviations of an image: finite float32 of "
            f"shape {wanted}, the deviations above 0, got {found.dtype} of shape {found.shape}"
        )
