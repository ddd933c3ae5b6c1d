"""Images of strangers are decoded by processes that may crash, hang or take too much memory; and who is next."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sepnas.deployment.network_facts import ImageInput
from sepnas.errors import DataError, DeadlineError
from sepnas.runtime.service.decoder_processes import Order
from sepnas.runtime.service.decoders import Decoders
from sepnas.runtime.service.turns import Turns
from tests.runtime.service.test_serve import SOON_S, encoded, gated, pixels, serving  # noqa: F401

WANTED = ImageInput(channels=1, height=8, width=8, mean=(0.0,), std=(1.0,))


def order(resize: str = "no", max_pixels: int = 25_000_000) -> Order:
    return Order(WANTED, resize, max_pixels)


def large(side: int = 4990) -> bytes:
    """A PNG of some 40 kB that takes long and much memory to decode."""
    file = io.BytesIO()
    Image.new("RGBA", (side, side)).save(file, "PNG", compress_level=1)
    return file.getvalue()


def children(pid: int) -> list[int]:
    found = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(each) for tasks in found for each in tasks.read_text().split()]


def decoders_of(pid: int) -> list[int]:
    """The processes that make decoders."""
    lines = {each: Path(f"/proc/{each}/cmdline").read_bytes() for each in children(pid)}
    return [each for each, line in lines.items() if b"sepnas.runtime.service.decoder" in line]


async def until(condition) -> None:
    limit = time.monotonic() + SOON_S
    while not condition():
        assert time.monotonic() < limit
        await asyncio.sleep(0.01)


def soon() -> float:
    return time.monotonic() + SOON_S


async def works(decoders: Decoders) -> None:
    array = pixels(1)
    assert (await decoders.decode(encoded(array), order(), soon()) == array[None]).all()


def test_a_decoder_that_is_lost_is_replaced():
    """One that is too late, one that dies in the middle, and the process that makes them: the next image is decoded,
    and in the end no process is left."""

    async def run() -> list[int]:
        async with Decoders(at_once=1) as decoders:
            await works(decoders)
            (maker,) = decoders_of(os.getpid())
            (first,) = children(maker)
            with pytest.raises(DeadlineError, match="longer to decode than the deadline"):
                await decoders.decode(large(), order("stretch"), time.monotonic() + 0.05)
            await works(decoders)
            (second,) = children(maker)
            assert first != second
            work = asyncio.create_task(decoders.decode(large(), order("stretch"), soon()))
            await until(lambda: busy(second))
            os.kill(second, signal.SIGKILL)
            with pytest.raises(DataError, match="its decoder crashed"):
                await work
            await works(decoders)
            (third,) = children(maker)
            for each in (maker, third):
                os.kill(each, signal.SIGKILL)
            with pytest.raises(DataError, match="its decoder crashed"):
                await works(decoders)
            await works(decoders)
            (again,) = decoders_of(os.getpid())
            return [maker, third, again, *children(again)]

    def busy(pid: int) -> bool:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11]) > 1  # hundredths of a second

    for pid in asyncio.run(run()):
        limit = soon()
        while Path(f"/proc/{pid}/stat").exists() and " Z " not in Path(f"/proc/{pid}/stat").read_text():
            assert time.monotonic() < limit


def test_an_image_may_not_take_more_memory_than_its_pixels_may():
    """A decoder has memory for as many pixels as are allowed, not for what an image makes its library take; the
    largest picture that is allowed can be decoded."""

    async def run() -> None:
        async with Decoders(max_pixels=1_000_000, at_once=1) as decoders:
            with pytest.raises(DataError, match="memory"):
                await decoders.decode(large(), order("stretch"), soon())
            await decoders.decode(large(1000), order("stretch"), soon())
            with pytest.raises(DataError, match="has 1001x1001 pixels; at most 1,000,000 are read"):
                await decoders.decode(large(1001), order("stretch", 1_000_000), soon())

    asyncio.run(run())


def test_pictures_as_text_are_refused():
    """A PPM of decimal numbers takes a second a megabyte."""

    async def run() -> None:
        async with Decoders(at_once=1) as decoders:
            for kind in (b"P1", b"P2", b"P3"):
                with pytest.raises(DataError, match="a PPM in text"):
                    await decoders.decode(kind + b" 8 8 255 " + b"0 " * 192, order(), soon())

    asyncio.run(run())


def test_large_images_do_not_stop_small_ones(exported, gated):  # noqa: F811
    """The deadline ends the decoding too: many large pictures at once are late or too many, and then small ones are
    answered."""
    with serving(exported, gated, resize="stretch", max_image_bytes=10_000_000, queue=1) as client:
        image, client.service._timeout_s = large(), 0.05
        for _ in range(3):
            status, answer = client.classify(image)
            assert (status, answer["error"]["code"]) == (504, "late")
        client.service._timeout_s = SOON_S
        assert client.classify(encoded(pixels(1)))[0] == 200


async def order_of(turns: Turns, number: int, gives_up: bool) -> list[int]:
    """Who had a turn when, of so many who come one after the other while another one has it."""
    had: list[int] = []

    async def ask(name: int) -> None:
        async with turns.turn(soon()):
            had.append(name)
            await asyncio.sleep(0)

    await turns.take(soon())
    asking = []
    for name in range(number):
        asking.append(asyncio.create_task(ask(name)))
        await asyncio.sleep(0)
    if gives_up:
        turns.gave_up()
    turns.give()
    await asyncio.gather(*asking)
    return had


def test_the_newest_is_next_while_clients_give_up():
    """Turns are taken in the order of arrival; when clients do not wait, those that came last have most time left."""
    assert asyncio.run(order_of(Turns(1), 4, gives_up=False)) == [0, 1, 2, 3]
    assert asyncio.run(order_of(Turns(1), 4, gives_up=True)) == [3, 2, 1, 0]


def test_turns_are_neither_lost_nor_waited_for_too_long():
    """A turn that comes to somebody who leaves at that moment goes on; a deadline ends the waiting."""

    async def run() -> None:
        turns = Turns(1)
        await turns.take(soon())
        leaving = asyncio.create_task(turns.take(soon()))
        await asyncio.sleep(0)
        turns.give()
        leaving.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await leaving
        await asyncio.wait_for(turns.take(soon()), SOON_S)
        with pytest.raises(DeadlineError, match="waited behind others"):
            await turns.take(time.monotonic() + 0.05)
        turns.give()
        await asyncio.wait_for(turns.take(soon()), SOON_S)

    asyncio.run(run())


def test_pixels_are_those_of_the_image():
    """What comes back from the process is what the reader of images gives here."""

    async def run() -> None:
        async with Decoders() as decoders:
            arrays = [pixels(seed) for seed in range(20)]
            found = await asyncio.gather(*(decoders.decode(encoded(each), order(), soon()) for each in arrays))
            for array, image in zip(arrays, found, strict=True):
                np.testing.assert_array_equal(image, array[None])

    asyncio.run(run())
