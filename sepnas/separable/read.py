"""Reads an architecture from a name or a file, optionally with another policy or wire format."""

from __future__ import annotations

import operator
import os
from dataclasses import dataclass
from pathlib import Path

from sepnas.errors import SpecError
from sepnas.options import option
from sepnas.plan.document import PlanDocument, load_plan
from sepnas.plan.merge_rules import MERGE_RULES, MERGERS
from sepnas.plan.plan import Plan
from sepnas.plan.wire import LEVELS, UNCONVERTED, WIRE_FORMATS, Scale
from sepnas.separable.architecture import Architecture, named_architecture, named_policy
from sepnas.separable.build import build_plan
from sepnas.separable.policy import TransmissionPolicy
from sepnas.spec.document import FILE_SUFFIXES, read_data
from sepnas.spec.recognise import format_of, late_format_of, recognise
from sepnas.units import format_names


def read_policy(text: str, network: Architecture) -> TransmissionPolicy:
    """A named policy for this network, or the content of a policy file; :class:`SpecError` if it does not fit."""
    if Path(text).suffix not in FILE_SUFFIXES:
        return named_policy(text, network.num_devices, network.depth, network.backbone)
    policy = TransmissionPolicy.load(text)
    policy.check(network.num_devices, network.blocks_per_stage, text)
    return policy


def read_plan_or_policy(
    given: Plan | TransmissionPolicy | str | os.PathLike[str], network: Architecture
) -> Plan | TransmissionPolicy:
    """A plan file's plan, an architecture file's policy, a policy file's, or a named one with the network's read-out.

    Raises :class:`SpecError` for a wrong file, an unknown name and a policy that does not fit ``network``, and
    :class:`PlanError` for a step that cannot be carried out.
    """
    if isinstance(given, Plan):
        return given
    if isinstance(given, TransmissionPolicy):
        given.check(network.num_devices, network.blocks_per_stage)
        return given
    text = os.fspath(given)
    if is_plan_file(text):
        return load_plan(text)
    if Path(text).suffix in FILE_SUFFIXES and format_of(Path(text)) == "architecture":
        other = Architecture.load(text)
        same = other.with_policy(network.policy).to_data() | {"name": ""} == network.to_data() | {"name": ""}
        return other.policy if same else build_plan(other)
    policy = read_policy(text, network)
    named = Path(text).suffix not in FILE_SUFFIXES
    return policy.model_copy(update={"readout": network.policy.readout}) if named else policy


@dataclass(frozen=True, kw_only=True)
class ArchitectureOptions:
    """What to build from a name, and what to replace in an architecture; None leaves it as it is.

    ``devices``, ``classes``, ``image_size`` (pixels a side) and ``stem`` (by default the family's for the image size)
    apply to names, and must not contradict a file. ``wire``, ``learned_scales`` and ``merge`` replace the format of all
    messages, the scales of quantised ones, and the rule by which they are merged.
    """

    devices: int | None = None
    policy: str | None = None
    classes: int | None = None
    image_size: int | None = None
    stem: str | None = None
    wire: str | None = None
    learned_scales: bool | None = None
    merge: str | None = None

    def given(self) -> list[str]:
        """The options that have a value, by the names that the caller knows."""
        values = {
            ("--devices", "devices="): self.devices,
            ("--policy", "policy="): self.policy,
            ("--classes", "classes="): self.classes,
            ("--image-size", "image_size="): self.image_size,
            ("--stem", "stem="): self.stem,
            ("--wire", "wire="): self.wire,
            ("--learned-scales", "learned_scales="): self.learned_scales,
            ("--merge", "merge="): self.merge,
        }
        return [option(*names) for names, value in values.items() if value is not None]


AS_IT_IS = ArchitectureOptions()


def read_architecture(
    given: Architecture | str | os.PathLike[str], options: ArchitectureOptions = AS_IT_IS
) -> Architecture:
    """The architecture given by name, by file or as an object, with the options applied.

    Raises :class:`SpecError` for an unknown name, a wrong file, or options that contradict it.
    """
    if isinstance(given, Architecture):
        found, name = given, given.name
    else:
        name = os.fspath(given)
        if (found_in := _read_file(name)) is None:
            return _named(name, options)
        found = found_in
    _refuse_contradictions(name, found, options)
    if options.policy is not None:
        found = found.with_policy(read_policy(options.policy, found))
    return _with_options(found, options)


def _named(name: str, options: ArchitectureOptions) -> Architecture:
    devices, classes, side = _or(options.devices, 1), _or(options.classes, 100), _or(options.image_size, 32)
    plain = named_architecture(name, devices, "none", classes, image_size=side, stem=options.stem)
    policy = "all-to-all" if options.policy is None else options.policy
    return _with_options(plain.with_policy(read_policy(policy, plain)), options)


