"""Reads an architecture from a name or a file, optionally with another policy or wire format."""

from __future__ import annotations

import operator
import os
from pathlib import Path

from sepnas.errors import SpecError
from sepnas.plan.document import PlanDocument, load_plan
from sepnas.plan.plan import Plan
from sepnas.plan.wire import LEVELS, UNCONVERTED, WIRE_FORMATS, Scale
from sepnas.separable.architecture import Architecture, named_architecture, named_policy
from sepnas.separable.build import build_plan
from sepnas.separable.policy import TransmissionPolicy
from sepnas.spec.document import FILE_SUFFIXES, read_data
from sepnas.spec.recognise import format_of, recognise
from sepnas.units import format_names


def read_policy(text: str, network: Architecture) -> TransmissionPolicy:
    """A named policy for this network, or the content of a policy file; :class:`SpecError` if it does not fit."""
    if Path(text).suffix not in FILE_SUFFIXES:
        return named_policy(text, network.num_devices, network.depth, network.backbone)
    policy = TransmissionPolicy.load(text)
    policy.check(network.num_devices, network.blocks_per_stage, text)
    return policy


def read_architecture(
    given: Architecture | str | os.PathLike[str],
    devices: int | None = None,
    policy: str | None = None,
    classes: int | None = None,
    image_size: int | None = None,
    wire: str | None = None,
    learned_scales: bool | None = None,
) -> Architecture:
    """The architecture given by name, by file or as it is, with another policy or wire format if given.

    ``devices``, ``classes`` and ``image_size`` (pixels a side) apply to names; raises :class:`SpecError` if they
    contradict a file.
    """
    if isinstance(given, Architecture):
        found, name = given, given.name
    else:
        name = os.fspath(given)
        if (found_in := _read_file(name)) is None:
            plain = named_architecture(name, _or(devices, 1), "none", _or(classes, 100), image_size=_or(image_size, 32))
            policy = "all-to-all" if policy is None else policy
            return with_messages(plain.with_policy(read_policy(policy, plain)), wire, learned_scales)
        found = found_in
    _refuse_contradictions(name, found, devices, classes, image_size)
    if policy is not None:
        found = found.with_policy(read_policy(policy, found))
    return with_messages(found, wire, learned_scales)


def _or(given: int | None, default: int) -> int:
    return default if given is None else operator.index(given)  # numpy's integers too


def is_plan_file(given: object) -> bool:
    """Whether the argument is a plan file instead of an architecture; False for a file that cannot be read."""
    if not isinstance(given, str | os.PathLike) or Path(given).suffix not in FILE_SUFFIXES:
        return False
    declared = format_of(Path(given))
    return declared == "plan" if declared else _holds_plan(given)


def _holds_plan(path: str | os.PathLike[str]) -> bool:
    """Whether the content is a plan's, for a file whose head does not declare a format."""
    try:
        data = read_data(path, PlanDocument.max_values)
    except SpecError:  # the reader of the file will report it
        return False
    if not isinstance(data, dict):
        return False
    own = PlanDocument.model_fields.keys() - Architecture.model_fields.keys()
    return data.get("format", "") == PlanDocument.format_name or ("format" not in data and bool(own & data.keys()))


def read_plan(
    given: Plan | Architecture | str | os.PathLike[str],
    devices: int | None = None,
    policy: str | None = None,
    classes: int | None = None,
    image_size: int | None = None,
    wire: str | None = None,
    learned_scales: bool | None = None,
) -> Plan:
    """The plan in a plan file, or the plan of an architecture read by :func:`read_architecture`.

    Raises :class:`SpecError` for an invalid field or an option that would change a plan, :class:`PlanError` for a
    step that cannot be carried out.
    """
    if isinstance(given, Architecture) or not (isinstance(given, Plan) or is_plan_file(given)):
        found = read_architecture(given, devices, policy, classes, image_size, wire, learned_scales)
        return build_plan(found)
    options = {
        "--devices": devices, "--policy": policy, "--classes": classes, "--image-size": image_size, "--wire": wire,
        "--learned-scales": learned_scales,
    }  # fmt: skip
    name = "a plan" if isinstance(given, Plan) else f"{os.fspath(given)} is a plan, which"
    for option, value in options.items():
        if value is not None:
            raise SpecError(f"{name} says all that {option} would; leave {option} out")
    return given if isinstance(given, Plan) else load_plan(given)


def _read_file(name: str) -> Architecture | None:
    """The architecture in a file; None if the name is not that of a file."""
    known = recognise(Path(name))
    if known and known[0] != "file":
        inside = f"; name {Path(name) / 'architecture.json'}" if known[0] == "run" else ""
        raise SpecError(f"architecture: {name} is {known[1]}, not an architecture's file or name{inside}")
    if is_plan_file(name):
        raise SpecError(f"{name} is a plan; name the architecture that it was made from")
    return Architecture.load(name) if Path(name).suffix in FILE_SUFFIXES else None


def with_messages(architecture: Architecture, wire: str | None, learned_scales: bool | None) -> Architecture:
    """The architecture with all messages in another format, or with other scales if they are quantised."""
    if wire is not None and wire not in WIRE_FORMATS:
        raise SpecError(f"--wire {wire!r}: allowed are {', '.join(WIRE_FORMATS)}")
    if wire is None and learned_scales is None:
        return architecture
    scale: Scale | None = None if learned_scales is None else "learned" if learned_scales else "sample"
    policy = architecture.policy.written_in(wire, scale)
    if scale == "learned" and not policy.learned_scales():
        why = f"no message is quantised; add {format_names(f'--wire {wire}' for wire in LEVELS)}"
        if not any(point.transfers for point in policy.points):
            why = f"the policy of {architecture.name!r} sends nothing but logits, which stay in {UNCONVERTED}"
        raise SpecError(f"--learned-scales: {why}")
    return architecture.with_policy(policy)


def _refuse_contradictions(
    name: str, architecture: Architecture, devices: int | None, classes: int | None, image_size: int | None
) -> None:
    for option, wanted, found in (
        ("--devices", devices, architecture.num_devices),
        ("--classes", classes, architecture.num_classes),
        ("--image-size", image_size, architecture.image_size),
    ):
        if wanted not in (None, found):
            raise SpecError(f"{name}: the file says {found}, {option} says {wanted}; leave {option} out")
