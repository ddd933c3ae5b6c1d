"""A :class:`Service` over HTTP: its paths and their OpenAPI description."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from functools import partial
from typing import Annotated, Any, TypeVar

from fastapi import FastAPI, Query, Request, Response
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send

from sepnas import __version__
from sepnas.errors import BusyError, DataError, SpecError
from sepnas.runtime.service.bodies import Bodies
from sepnas.runtime.service.http_answers import check_answerable, classification_of, facts_of, health_of, inference_of
from sepnas.runtime.service.http_body import BODY_S, check_head, is_image, read_body, run_unless_gone
from sepnas.runtime.service.http_errors import (
    EarlyAnswer,
    RefusedRequest,
    add_error_handlers,
    error_response,
    raw_error,
)
from sepnas.runtime.service.http_forms import (
    DESCRIPTIONS,
    IMAGE_BODY,
    PLAN,
    TENSOR_BODY,
    Classification,
    ErrorBody,
    Inference,
    ModelFacts,
    NotReadyBody,
    ReadyBody,
    described,
    described_error,
)
from sepnas.runtime.service.http_server import MAX_CONNECTIONS, HttpServer, serving_config
from sepnas.runtime.service.service import Service
from sepnas.runtime.service.tensor_bodies import TENSOR_KINDS
from sepnas.runtime.transport.served_names import ServedNames
from sepnas.spec.document import short

MAX_BODIES_BYTES = 64_000_000
"""Bound of all bodies together that are not complete yet; there is always room for two."""

_Answer = TypeVar("_Answer")
_PlanQuery = Annotated[str | None, Query(description=PLAN)]
_WITHOUT_SCRIPTS = """
<p>This page needs scripts from cdn.jsdelivr.net, which have not been loaded. The same is said by
<a href="openapi.json">openapi.json</a>, which needs nothing.</p>
"""


def make_app(service: Service, max_image_bytes: int, host_names: Sequence[str] = ()) -> FastAPI:
    """The HTTP endpoint of a service, which runs while the application does.

    Requests must be addressed to an address of this machine or to one of ``host_names``; raises :class:`SpecError` for
    an invalid name.
    """

    @contextlib.asynccontextmanager
    async def run_service(_: FastAPI) -> AsyncIterator[None]:
        async with service:
            yield

    app = FastAPI(
        title=f"sepnas serve: {service.manifest.name}",
        version=__version__,
        description=f"Answers requests of at most {max_image_bytes:,} bytes by a network over several devices.",
        lifespan=run_service,
        docs_url=None,
        redoc_url=None,
    )
    app.add_middleware(_Guard, names=ServedNames(host_names))
    add_error_handlers(app)
    places, busy = service.places, raw_error(503, "busy", service.places.refusal)
    app.state.refusal = lambda answered: busy if answered >= places.limit or places.is_full else None
    _add_requests(app, service, max_image_bytes)
    _add_facts(app, service)
    _add_docs(app)
    return app


def http_server(app: FastAPI, timeout_s: float, max_connections: int = MAX_CONNECTIONS) -> HttpServer:
    """A server of what :func:`make_app` made; when told to stop, it finishes the requests that it has begun."""
    return HttpServer(serving_config(app, timeout_s + BODY_S), max_connections, app.state.refusal)


def _add_requests(app: FastAPI, service: Service, max_bytes: int) -> None:
    bodies = Bodies(max(MAX_BODIES_BYTES, 2 * max_bytes))
    errors: dict[int | str, dict[str, Any]] = {code: described_error(code) for code in DESCRIPTIONS}

    @app.post("/classify", response_model=Classification, responses=errors, openapi_extra={"requestBody": IMAGE_BODY})
    async def classify(request: Request, plan: _PlanQuery = None) -> Any:
        """Classify one image: the body is the encoded image itself (PNG, JPEG, WebP, BMP, GIF or PPM), no form.

        Example: `curl -H 'Content-Type: image/png' --data-binary @image.png 'http://127.0.0.1:8080/classify?plan=default'`
        """
        check_head(request, max_bytes)
        _check_query(request)
        _check_plan(service, plan)
        if service.manifest.network.classes is None:
            raise RefusedRequest(404, "no-classes", "this network names no classes; POST to /infer for its outputs")
        found = await _answered(request, service, max_bytes, bodies, partial(service.classify, plan=plan))
        return found if isinstance(found, Response) else classification_of(found)

    @app.post(
        "/infer",
        response_model=Inference,
        responses={**errors, 406: described(ErrorBody, "The outputs are too large for JSON.")},
        openapi_extra={"requestBody": TENSOR_BODY},
    )
    async def infer(request: Request, plan: _PlanQuery = None) -> Any:
        """The outputs for one sample of each input, which /model lists.

        The body is JSON, `{"inputs": {NAME: [...]}}`; or a numpy file, as application/x-npz with each input by name, or
        as application/x-npy for a network with one input; or an image, for a network that takes nothing else. Values
        are float32; those of an image in JSON are normalised already. `Accept: application/x-npz` gets a file.

        Example: `curl -H 'Content-Type: application/x-npz' --data-binary @inputs.npz http://127.0.0.1:8080/infer`
        """
        kind, accept = check_head(request, max_bytes, TENSOR_KINDS), request.headers.get("accept", "")
        _check_query(request)
        name = _check_plan(service, plan)
        check_answerable(service.manifest.outputs_of(name), accept)
        ask = partial(service.infer_image, plan=plan) if is_image(kind) else partial(service.infer, kind, plan=plan)
        try:
            found = await _answered(request, service, max_bytes, bodies, ask)
        except DataError as error:
            return error_response(422, "bad-input", str(error))
        return found if isinstance(found, Response) else inference_of(found, name, accept)


async def _answered(
    request: Request,
    service: Service,
    max_bytes: int,
    bodies: Bodies,
    ask: Callable[[bytes], Coroutine[Any, Any, _Answer]],
) -> _Answer | Response:
    """What ``ask`` answers to the body of a request; an empty response if its client has hung up."""
    try:
        body = await read_body(request, max_bytes, bodies)
        with service.places.take():
            return await run_unless_gone(request, ask(body))
    except BusyError as error:
        raise RefusedRequest(503, "busy", str(error)) from None
    except ClientDisconnect:
        return Response(status_code=400)  # nobody reads it


def _check_query(request: Request) -> None:
    """Refuse any parameter but one ``plan``: a misspelt one would be answered under the default plan."""
    names = [name for name, _ in request.query_params.multi_items()]
    if names not in ([], ["plan"]):
        unknown = next((name for name in names if name != "plan"), "plan")
        problem = "repeated" if unknown == "plan" else "unknown"
        raise RefusedRequest(422, "query", f"{problem} query parameter {short(unknown)}; allowed is one `plan`")


def _check_plan(service: Service, plan: str | None) -> str:
    """The plan's name; refuses a plan that the deployment does not have, before the body is read."""
    try:
        service.manifest.plan(plan)
        return plan or service.manifest.default_plan
    except SpecError as error:
        raise RefusedRequest(422, "plan", str(error)) from None


