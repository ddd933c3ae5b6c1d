"""Facts of the network of a deployment: its named inputs and outputs, whatever family of networks it belongs to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator
from typing_extensions import Self

from sepnas.plan.data import PortData, ShapeData, TensorName, WithoutDefaults
from sepnas.plan.document import MAX_PORTS
from sepnas.plan.serial import shape_from_data
from sepnas.plan.shapes import Shape
from sepnas.plan.wire import IMAGE_FORMATS
from sepnas.spec.document import Part
from sepnas.spec.figures import MAX_CLASSES, Channels, Fit, ImageSide, Text
from sepnas.spec.preparation import Preparation

ClassNames = Annotated[tuple[Text, ...], Field(min_length=2, max_length=MAX_CLASSES)]


class ImageInput(Part):
    """An image: ``height`` x ``width`` values, normalised as ``(value / 255 - mean) / std`` for each channel.

    Image files are read by :mod:`sepnas.spec.image_file`: 1 channel is gray, 3 are RGB. ``resize`` says how training
    scaled images of another size (bilinear); None if all images had this size. ``preparation`` is that of a network
    with a configuration of its own: every image is scaled and cut in this way, whatever its size.
    """

    channels: Channels
    height: ImageSide
    width: ImageSide
    mean: tuple[float, ...]
    std: tuple[Annotated[float, Field(gt=0)], ...]
    resize: Fit | None = None
    preparation: Preparation | None = None

    @model_validator(mode="after")
    def _one_a_channel(self) -> Self:
        for name in ("mean", "std"):
            found = len(getattr(self, name))
            if found != self.channels:
                raise ValueError(f"`{name}` must hold one number for each of {self.channels} channels, got {found}")
        if self.resize is not None and self.preparation is not None:
            raise ValueError("`resize` and `preparation` exclude each other")
        return self

    @model_serializer(mode="wrap")
    def _leave_out_none(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Omit ``resize`` and ``preparation`` where they are None."""
        data: dict[str, Any] = handler(self)
        for name in ("resize", "preparation"):
            if getattr(self, name) is None:
                data.pop(name, None)
        return data

    @property
    def dims(self) -> tuple[int, int, int]:
        """Channels, height and width."""
        return self.channels, self.height, self.width


class InputFacts(WithoutDefaults):
    """An input of the network: the shape of one sample; ``image`` if it is an image."""

    shape: ShapeData
    image: ImageInput | None = None

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.image is not None and (self.shape.axes, self.shape.dims) != ("CHW", self.image.dims):
            wanted = Shape.chw(*self.image.dims)
            raise ValueError(f"`image` is {wanted}, but `shape` is {shape_from_data(self.shape)}")
        return self


class OutputFacts(WithoutDefaults):
    """An output of the network: the shape of one sample; ``classes`` names its values if they are class scores."""

    shape: ShapeData
    classes: ClassNames | None = None

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.classes is not None and (self.shape.axes, self.shape.dims) != ("C", (len(self.classes),)):
            raise ValueError(
                f"`classes` names {len(self.classes)} values, but `shape` is {shape_from_data(self.shape)}"
            )
        return self


class NetworkFacts(Part):
    """The named inputs and outputs of a network; at most one output has classes."""

    inputs: Annotated[dict[TensorName, InputFacts], Field(min_length=1, max_length=MAX_PORTS)]
    outputs: Annotated[dict[TensorName, OutputFacts], Field(min_length=1, max_length=MAX_PORTS)]

    @model_validator(mode="after")
    def _one_with_classes(self) -> Self:
        if sum(facts.classes is not None for facts in self.outputs.values()) > 1:
            raise ValueError("`outputs` must hold at most one output with `classes`")
        return self

    @property
    def scores(self) -> str | None:
        """The name of the output that holds class scores."""
        return next((name for name, facts in self.outputs.items() if facts.classes is not None), None)

    @property
    def classes(self) -> tuple[str, ...] | None:
        """The class names, in the order of the logits; None if no output holds class scores."""
        return next((facts.classes for facts in self.outputs.values() if facts.classes is not None), None)

    @property
    def image(self) -> ImageInput | None:
        """The image that the network takes if that is all it takes."""
        [*facts] = self.inputs.values()
        return facts[0].image if len(facts) == 1 else None

    @property
    def inputs_text(self) -> str:
        """The inputs by name and shape, for a message."""
        return _listed(self.inputs)

    @property
    def outputs_text(self) -> str:
        """The outputs by name and shape, for a message."""
        return _listed(self.outputs)

    def problem_of(self, inputs: Iterable[PortData], outputs: Iterable[PortData]) -> str | None:
        """Why a plan's ports are not inputs and outputs of this network, in their shapes; None if they are."""
        known = {name: facts.shape for name, facts in self.inputs.items()}
        answered = {name: facts.shape for name, facts in self.outputs.items()}
        for ports, shapes, what in ((inputs, known, "input"), (outputs, answered, "output")):
            for port in ports:
                if port.name not in shapes:
                    return f"{what} '{port.name}' is none of the network's {what}s: {', '.join(shapes)}"
                if port.shape != shapes[port.name]:
                    found, wanted = map(shape_from_data, (port.shape, shapes[port.name]))
                    return f"{what} '{port.name}' is {found}; the network's is {wanted}"
        return _images_problem(inputs, self.inputs)


def _images_problem(ports: Iterable[PortData], facts: Mapping[str, InputFacts]) -> str | None:
    for port in ports:
        wires = {piece.wire for piece in port.pieces} & set(IMAGE_FORMATS)
        if wires and facts[port.name].image is None:
            return f"input '{port.name}' is sent in {wires.pop()}, but is no image"
    return None


def _listed(facts: Mapping[str, InputFacts] | Mapping[str, OutputFacts]) -> str:
    return ", ".join(f"'{name}' ({shape_from_data(each.shape)})" for name, each in facts.items())
