"""The process that decodes untrusted images in child processes with bounded memory.

Its stdin is a packet socket. A number with a socket starts a child that serves the socket; the number alone kills that
child. A child writes ``READY``, then reads requests from its socket and writes answers. A request is ``SIZES`` (of the
JSON object and of the image), a JSON object (``input``, ``resize``, ``max_pixels``) and the image. An answer is one
byte, ``P`` for pixels or ``E`` for an error's text, the size of its content, and the content.
"""

from __future__ import annotations

import io
import json
import os
import resource
import signal
import socket
import sys
from contextlib import suppress
from struct import Struct
from typing import Any, BinaryIO

from sepnas.deployment.network_facts import ImageInput
from sepnas.errors import DataError
from sepnas.runtime.client.images import read_image

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "PPM")
"""Formats that clients may send. Pillow reads more: EPS starts a program, TIFF's library writes to the log."""
SIZES = Struct(">II")
ANSWER = Struct(">cI")
NUMBER = Struct(">I")
PIXELS, ERROR = b"P", b"E"
READY = b"ready"
BYTES_A_PIXEL = 32
"""Pillow takes 4 for the image and for each copy (converted, rotated, on a background), libraries up to 6."""
SPARE_BYTES = 64 << 20
_ASCII = (b"P1", b"P2", b"P3")


def main() -> None:
    max_pixels = int(sys.argv[1])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in the terminal: the service ends this process
    _load_decoders()
    limit_bytes = _data_bytes() + BYTES_A_PIXEL * max_pixels + SPARE_BYTES
    resource.setrlimit(resource.RLIMIT_DATA, (limit_bytes, limit_bytes))
    with socket.socket(fileno=sys.stdin.fileno()) as control:
        control.send(READY)
        _look_after_children(control)
    os._exit(0)


def _look_after_children(control: socket.socket) -> None:
    """Start and kill children until the service closes the socket."""
    children: dict[int, int] = {}
    while True:
        message, descriptors, _, _ = socket.recv_fds(control, NUMBER.size, 1)
        if not message:
            break
        (number,) = NUMBER.unpack(message)
        if descriptors:
            children[number] = _child(control, socket.socket(fileno=descriptors[0]))
        elif number in children:
            _end(children.pop(number))
    for pid in children.values():
        _end(pid)


def _end(pid: int) -> None:
    """Kill and reap a child; the pid stays valid until then, even if the child has ended by itself."""
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def _child(control: socket.socket, client: socket.socket) -> int:
    """The pid of a new process that serves ``client``."""
    with client:
        pid = os.fork()
        if pid:
            return pid
        try:
            control.close()
            with client.makefile("rb") as source, client.makefile("wb") as target, suppress(OSError):
                _serve(source, target)
        finally:
            os._exit(0)


def _load_decoders() -> None:
    from PIL import Image

    Image.init()


def _data_bytes() -> int:
    """The memory that counts towards RLIMIT_DATA now."""
    with open("/proc/self/status") as lines:  # noqa: PTH123
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmData:"))


def _serve(source: BinaryIO, target: BinaryIO) -> None:
    target.write(READY)
    target.flush()
    while head := source.read(SIZES.size):
        order_size, image_size = SIZES.unpack(head)
        kind, content = _answer(json.loads(source.read(order_size)), source.read(image_size))
        target.write(ANSWER.pack(kind, len(content)))
        target.write(content)
        target.flush()


def _answer(order: dict[str, Any], image: bytes) -> tuple[bytes, bytes]:
    try:
        wanted = ImageInput(**order["input"])
        return PIXELS, _decoded(image, wanted, order).tobytes()
    except DataError as error:
        return ERROR, str(error).encode(errors="replace")
    except MemoryError:
        return ERROR, b"the image takes more memory than an image of its size may"


def _decoded(image: bytes, wanted: ImageInput, order: dict[str, Any]) -> Any:
    if image[:2] in _ASCII:
        raise DataError("the image is a PPM in text, which is slow to read; save it as PNG")
    return read_image(io.BytesIO(image), "the image", wanted, order["resize"], FORMATS, order["max_pixels"])


if __name__ == "__main__":
    main()
