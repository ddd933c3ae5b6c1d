"""Reading the body that a client sends, and noticing a client that hangs up before its answer."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Coroutine
from typing import Any, NoReturn, TypeVar

from fastapi import Request
from starlette.requests import ClientDisconnect

from sepnas.errors import DataError
from sepnas.runtime.service.bodies import Bodies
from sepnas.runtime.service.http_errors import RefusedRequest

BODY_S = 10.0
"""Time within which a body must arrive."""
_Result = TypeVar("_Result")


def check_head(request: Request, max_bytes: int, others: Collection[str] = ()) -> str:
    """The media type of a body; raises :class:`RefusedRequest` for one that is neither an image nor among ``others``,
    and for too large a body."""
    kind = request.headers.get("content-type", "application/octet-stream").partition(";")[0].strip().lower()
    if not (is_image(kind) or kind in others):
        also = f", or {', '.join(others)}" if others else ""
        raise RefusedRequest(
            415,
            "media-type",
            f"the body must be the image itself, sent as image/png or the like{also}, not as {kind[:80]}",
        )
    length = request.headers.get("content-length", "")
    if length.isdigit() and int(length) > max_bytes:
        _refuse_large(max_bytes)
    return kind


def is_image(kind: str) -> bool:
    """Whether a media type is that of an image."""
    return kind.startswith("image/") or kind == "application/octet-stream"


async def read_body(request: Request, max_bytes: int, bodies: Bodies) -> bytes:
    """The whole body of a request.

    Raises :class:`RefusedRequest` (too large, too slow), :class:`DataError` (empty) and :class:`BusyError`.
    """

    async def read() -> bytes:
        with bodies.receiving() as body:
            async for chunk in request.stream():
                body.add(chunk)
                if len(body.data) > max_bytes:
                    _refuse_large(max_bytes)
            return bytes(body.data)

    try:
        body = await asyncio.wait_for(read(), BODY_S)
    except asyncio.TimeoutError:
        raise RefusedRequest(408, "slow-body", f"the body did not come within {BODY_S:g} s") from None
    if not body:
        raise DataError("the body is empty; send an image's bytes, as `curl --data-binary @image.png` does")
    return body


async def run_unless_gone(request: Request, work: Coroutine[Any, Any, _Result]) -> _Result:
    """The result of ``work``, which is cancelled when the client hangs up; that raises ``ClientDisconnect``.

    If the client has hung up already, the work never begins.
    """
    leaving = asyncio.ensure_future(_hung_up(request))
    await asyncio.sleep(0)
    working = asyncio.ensure_future(work)  # a task that is cancelled at once never begins
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


def _refuse_large(max_bytes: int) -> NoReturn:
    raise RefusedRequest(413, "too-large", f"the body may have at most {max_bytes:,} bytes")
