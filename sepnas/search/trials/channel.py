"""What goes between a search and NNI's server: addresses that nobody else can ask for, messages that are plain data.

`guard.js` is the other end. NNI's own reading of a message imports and unpickles what it names, and messages come from
other machines: here they are JSON and nothing else.
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
"""NNI's two letters, and the content."""


class Key:
    """The secret that a search shares with its server: a path is opened by its HMAC, written before it."""

    def __init__(self) -> None:
        self._key = secrets.token_bytes(32)

    def line(self) -> bytes:
        """As the server reads it from its standard input, which no other process sees."""
        return self._key.hex().encode() + b"\n"

    def sealed(self, path: str) -> str:
        """The path with the code that opens it."""
        return f"/{self._code(path)}{path}"

    def page(self) -> str:
        """The path of NNI's page, which shows everything and changes nothing."""
        return f"/{self._code(PAGE)}/"

    def _code(self, text: str) -> str:
        return hmac.new(self._key, text.encode(), hashlib.sha256).hexdigest()


class Api:
    """NNI's REST interface on a port of this machine."""

    def __init__(self, key: Key, port: int) -> None:
        self.key, self.port = key, port

    def text(self, method: str, path: str, data: Any = None) -> str:
        """The answer; OSError when there is none."""
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
        """The answer as data; OSError when there is none, ValueError when it is no JSON."""
        return json.loads(self.text(method, path, data))


class TunerChannel:
    """The tuner's end of NNI's command channel; a lost one is not dialled again."""

    def __init__(self, key: Key, port: int) -> None:
        url = f"ws://127.0.0.1:{port}{key.sealed('/tuner')}"
        self._open = ExitStack()
        # no pings of its own: NNI's server sends some, and its end is seen
        channel = connect(url, max_size=MAX_MESSAGE_BYTES, compression=None, user_agent_header=None, ping_interval=None)
        self._connection = self._open.enter_context(channel)

    def send_trial(self, number: int, parameters: Mapping[str, Any]) -> None:
        """Ask for a trial; OSError when the channel is lost."""
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
        """What NNI says, until the channel ends; what cannot be read is passed over."""
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
    """The value of a metric, which NNI writes as JSON in JSON; None for anything else."""
    try:
        return json.loads(text)
    except (ValueError, TypeError, RecursionError):
        return None
