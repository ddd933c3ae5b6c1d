"""Reading the image that a client sends, and noticing a client that hangs up before its answer."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, NoReturn, TypeVar

from fastapi import Request
from starlette.requests import ClientDisconnect

from sepnas.errors import DataError
from sepnas.runtime.service.bodies import Bodies
from sepnas.runtime.service.http_errors import RefusedRequest

BODY_S = 10.0
"""Time within which a body must arrive."""
_Result = TypeVar("_Result")


def check_head(request: Request, max_image_bytes: int) -> None:
    """Raise :class:`RefusedRequest` for a head that announces another media type or too large a body."""
    kind = request.headers.get("content-type", "application/octet-stream").partition(";")[0].strip().lower()
    if not (kind.startswith("image/") or kind == "application/octet-stream"):
        raise RefusedRequest(
            415,
            "media-type",
            f"the body must be the image itself, sent as image/png or the like, not as {kind[:80]}",
        )
    length = request.headers.get("content-length", "")
    if length.isdigit() and int(length) > max_image_bytes:
        _refuse_large(max_image_bytes)


async def read_body(request: Request, max_image_bytes: int, bodies: Bodies) -> bytes:
    """The whole body of a request.

    Raises :class:`RefusedRequest` (too large, too slow), :class:`DataError` (empty) and :class:`BusyError`.
    """

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
        raise RefusedRequest(408, "slow-body", f"the image did not come within {BODY_S:g} s") from None
    if not image:
        raise DataError("the body is empty; send the image's bytes, as `curl --data-binary @image.png` does")
    return image


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


def _refuse_large(max_image_bytes: int) -> NoReturn:
    raise RefusedRequest(413, "too-large", f"the image may have at most {max_image_bytes:,} bytes")
