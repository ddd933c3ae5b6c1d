"""Communication between a search and NNI's server: secret addresses and plain-data messages.

`guard.js` is the other end. NNI's own parser imports and unpickles names in messages, which come from other machines.
Here messages are JSON only.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from typing import Any

from websockets.exceptions import WebSocketException
from websockets.sync.client import connect

MAX_ANSWER_BYTES = 64 << 20
MAX_MESSAGE_BYTES = 16 << 20
REQUEST_TIMEOUT_S = 30.0
PAGE = "page"

Command = tuple[str, Any]
"""NNI's two-letter command type, and the content."""


class Key:
    """The secret that a search shares with its server; the HMAC of a path, as its prefix, grants access to it."""

    def __init__(self) -> None:
        self._key = secrets.token_bytes(32)

    def line(self) -> bytes:
        """The key as the server reads it from its standard input, hidden from other processes."""
        return self._key.hex().encode() + b"\n"

    def sealed(self, path: str) -> str:
        """The path, prefixed with its access code."""
        return f"/{self._code(path)}{path}"

    def page(self) -> str:
        """The path of NNI's page, which is read-only."""
        return f"/{self._code(PAGE)}/"

    def _code(self, text: str) -> str:
        return hmac.new(self._key, text.encode(), hashlib.sha256).hexdigest()


class Api:
    """NNI's REST interface on a port of this machine."""

    def __init__(self, key: Key, port: int) -> None:
        self.key, self.port = key, port

    def text(self, method: str, path: str, data: Any = None) -> str:
        """The response; raises ``OSError`` if there is none."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{self.key.sealed(f'/api/v1/nni/{path}')}",
            method=method,
            data=None if data is None else json.dumps(data).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=REQUEST_TIMEOUT_S) as response:
            answer: bytes = response.read(MAX_ANSWER_BYTES + 1)
        if len(answer) > MAX_ANSWER_BYTES:
            raise OSError(f"{path}: the answer is longer than {MAX_ANSWER_BYTES} bytes")
        return answer.decode(errors="replace")

    def json(self, method: str, path: str, data: Any = None) -> Any:
        """The response, parsed; raises ``OSError`` if there is none, ``ValueError`` if it is not JSON."""
        return json.loads(self.text(method, path, data))


class TunerChannel:
    """The tuner's end of NNI's command channel; it never reconnects."""

    def __init__(self, key: Key, port: int) -> None:
        url = f"ws://127.0.0.1:{port}{key.sealed('/tuner')}"
        self._open = ExitStack()
        # no pings: NNI's server sends its own, and its end is detected
        channel = connect(url, max_size=MAX_MESSAGE_BYTES, compression=None, user_agent_header=None, ping_interval=None)
        self._connection = self._open.enter_context(channel)

    def send_trial(self, number: int, parameters: Mapping[str, Any]) -> None:
        """Request a trial; raises ``OSError`` if the channel is lost."""
        trial = {
            "parameter_id": number,
            "parameters": parameters,
            "parameter_source": "algorithm",
            "parameter_index": 0,
        }
        try:
            self._connection.send(json.dumps({"type": "TR", "content": json.dumps(trial)}))
        except WebSocketException as error:
            raise OSError(f"the channel to NNI's server is lost: {error}") from error

    def commands(self) -> Iterator[Command]:
        """NNI's commands until the channel ends; unreadable messages are skipped."""
        try:
            for message in self._connection:
                if (command := _read(message)) is not None:
                    yield command
        except (WebSocketException, OSError):
            return

    def close(self) -> None:
        self._open.close()


def _read(message: str | bytes) -> Command | None:
    try:
        data = json.loads(message)
        content = data.get("content") or "null"
        return str(data["type"]), json.loads(content) if isinstance(content, str) else content
    except (ValueError, KeyError, AttributeError, RecursionError):
        return None


def read_value(text: Any) -> Any:
    """The value of a metric, which NNI encodes as JSON within JSON; None if it cannot be parsed."""
    try:
        return json.loads(text)
    except (ValueError, TypeError, RecursionError):
        return None
