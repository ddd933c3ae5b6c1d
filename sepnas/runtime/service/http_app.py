"""A :class:`Service` over HTTP: the paths, the forms of answers and errors, and their OpenAPI description."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine, Sequence
from http import HTTPStatus
from typing import Any, NoReturn, TypeVar

from fastapi import FastAPI, Request, Response
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse, JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send

from sepnas import __version__
from sepnas.errors import (
    BusyError,
    DataError,
    DeadlineError,
    ExchangeError,
    RemoteError,
    RemoteProtocolError,
    SepnasError,
)
from sepnas.runtime.service.bodies import Bodies
from sepnas.runtime.service.http_forms import (
    DESCRIPTIONS,
    IMAGE_BODY,
    Classification,
    ErrorBody,
    ErrorFacts,
    LikelyClass,
    MissingMessage,
    ModelFacts,
    NotReadyBody,
    ReadyBody,
    described,
    described_error,
)
from sepnas.runtime.service.http_server import MAX_CONNECTIONS, HttpServer, serving_config
from sepnas.runtime.service.service import Classified, Health, Service
from sepnas.runtime.transport.served_names import ServedNames

BODY_S = 10.0
"""How long a body may take to come."""
MAX_BODIES_BYTES = 64_000_000
"""Of all bodies together that are not whole yet; at least room for two."""
RETRY_AFTER_S = 1
_LINGER_S = 2.0
_Result = TypeVar("_Result")


_MEANINGS: tuple[tuple[type[SepnasError], int, str], ...] = (
    (BusyError, 503, "busy"),
    (DataError, 422, "bad-image"),
    (DeadlineError, 504, "late"),
    (RemoteError, 502, "device-failed"),
    (RemoteProtocolError, 502, "device-failed"),
    (ExchangeError, 503, "devices-lost"),
    (SepnasError, 503, "not-ready"),
)
"""Of several that fit an error the first counts."""

_WITHOUT_SCRIPTS = """
<p>This page needs scripts from cdn.jsdelivr.net, which have not been loaded. The same is said by
<a href="openapi.json">openapi.json</a>, which needs nothing.</p>
"""


def make_app(service: Service, max_image_bytes: int, host_names: Sequence[str] = ()) -> FastAPI:
    """The HTTP endpoint of a service, which runs while the application does.

    It is asked by the machine's addresses or by one of ``host_names``; raises :class:`SpecError` for what is no name.
    """
    bodies = Bodies(max(MAX_BODIES_BYTES, 2 * max_image_bytes))

    @contextlib.asynccontextmanager
    async def run_service(_: FastAPI) -> AsyncIterator[None]:
        async with service:
            yield

    app = FastAPI(
        title=f"sepnas serve: {service.manifest.name}",
        version=__version__,
        description=f"Classifies images of at most {max_image_bytes:,} bytes by a network over several devices.",
        lifespan=run_service,
        docs_url=None,
        redoc_url=None,
    )
    app.add_middleware(_Guard, names=ServedNames(host_names))
    busy = _whole_answer(503, "busy", service.busy)
    app.state.refusal = lambda answered: busy if answered >= service.places or service.is_full else None
    app.add_exception_handler(_Refused, _refused)
    app.add_exception_handler(SepnasError, _failed)
    app.add_exception_handler(HTTPException, _not_served)
    app.add_exception_handler(Exception, _broken)

    @app.post(
        "/classify",
        response_model=Classification,
        responses={code: described_error(code) for code in DESCRIPTIONS},
        openapi_extra={"requestBody": IMAGE_BODY},
    )
    async def classify(request: Request) -> Any:
        """Classify one image: the body is the encoded image itself (PNG, JPEG, WebP, BMP, GIF or PPM), no form.

        Example: `curl -H 'Content-Type: image/png' --data-binary @image.png http://127.0.0.1:8080/classify`
        """
        _check_head(request, max_image_bytes)
        try:
            image = await _body(request, max_image_bytes, bodies)
            with service.place():
                found = await _unless_gone(request, service.classify(image))
        except BusyError as error:
            raise _Refused(503, "busy", str(error)) from None
        except ClientDisconnect:
            return Response(status_code=400)  # nobody reads it
        return _classification(found)

    @app.get(
        "/health", response_model=ReadyBody, responses={503: described(NotReadyBody, "Requests are not answered now.")}
    )
    async def health() -> Any:
        """Whether requests are answered, and how each device is; 503 while a device is lost that is needed."""
        return _health(service.health())

    @app.get("/model")
    async def model() -> ModelFacts:
        """What is served: the classes, the size of its images and how others are resized, the deployment."""
        return _facts(service)

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        page = get_swagger_ui_html(openapi_url="openapi.json", title=app.title, swagger_favicon_url="data:,")
        place = '<div id="swagger-ui">'  # what stands here is replaced when the scripts run
        return HTMLResponse(bytes(page.body).decode().replace(place, place + _WITHOUT_SCRIPTS))

    return app


def http_server(app: FastAPI, deadline_s: float, max_connections: int = MAX_CONNECTIONS) -> HttpServer:
    """A server of what :func:`make_app` made; when told to stop, it finishes what is on its way."""
    return HttpServer(serving_config(app, deadline_s + BODY_S), max_connections, app.state.refusal)


class _Guard:
    """Before all else: who may ask, and HEAD as GET, of whose answer the server leaves the body out."""

    def __init__(self, app: ASGIApp, names: ServedNames) -> None:
        self._app, self._names = app, names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        headers = {name.decode("latin-1"): text.decode("latin-1") for name, text in scope["headers"]}
        found = self._names.refusal(scope["method"], headers, (scope["server"] or ("",))[0])
        if found is not None:
            return await _error(found.status, found.code, found.message, _EarlyAnswer)(scope, receive, send)
        if scope["method"] == "HEAD":
            scope = {**scope, "method": "GET"}
        return await self._app(scope, receive, send)


class _Refused(Exception):  # noqa: N818
    """A request that is answered before its body is read."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code


