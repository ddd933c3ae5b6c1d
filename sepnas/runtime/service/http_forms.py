"""The forms of a service's HTTP requests and answers, as /openapi.json describes them."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from sepnas.deployment.manifest import OnMissing
from sepnas.runtime.service.tensor_bodies import JSON, NPY, NPZ
from sepnas.spec.image_file import Resize
from sepnas.spec.preparation import Preparation


class LikelyClass(BaseModel):
    """A class and its probability."""

    model_config = ConfigDict(serialize_by_alias=True)
    class_: str = Field(alias="class")
    probability: float = Field(ge=0, le=1)


class MissingMessage(BaseModel):
    """A message between devices that is missing in the answer."""

    device: int = Field(description="The device that went on without it.")
    source: int = Field(description="The device that should have sent it.")
    tag: int


class Classification(BaseModel):
    """The likeliest classes, and what is missing in them: only a service that degrades gives incomplete answers."""

    classes: list[LikelyClass] = Field(description="Likeliest first.")
    plan: str = Field(description="The plan under which the devices computed.")
    complete: bool = Field(description="Whether this is the whole network's answer.")
    without: list[int] = Field(description="Devices that took no part, or whose logits did not come.")
    missing: list[MissingMessage]


class ServedPlan(BaseModel):
    """A plan that requests may name."""

    name: str
    payload_bytes: int = Field(description="Bytes that devices send each other for one sample.")


class OutputValues(BaseModel):
    """An output of one sample."""

    shape: list[int]
    values: list[float] = Field(description="In the order of the shape: the last axis changes fastest.")


class Inference(BaseModel):
    """The outputs of one sample by name, and what is missing in them."""

    outputs: dict[str, OutputValues]
    plan: str = Field(description="The plan under which the devices computed them.")
    complete: bool = Field(description="Whether this is the whole network's answer.")
    without: list[int] = Field(description="Devices that took no part, or whose part of an output did not come.")
    missing: list[MissingMessage]


class TensorForm(BaseModel):
    """An input or output of the network, without the samples' axis."""

    name: str
    axes: str = Field(description="One letter for each axis, such as CHW: channels, height, width.")
    shape: list[int]


class InputForm(TensorForm):
    image: bool = Field(description="Whether it is an image, of which the axes are CHW.")


class ModelFacts(BaseModel):
    """The model that is served."""

    name: str
    deployment_id: str
    default_plan: str = Field(description="The plan of requests that name none.")
    plans: list[ServedPlan]
    inputs: list[InputForm]
    outputs: list[TensorForm]
    classes: list[str] = Field(description="In the order of the logits; empty if no output holds class scores.")
    resize: Resize | None = Field(
        description="Treatment of images of another size: `stretch` scales the whole image, `crop` the largest part in "
        "its middle that has the network's proportions; `no`: they are refused. Null if there is a `preparation`."
    )
    preparation: Preparation | None = Field(
        description="Treatment of images of every size: the image is scaled to `height` x `width`, or until it just "
        "covers this size (`cover`), with this `interpolation`; the network's size is cut from its centre."
    )
    devices: list[int]
    on_missing: OnMissing


class ErrorFacts(BaseModel):
    """The problem of one request."""

    code: str = Field(description="One word, for programs.")
    message: str = Field(description="The problem and its remedy, for people.")


class ErrorBody(BaseModel):
    """The form of every error."""

    error: ErrorFacts


class ReadyBody(BaseModel):
    """Requests are answered. The state of each device, by rank: `ready`, `silent` (it does not answer), how its
    requests fail, or how it was lost."""

    ready: bool
    devices: dict[int, str]


class NotReadyBody(ReadyBody):
    """Requests are not answered now; the devices are dialed until they are back."""

    error: ErrorFacts


DESCRIPTIONS = {
    408: "The body did not arrive in time.",
    413: "The body is too large.",
    415: "This Content-Type is not accepted.",
    422: "The body cannot be read or does not fit the network, or there is no such plan or query parameter.",
    502: "A device failed while it computed.",
    503: "Too many requests wait, or devices are lost. Try again after `Retry-After` seconds.",
    504: "There was no answer in time.",
}
PLAN = "The plan that the devices follow: one that /model lists; `default_plan` if none is given."
_RETRY = {"Retry-After": {"description": "Seconds.", "schema": {"type": "integer"}}}
_BINARY = {"schema": {"type": "string", "format": "binary"}}
_IMAGES = dict.fromkeys(("image/png", "image/jpeg", "image/*", "application/octet-stream"), _BINARY)
IMAGE_BODY = {"required": True, "content": _IMAGES}
_VALUES = {"type": "array", "items": {}, "description": "All values of a sample, in nested lists or in one."}
_INPUTS = {
    "type": "object",
    "required": ["inputs"],
    "properties": {"inputs": {"type": "object", "additionalProperties": _VALUES}},
}
TENSOR_BODY = {
    "required": True,
    "content": {JSON: {"schema": _INPUTS}, NPY: _BINARY, NPZ: _BINARY, **_IMAGES},
}


def described(model: type[BaseModel], description: str) -> dict[str, Any]:
    return {"model": model, "description": description}


def described_error(status: int) -> dict[str, Any]:
    return described(ErrorBody, DESCRIPTIONS[status]) | ({"headers": _RETRY} if status == 503 else {})
