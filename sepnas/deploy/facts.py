"""The facts of a trained classifier of images that a manifest states."""

from __future__ import annotations

from collections.abc import Sequence

from sepnas.deployment.network_facts import ImageInput, InputFacts, NetworkFacts, OutputFacts
from sepnas.plan.plan import Plan
from sepnas.plan.serial import shape_to_data
from sepnas.separable.architecture import Architecture
from sepnas.separable.build import build_plan


def facts_of(
    plans: Sequence[Plan], architecture: Architecture, classes: tuple[str, ...], image: ImageInput
) -> NetworkFacts:
    """The inputs and outputs of the plans that cut the network of an architecture.

    Its class scores are the output of the name that the architecture's own plan gives them; other outputs name no
    classes.
    """
    [scores] = build_plan(architecture).outputs
    inputs = {port.name: port.shape for plan in plans for port in plan.inputs}
    outputs = {port.name: port.shape for plan in plans for port in plan.outputs}
    return NetworkFacts(
        inputs={name: InputFacts(shape=shape_to_data(shape), image=image) for name, shape in inputs.items()},
        outputs={
            name: OutputFacts(shape=shape_to_data(shape), classes=classes if name == scores.name else None)
            for name, shape in outputs.items()
        },
    )
