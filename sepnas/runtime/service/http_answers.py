"""A service's results in the forms of its HTTP answers."""

from __future__ import annotations

import math
from collections.abc import Mapping

from fastapi.responses import JSONResponse, Response

from sepnas.deployment.network_facts import OutputFacts
from sepnas.runtime.client.answer import Answer
from sepnas.runtime.service.http_errors import RETRY_AFTER_S, RefusedRequest
from sepnas.runtime.service.http_forms import (
    Classification,
    ErrorFacts,
    Inference,
    InputForm,
    LikelyClass,
    MissingMessage,
    ModelFacts,
    NotReadyBody,
    OutputValues,
    ReadyBody,
    ServedPlan,
    TensorForm,
)
from sepnas.runtime.service.service import Classified, Health, Service
from sepnas.runtime.service.tensor_bodies import MAX_JSON_ANSWER_VALUES, NPZ
from sepnas.spec.preparation import Preparation
from sepnas.spec.tensor_file import tensor_bytes


def classification_of(found: Classified) -> Classification:
    """The answer to ``POST /classify``."""
    answer = found.answer
    return Classification(
        classes=[LikelyClass(**{"class": name}, probability=probability) for name, probability in found.classes],
        plan=found.plan,
        complete=answer.complete,
        without=list(answer.without),
        missing=_missing_of(answer),
    )


def inference_of(answer: Answer, plan: str, accept: str) -> Inference | Response:
    """The answer to ``POST /infer``, for one sample: JSON, or a file of numpy's if that is what ``accept`` names."""
    outputs = {name: array[0] for name, array in answer.outputs.items()}
    if NPZ in accept:
        return Response(tensor_bytes(outputs), media_type=NPZ, headers={"X-Complete": str(answer.complete).lower()})
    values = {
        name: OutputValues(shape=list(array.shape), values=array.ravel().tolist()) for name, array in outputs.items()
    }
    return Inference(
        outputs=values, plan=plan, complete=answer.complete, without=list(answer.without), missing=_missing_of(answer)
    )


def check_answerable(outputs: Mapping[str, OutputFacts], accept: str) -> None:
    """Raise :class:`RefusedRequest` for outputs that are too large for JSON, if ``accept`` asks for nothing else."""
    num_values = sum(math.prod(facts.shape.dims) for facts in outputs.values())
    if NPZ not in accept and num_values > MAX_JSON_ANSWER_VALUES:
        raise RefusedRequest(
            406, "too-large", f"the outputs have {num_values:,} values; ask for them with `Accept: {NPZ}`"
        )


def _missing_of(answer: Answer) -> list[MissingMessage]:
    return [MissingMessage(device=each.device, source=each.source, tag=each.tag) for each in answer.missing]


def health_of(health: Health) -> ReadyBody | JSONResponse:
    """The answer to ``GET /health``: 503 when requests cannot be answered."""
    if health.ready:
        return ReadyBody(ready=True, devices=health.devices)
    error = ErrorFacts(code="not-ready", message=health.problem)
    problem = NotReadyBody(ready=False, devices=health.devices, error=error)
    return JSONResponse(problem.model_dump(mode="json"), 503, {"Retry-After": str(RETRY_AFTER_S)})


def facts_of(service: Service) -> ModelFacts:
    """The answer to ``GET /model``."""
    manifest = service.manifest
    network = manifest.network
    return ModelFacts(
        name=manifest.name,
        deployment_id=manifest.deployment_id,
        default_plan=manifest.default_plan,
        plans=[ServedPlan(name=name, payload_bytes=plan.payload_bytes) for name, plan in manifest.plans.items()],
        inputs=[
            InputForm(name=name, axes=facts.shape.axes, shape=list(facts.shape.dims), image=facts.image is not None)
            for name, facts in network.inputs.items()
        ],
        outputs=[
            TensorForm(name=name, axes=facts.shape.axes, shape=list(facts.shape.dims))
            for name, facts in network.outputs.items()
        ],
        classes=list(network.classes or ()),
        resize=None if isinstance(service.resize, Preparation) else service.resize,
        preparation=service.resize if isinstance(service.resize, Preparation) else None,
        devices=list(service.ranks),
        on_missing=service.on_missing,
    )