def _add_facts(app: FastAPI, service: Service) -> None:
    not_ready = described(NotReadyBody, "Requests are not answered now.")

    @app.get("/health", response_model=ReadyBody, responses={503: not_ready})
    async def health() -> Any:
        """Whether requests are answered, and the state of each device; 503 while a necessary device is lost."""
        return health_of(service.health())

    @app.get("/model")
    async def model() -> ModelFacts:
        """The model that is served: its inputs and outputs, its classes, the treatment of other image sizes, plans."""
        return facts_of(service)


def _add_docs(app: FastAPI) -> None:
    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        page = get_swagger_ui_html(openapi_url="openapi.json", title=app.title, swagger_favicon_url="data:,")
        element = '<div id="swagger-ui">'  # its content is replaced when the scripts run
        return HTMLResponse(bytes(page.body).decode().replace(element, element + _WITHOUT_SCRIPTS))


class _Guard:
    """Checks the address of each request before anything else, and treats HEAD as GET: the server drops the body."""

    def __init__(self, app: ASGIApp, names: ServedNames) -> None:
        self._app, self._names = app, names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        headers = {name.decode("latin-1"): text.decode("latin-1") for name, text in scope["headers"]}
        found = self._names.refusal(scope["method"], headers, (scope["server"] or ("",))[0])
        if found is not None:
            return await error_response(found.status, found.code, found.message, EarlyAnswer)(scope, receive, send)
        if scope["method"] == "HEAD":
            scope = {**scope, "method": "GET"}
        return await self._app(scope, receive, send)
