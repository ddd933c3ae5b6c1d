"""Errors of a service over HTTP: their status, their form, and how they reach a client that is still sending."""

from __future__ import annotations

import asyncio
import contextlib
from http import HTTPStatus

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from sepnas.errors import (
    BusyError,
    DataError,
    DeadlineError,
    ExchangeError,
    RemoteError,
    RemoteProtocolError,
    SepnasError,
)
from sepnas.runtime.service.http_forms import ErrorBody, ErrorFacts

RETRY_AFTER_S = 1
_LINGER_S = 2.0
"""Time for which an early answer goes on reading what its client sends."""

_STATUSES: tuple[tuple[type[SepnasError], int, str], ...] = (
    (BusyError, 503, "busy"),
    (DataError, 422, "bad-image"),
    (DeadlineError, 504, "late"),
    (RemoteError, 502, "device-failed"),
    (RemoteProtocolError, 502, "device-failed"),
    (ExchangeError, 503, "devices-lost"),
    (SepnasError, 503, "not-ready"),
)
"""The first row that fits an error counts."""


class RefusedRequest(Exception):  # noqa: N818
    """A request that is answered before its body is read."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code


class EarlyAnswer(JSONResponse):
    """An answer to a client that may still be sending.

    If the connection were closed at once, it would break before the client reads the answer. So what the client sends
    is read and dropped for a short time.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.headers["Connection"] = "close"
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": True})
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(_drop_body(receive), _LINGER_S)
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _drop_body(receive: Receive) -> None:
    while (await receive()).get("more_body"):
        pass


def error_response(status: int, code: str, message: str, response: type[JSONResponse] = JSONResponse) -> JSONResponse:
    """An error in the common form; a 503 says when to try again."""
    headers = {"Retry-After": str(RETRY_AFTER_S)} if status == 503 else None
    return response(ErrorBody(error=ErrorFacts(code=code, message=message)).model_dump(), status, headers)


def raw_error(status: int, code: str, message: str) -> bytes:
    """The bytes of an error with its head, to be sent without parsing the request."""
    answer = error_response(status, code, message)
    fields = [(b"connection", b"close"), *answer.raw_headers]
    head = b"".join(b"%s: %s\r\n" % field for field in fields)
    return b"HTTP/1.1 %d %s\r\n%s\r\n" % (status, HTTPStatus(status).phrase.encode(), head) + bytes(answer.body)


def add_error_handlers(app: FastAPI) -> None:
    """Answer every error of an application in the common form."""
    app.add_exception_handler(RefusedRequest, _refused)
    app.add_exception_handler(SepnasError, _failed)
    app.add_exception_handler(HTTPException, _not_served)
    app.add_exception_handler(Exception, _broken)


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, RefusedRequest)
    return error_response(error.status, error.code, str(error), EarlyAnswer)


async def _failed(_: Request, error: Exception) -> Response:
    status, code = next((status, code) for kind, status, code in _STATUSES if isinstance(error, kind))
    return error_response(status, code, str(error))


async def _not_served(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code = HTTPStatus(error.status_code).phrase.lower().replace(" ", "-")
    answer = error_response(error.status_code, code, f"{error.detail}; /openapi.json lists what is served")
    answer.headers.update(error.headers or {})
    return answer


async def _broken(_: Request, error: Exception) -> Response:
    return error_response(500, "internal", f"the service failed ({type(error).__name__}); its log says where")
