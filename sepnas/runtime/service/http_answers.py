"""A service's results in the forms of its HTTP answers."""

from __future__ import annotations

from fastapi.responses import JSONResponse

from sepnas.runtime.service.http_errors import RETRY_AFTER_S
from sepnas.runtime.service.http_forms import (
    Classification,
    ErrorFacts,
    LikelyClass,
    MissingMessage,
    ModelFacts,
    NotReadyBody,
    ReadyBody,
    ServedPlan,
)
from sepnas.runtime.service.service import Classified, Health, Service


def classification_of(found: Classified) -> Classification:
    """The answer to ``POST /classify``."""
    answer = found.answer
    return Classification(
        classes=[LikelyClass(**{"class": name}, probability=probability) for name, probability in found.classes],
        plan=found.plan,
        complete=answer.complete,
        without=list(answer.without),
        missing=[MissingMessage(device=each.device, source=each.source, tag=each.tag) for each in answer.missing],
    )


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
    return ModelFacts(
        name=manifest.name,
        deployment_id=manifest.deployment_id,
        default_plan=manifest.default_plan,
        plans=[ServedPlan(name=name, payload_bytes=plan.payload_bytes) for name, plan in manifest.plans.items()],
        classes=list(manifest.classes),
        image_height=manifest.image.height,
        image_width=manifest.image.width,
        channels=manifest.image.channels,
        resize=service.resize,
        devices=list(service.ranks),
        on_missing=service.on_missing,
    )
