"""The HTTP server for a worker's metrics: few and short connections, only under this machine's names."""

from __future__ import annotations

import io
import socket
import threading
import time
from collections.abc import Callable, Iterable
from socketserver import TCPServer, ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from sepnas.runtime.transport.served_names import ServedNames

MAX_CONNECTIONS = 16
"""Maximum number of connections, with a thread each; one more closes the oldest."""
MAX_HEAD_BYTES = 16_384
CONNECTION_S = 5.0
"""Maximum duration of a connection, however slowly its client sends and reads."""
_ACCEPT_PAUSE_S = 0.2
_REACHED = "sepnas.reached"
WsgiApp = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


class MetricsServer(ThreadingMixIn, WSGIServer):
    """Answers one request per connection, once :meth:`start` has been called; the constructor raises ``OSError``."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, host: str, port: int, app: WsgiApp, names: ServedNames) -> None:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        self.address_family, address = found[0][0], found[0][4]
        self._due: dict[socket.socket, float] = {}
        self._lock = threading.Lock()
        super().__init__((str(address[0]), port), _Handler)
        self.set_app(_guarded(app, names))

    def start(self) -> None:
        threading.Thread(target=self.serve_forever, name="metrics", daemon=True).start()

    def server_bind(self) -> None:
        """Skip the base class's lookup of the address's name, which may take long."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])
        self.setup_environ()

    def get_request(self) -> tuple[socket.socket, Any]:
        try:
            return super().get_request()
        except OSError:  # no descriptor left: the listener stays readable
            time.sleep(_ACCEPT_PAUSE_S)
            raise

    def verify_request(self, request: Any, client_address: Any) -> bool:
        with self._lock:
            oldest = next(iter(self._due), None)
            if oldest is not None and len(self._due) >= MAX_CONNECTIONS:
                _hang_up(oldest)
            if len(self._due) >= 2 * MAX_CONNECTIONS:  # their threads have not ended yet
                return False
            self._due[request] = time.monotonic() + CONNECTION_S
        return True

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._due.pop(request, None)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """Close connections that are overdue; called twice a second, and after each accepted connection."""
        with self._lock:
            late = [request for request, due in self._due.items() if due < time.monotonic()]
            for request in late:
                _hang_up(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore it: a client that fails is not worth a line."""


def _hang_up(request: socket.socket) -> None:
    """End whatever the connection's thread waits for."""
    try:
        request.shutdown(socket.SHUT_RDWR)
    except OSError:
        return


class _Handler(WSGIRequestHandler):
    def setup(self) -> None:
        super().setup()
        self.rfile = io.BytesIO(self._head())

    def _head(self) -> bytes:
        """The request up to its empty line; empty if that does not come within :data:`MAX_HEAD_BYTES`."""
        head = b""
        while b"\r\n\r\n" not in head and b"\n\n" not in head:
            found = self.connection.recv(MAX_HEAD_BYTES)
            head += found
            if not found or len(head) > MAX_HEAD_BYTES:
                return b""
        return head

    def get_environ(self) -> dict[str, Any]:
        return {**super().get_environ(), _REACHED: self.connection.getsockname()[0]}

    def get_stderr(self) -> Any:
        return io.StringIO()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Write nothing: each scrape would be a line."""


def _guarded(app: WsgiApp, names: ServedNames) -> WsgiApp:
    def answer(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        headers = {name[5:].lower().replace("_", "-"): text for name, text in environ.items() if name[:5] == "HTTP_"}
        refusal = names.refusal(environ["REQUEST_METHOD"], headers, environ[_REACHED])
        if refusal is None:
            return app(environ, start_response)
        reason = {403: "Forbidden", 421: "Misdirected Request"}[refusal.status]
        start_response(f"{refusal.status} {reason}", [("Content-Type", "text/plain; charset=utf-8")])
        return [f"{refusal.message}\n".encode()]

    return answer