class _EarlyAnswer(JSONResponse):
    """An answer to a client that may still be sending: closed at once, its connection would break before it reads.

    What it sends meanwhile is thrown away, for a short time.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.headers["Connection"] = "close"
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": True})
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(_throw_away(receive), _LINGER_S)
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _throw_away(receive: Receive) -> None:
    while (await receive()).get("more_body"):
        pass


def _check_head(request: Request, max_image_bytes: int) -> None:
    kind = request.headers.get("content-type", "application/octet-stream").partition(";")[0].strip().lower()
    if not (kind.startswith("image/") or kind == "application/octet-stream"):
        raise _Refused(
            415,
            "media-type",
            f"the body must be the image itself, sent as image/png or the like, not as {kind[:80]}",
        )
    length = request.headers.get("content-length", "")
    if length.isdigit() and int(length) > max_image_bytes:
        _refuse_large(max_image_bytes)


def _refuse_large(max_image_bytes: int) -> NoReturn:
    raise _Refused(413, "too-large", f"the image may have at most {max_image_bytes:,} bytes")


async def _body(request: Request, max_image_bytes: int, bodies: Bodies) -> bytes:
    async def read() -> bytes:
        with bodies.receiving() as body:
            async for chunk in request.stream():
                body.add(chunk)
                if len(body.data) > max_image_bytes:
                    _refuse_large(max_image_bytes)
            return bytes(body.data)

    try:
        image = await asyncio.wait_for(read(), BODY_S)
    except asyncio.TimeoutError:
        raise _Refused(408, "slow-body", f"the image did not come within {BODY_S:g} s") from None
    if not image:
        raise DataError("the body is empty; send the image's bytes, as `curl --data-binary @image.png` does")
    return image


async def _unless_gone(request: Request, work: Coroutine[Any, Any, _Result]) -> _Result:
    """The work's result; it is cancelled when the client hangs up, which raises ``ClientDisconnect``.

    It is not begun where the client has hung up already.
    """
    leaving = asyncio.ensure_future(_hung_up(request))
    await asyncio.sleep(0)
    working = asyncio.ensure_future(work)  # one that is cancelled at once never begins
    try:
        if not leaving.done():
            await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        working.cancel()
        leaving.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _hung_up(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _classification(found: Classified) -> Classification:
    answer = found.answer
    return Classification(
        classes=[LikelyClass(**{"class": name}, probability=probability) for name, probability in found.classes],
        complete=answer.complete,
        without=list(answer.without),
        missing=[MissingMessage(device=each.device, source=each.source, tag=each.tag) for each in answer.missing],
    )


def _health(found: Health) -> ReadyBody | JSONResponse:
    if found.ready:
        return ReadyBody(ready=True, devices=found.devices)
    error = ErrorFacts(code="not-ready", message=found.problem)
    problem = NotReadyBody(ready=False, devices=found.devices, error=error)
    return JSONResponse(problem.model_dump(mode="json"), 503, {"Retry-After": str(RETRY_AFTER_S)})


def _facts(service: Service) -> ModelFacts:
    manifest = service.manifest
    return ModelFacts(
        name=manifest.name,
        deployment_id=manifest.deployment_id,
        classes=list(manifest.classes),
        image_size=manifest.input.size,
        channels=manifest.input.channels,
        resize=service.resize,
        devices=list(service.ranks),
        on_missing=service.on_missing,
    )


def _error(status: int, code: str, message: str, form: type[JSONResponse] = JSONResponse) -> JSONResponse:
    headers = {"Retry-After": str(RETRY_AFTER_S)} if status == 503 else None
    return form(ErrorBody(error=ErrorFacts(code=code, message=message)).model_dump(), status, headers)


def _whole_answer(status: int, code: str, message: str) -> bytes:
    """An answer with its head, for who is not worth the parsing."""
    answer = _error(status, code, message)
    fields = [(b"connection", b"close"), *answer.raw_headers]
    head = b"".join(b"%s: %s\r\n" % field for field in fields)
    return b"HTTP/1.1 %d %s\r\n%s\r\n" % (status, HTTPStatus(status).phrase.encode(), head) + bytes(answer.body)


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, _Refused)
    return _error(error.status, error.code, str(error), _EarlyAnswer)


async def _failed(_: Request, error: Exception) -> Response:
    status, code = next((status, code) for kind, status, code in _MEANINGS if isinstance(error, kind))
    return _error(status, code, str(error))


async def _not_served(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code = HTTPStatus(error.status_code).phrase.lower().replace(" ", "-")
    answer = _error(error.status_code, code, f"{error.detail}; what is served says /openapi.json")
    answer.headers.update(error.headers or {})
    return answer


async def _broken(_: Request, error: Exception) -> Response:
    return _error(500, "internal", f"the service failed ({type(error).__name__}); its log says where")
