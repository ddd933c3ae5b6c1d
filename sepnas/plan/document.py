"""The plan as a file, ``sepnas.plan``: complete for devices, pricing and export, and free of network families."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import Field, ValidationError

from sepnas.errors import SpecError
from sepnas.plan.data import PortData, SegmentData, SegmentName, ShapeData, StepData, TensorName
from sepnas.plan.plan import Plan
from sepnas.plan.serial import (
    port_from_data,
    port_to_data,
    program_to_data,
    segment_from_data,
    segment_to_data,
    shape_from_data,
    shape_to_data,
    step_from_data,
)
from sepnas.plan.validation import check_plan
from sepnas.spec.document import Document, Part, explain
from sepnas.spec.figures import MAX_DEVICES

MAX_PORTS = 64


class DeviceProgram(Part):
    """One device's part: its steps in order, the shapes of its tensors, and its segments."""

    steps: tuple[StepData, ...]
    tensors: dict[TensorName, ShapeData]
    segments: dict[SegmentName, SegmentData]


class PlanDocument(Document):
    """A plan file. ``even``: all devices are known to do equal work (:class:`sepnas.plan.plan.Plan`)."""

    format_name: ClassVar[str] = "sepnas.plan"
    current_version: ClassVar[int] = 1

    inputs: Annotated[tuple[PortData, ...], Field(min_length=1, max_length=MAX_PORTS)]
    outputs: Annotated[tuple[PortData, ...], Field(min_length=1, max_length=MAX_PORTS)]
    devices: Annotated[tuple[DeviceProgram, ...], Field(min_length=1, max_length=MAX_DEVICES)]
    even: bool = False

    @classmethod
    def of(cls, plan: Plan) -> PlanDocument:
        """The document of a plan; :class:`SpecError` if the plan is beyond the bounds of a file."""
        try:
            return cls(
                inputs=tuple(map(port_to_data, plan.inputs)),
                outputs=tuple(map(port_to_data, plan.outputs)),
                devices=tuple(_device_of(plan, rank) for rank in range(plan.num_devices)),
                even=plan.even,
            )
        except ValidationError as error:
            raise SpecError(explain(cls, error, "plan", {})) from None

    def plan(self, where: str = "plan") -> Plan:
        """The plan itself; :class:`PlanError` names the device and the step that cannot be carried out."""
        plan = Plan(
            programs=tuple(tuple(map(step_from_data, device.steps)) for device in self.devices),
            segments=tuple(
                {name: segment_from_data(name, rank, data) for name, data in device.segments.items()}
                for rank, device in enumerate(self.devices)
            ),
            shapes=tuple(
                {name: shape_from_data(data) for name, data in device.tensors.items()} for device in self.devices
            ),
            inputs=tuple(map(port_from_data, self.inputs)),
            outputs=tuple(map(port_from_data, self.outputs)),
            even=self.even,
        )
        check_plan(plan, where)
        return plan


def _device_of(plan: Plan, rank: int) -> DeviceProgram:
    return DeviceProgram(
        steps=program_to_data(plan.programs[rank]),
        tensors={name: shape_to_data(shape) for name, shape in plan.shapes[rank].items()},
        segments={name: segment_to_data(segment) for name, segment in plan.segments[rank].items()},
    )


def load_plan(path: str | os.PathLike[str]) -> Plan:
    """Read a plan file.

    Raises :class:`SpecError` for an invalid field, :class:`PlanError` for a step that cannot be carried out.
    """
    return PlanDocument.load(path).plan(str(path))


def save_plan(plan: Plan, path: str | os.PathLike[str]) -> Path:
    """Write a plan file."""
    return PlanDocument.of(plan).save(path)