def _with_options(architecture: Architecture, options: ArchitectureOptions) -> Architecture:
    """The architecture with the messages and merges that the options name."""
    found = with_messages(architecture, options.wire, options.learned_scales)
    if options.merge is None:
        return found
    if options.merge not in MERGERS:
        raise SpecError(f"{option('--merge', 'merge=')} {options.merge!r}: allowed are {', '.join(MERGE_RULES)}")
    return found.with_policy(found.policy.merged_by(options.merge))


def _or(given: int | None, default: int) -> int:
    return default if given is None else operator.index(given)  # numpy's integers too


def is_plan_file(given: object) -> bool:
    """Whether the argument is a plan file instead of an architecture; False for a file that cannot be read."""
    if not isinstance(given, str | os.PathLike) or Path(given).suffix not in FILE_SUFFIXES:
        return False
    declared = format_of(Path(given)) or late_format_of(Path(given))
    return declared == "plan" if declared else _holds_plan(given)


def _holds_plan(path: str | os.PathLike[str]) -> bool:
    """Whether the content is a plan's, for a file in which no format is found."""
    try:
        data = read_data(path, PlanDocument.max_values)
    except SpecError:  # the reader of the file will report it
        return False
    if not isinstance(data, dict):
        return False
    own = PlanDocument.model_fields.keys() - Architecture.model_fields.keys()
    return data.get("format", "") == PlanDocument.format_name or ("format" not in data and bool(own & data.keys()))


def read_plan(given: Plan | Architecture | str | os.PathLike[str], options: ArchitectureOptions = AS_IT_IS) -> Plan:
    """The plan in a plan file, or the plan of an architecture read by :func:`read_architecture`.

    Raises :class:`SpecError` for an invalid field or an option that would change a plan, :class:`PlanError` for a
    step that cannot be carried out.
    """
    if isinstance(given, Architecture) or not (isinstance(given, Plan) or is_plan_file(given)):
        return build_plan(read_architecture(given, options))
    name = "a plan" if isinstance(given, Plan) else f"{os.fspath(given)} is a plan, which"
    for each in options.given():
        raise SpecError(f"{name} already determines what {each} would set; leave {each} out")
    return given if isinstance(given, Plan) else load_plan(given)


def _read_file(name: str) -> Architecture | None:
    """The architecture in a file; None if the name is not that of a file."""
    known = recognise(Path(name))
    if known and known[0] != "file":
        inside = f"; name {Path(name) / 'architecture.json'}" if known[0] == "run" else ""
        raise SpecError(f"architecture: {name} is {known[1]}, not an architecture's file or name{inside}")
    if is_plan_file(name):
        raise SpecError(f"{name} is a plan; name the architecture that it was made from")
    if Path(name).suffix in FILE_SUFFIXES:
        return Architecture.load(name)
    if os.sep in name:  # as in no name
        raise SpecError(
            f"{name}: no such file or folder; expected a file of sepnas, or a network's name such as resnext56_4x16d"
        )
    return None


def with_messages(architecture: Architecture, wire: str | None, learned_scales: bool | None) -> Architecture:
    """The architecture with all messages in another format, or with other scales if they are quantised."""
    if wire is not None and wire not in WIRE_FORMATS:
        raise SpecError(f"{option('--wire', 'wire=')} {wire!r}: allowed are {', '.join(WIRE_FORMATS)}")
    if wire is None and learned_scales is None:
        return architecture
    scale: Scale | None = None if learned_scales is None else "learned" if learned_scales else "sample"
    policy = architecture.policy.written_in(wire, scale)
    if scale == "learned" and not policy.learned_scales():
        formats = format_names(option(f"--wire {wire}", f"wire={wire!r}") for wire in LEVELS)
        why = f"no message is quantised; add {formats}"
        if not any(point.transfers for point in policy.points):
            why = f"the policy of {architecture.name!r} sends nothing but logits, which stay in {UNCONVERTED}"
        raise SpecError(f"{option('--learned-scales', 'learned_scales=True')}: {why}")
    return architecture.with_policy(policy)


def _refuse_contradictions(name: str, architecture: Architecture, options: ArchitectureOptions) -> None:
    for names, wanted, found in (
        (("--devices", "devices="), options.devices, architecture.num_devices),
        (("--classes", "classes="), options.classes, architecture.num_classes),
        (("--image-size", "image_size="), options.image_size, architecture.image_size),
        (("--stem", "stem="), options.stem, architecture.stem),
    ):
        if wanted not in (None, found):
            each = option(*names)
            raise SpecError(f"{name}: the file has {found}, but {each} is {wanted}; leave {each} out")
