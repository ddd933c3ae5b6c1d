"""The facts of a network in a manifest: inputs and outputs by name, images, classes."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from sepnas.deployment.network_facts import ImageInput, InputFacts, NetworkFacts, OutputFacts
from sepnas.plan.data import PieceData, PortData, ShapeData

IMAGE = ImageInput(channels=3, height=4, width=6, mean=(0.0,) * 3, std=(1.0,) * 3, resize="crop")
CHW, VECTOR = ShapeData(axes="CHW", dims=(3, 4, 6)), ShapeData(axes="C", dims=(2,))
SCORES = OutputFacts(shape=VECTOR, classes=("cat", "dog"))
FACTS = NetworkFacts(
    inputs={"photo": InputFacts(shape=CHW, image=IMAGE), "age": InputFacts(shape=ShapeData(axes="", dims=()))},
    outputs={"animal": SCORES, "where": OutputFacts(shape=CHW)},
)


def test_facts_round_trip_and_answer() -> None:
    """They come back from plain data, and say which output holds scores and whether an image is all that is taken."""
    assert NetworkFacts.model_validate(FACTS.model_dump(mode="json")) == FACTS
    assert (FACTS.scores, FACTS.classes, FACTS.image) == ("animal", ("cat", "dog"), None)
    alone = NetworkFacts(inputs={"photo": FACTS.inputs["photo"]}, outputs={"where": FACTS.outputs["where"]})
    assert (alone.scores, alone.classes, alone.image) == (None, None, IMAGE)
    assert FACTS.outputs_text == "'animal' (C 2), 'where' (CHW 3x4x6)"


WRONG: dict[str, Any] = {
    "`image` is CHW 3x4x6, but `shape` is HWC 3x4x6": lambda: InputFacts(
        shape=ShapeData(axes="HWC", dims=(3, 4, 6)), image=IMAGE
    ),
    "but `shape` is CHW 3x6x4": lambda: InputFacts(shape=ShapeData(axes="CHW", dims=(3, 6, 4)), image=IMAGE),
    "`mean` must hold one number for each of 3 channels": lambda: ImageInput(**{**IMAGE.model_dump(), "mean": (0.0,)}),
    "names 2 values, but `shape` is N 2": lambda: OutputFacts(
        shape=ShapeData(axes="N", dims=(2,)), classes=("cat", "dog")
    ),
    "at most one output with `classes`": lambda: NetworkFacts(inputs=FACTS.inputs, outputs={"a": SCORES, "b": SCORES}),
    "at least 1 item": lambda: NetworkFacts(inputs={}, outputs=FACTS.outputs),
    "less than or equal to 8192": lambda: ImageInput(**{**IMAGE.model_dump(), "width": 8193}),
}


@pytest.mark.parametrize("says", WRONG)
def test_facts_that_contradict_themselves_are_refused(says: str) -> None:
    """Images and classes must have the shape of their tensor, and only one output has classes."""
    with pytest.raises(ValidationError, match=says):
        WRONG[says]()


def test_ports_of_a_plan_must_be_those_of_the_network() -> None:
    """A port of another name or shape is named with what the network has; a plan may leave ports out."""

    def port(name: str, shape: ShapeData) -> PortData:
        region = tuple((0, size) for size in shape.dims)
        return PortData(name=name, shape=shape, pieces=(PieceData(region=region, device=0, tag=0),))

    assert FACTS.problem_of([port("photo", CHW)], [port("animal", VECTOR)]) is None
    found = FACTS.problem_of([port("picture", CHW)], [])
    assert found == "input 'picture' is none of the network's inputs: photo, age"
    found = FACTS.problem_of([], [port("animal", ShapeData(axes="C", dims=(3,)))])
    assert found == "output 'animal' is C 3; the network's is C 2"
