"""NNI's manager (a node process) with its training service, as a child of this process.

``nni.experiment.Experiment`` would start it too, but waits 3 s for it, writes to the home folder, starts a tuner that
nobody needs, and leaves everything running when this process is killed. Here this process is the tuner.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sepnas.errors import SearchError
from sepnas.search.nni_import import TunerCommandChannel, nni_node
from sepnas.search.trials import spare_loopback_of_proxies

PRELOAD = Path(__file__).with_name("preload.js")
START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 20.0
SHOWN_LINES = 15


@dataclass(frozen=True)
class Answer:
    """What a trial reported; to be paired by what it says of itself."""

    metric: Mapping[str, Any]


@dataclass(frozen=True)
class Ended:
    """A trial is over, whether it succeeded or not."""

    number: int


@dataclass(frozen=True)
class Over:
    """The manager is over: nothing more will come."""


Event = Answer | Ended | Over


class NniManager:
    """A running manager: submit trials, hear of them in ``events``, stop it.

    ``service`` is the training service's part of NNI's configuration; ``machines`` is what remote.js must
    know of its machines. Raises :class:`SearchError` when it does not start.
    """

    def __init__(
        self,
        folder: Path,
        service: Mapping[str, Any],
        concurrency: int,
        web_host: str = "127.0.0.1",
        web_port: int = 0,
        machines: Mapping[str, Any] | None = None,
    ) -> None:
        self.folder, self.port, self.machines = folder, _free_port(web_port), machines
        self.experiment = f"sepnas-{secrets.token_hex(4)}"  # a machine's folders are named after it
        self.events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self.complaint = ""
        self.said: list[str] = []
        self._output = folder / "manager.txt"
        spare_loopback_of_proxies()
        self._submitted = 0
        self._stopping = False
        self._process = self._launch(web_host)
        try:
            self._await_server()
            # Connected before the experiment begins, NNI's ten seconds of patience with a tuner never run out.
            self._channel = TunerCommandChannel(f"ws://127.0.0.1:{self.port}/tuner")
            self._channel.connect()
            self._begin(service, concurrency)
        except BaseException as error:
            self.stop()
            if not isinstance(error, Exception) or isinstance(error, SearchError):
                raise
            raise SearchError(f"NNI's server on port {self.port} does not answer: {error}") from error

    def submit(self, parameters: Mapping[str, Any]) -> int:
        """Start a trial (when one of those before it makes room); the number that its end will be told with."""
        number, self._submitted = self._submitted, self._submitted + 1
        try:
            self._channel.send_trial(number, parameters)
        except Exception:  # whatever the channel makes of a lost connection
            self.events.put(Over())
        return number

    def is_sound(self) -> bool:
        """Whether it runs without an error; after one it would go on serving pages."""
        if self._process.poll() is not None:
            return False
        try:
            status = self._request("GET", "check-status")
        except OSError:
            return False
        if status["status"] == "ERROR":
            self.complaint = "; ".join(map(str, status["errors"]))
        return status["status"] not in ("ERROR", "STOPPING", "STOPPED")

    def stop(self) -> None:
        """End it and its trials, by id; by force when it takes too long."""
        self._stopping = True
        self._process.terminate()
        try:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_TIMEOUT_S)
        finally:
            if self._process.poll() is None:
                os.killpg(self._process.pid, signal.SIGKILL)  # the group was made for this process
                self._process.wait()
            assert self._process.stdin is not None
            self._process.stdin.close()

    def news(self) -> list[str]:
        """What there is to say of machines since it was last asked."""
        lines = self._output.read_text(errors="replace").splitlines()
        known, self.said = len(self.said), [line[8:] for line in lines if line.startswith("sepnas: ")]
        return self.said[known:]

    def log(self) -> str:
        """The errors that NNI wrote down, at most a few lines."""
        written = self.folder / self.experiment / "log" / "nnimanager.log"
        lines = written.read_text(errors="replace").splitlines() if written.exists() else []
        return "\n".join([line for line in lines if "ERROR" in line][-SHOWN_LINES:])

    def _launch(self, web_host: str) -> subprocess.Popen[bytes]:
        manifest = self.folder / "nni-experiments" / ".experiment"
        manifest.parent.mkdir(parents=True, exist_ok=True)
        manifest.write_text(json.dumps({self.experiment: {}}))
        home = Path(nni_node.__path__[0])
        arguments = {
            "port": self.port,
            "experiment-id": self.experiment,
            "action": "create",
            "experiments-directory": self.folder,
            "log-level": "info",
            "python-interpreter": sys.executable,
            "tuner-command-channel": f"ws://localhost:{self.port}/tuner",
        }
        environment = {
            **os.environ,
            "NODE_OPTIONS": f'--require "{PRELOAD}"',
            "SEPNAS_LIFELINE": str(os.getpid()),
            "SEPNAS_NNI_HOME": str(self.folder),
            "SEPNAS_WEB_HOST": web_host,
        }
        if self.machines is not None:
            remote = {"port": self.port, "id": self.experiment, "machines": self.machines}
            environment["SEPNAS_REMOTE"] = json.dumps(remote)
        command = [str(home / "node"), str(home / "main.js")]
        command += [f"--{name}={value}" for name, value in arguments.items()]
        with self._output.open("ab") as output:
            return subprocess.Popen(
                command,
                cwd=home,
                env=environment,
                stdin=subprocess.PIPE,  # the lifeline of preload.js
                stdout=output,
                stderr=output,
                start_new_session=True,  # Ctrl-C is for us alone
            )

    def _await_server(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            if self._process.poll() is not None:
                raise SearchError(f"NNI's server ended as it started: {self._output.read_text(errors='replace')}")
            try:
                if self._request("GET", "check-status")["status"] == "INITIALIZED":
                    return
            except (OSError, ValueError):
                pass  # not yet
            if time.monotonic() > deadline:
                raise SearchError(f"NNI's server did not start within {START_TIMEOUT_S:.0f} s: {self.log()}")
            time.sleep(0.1)

    def _begin(self, service: Mapping[str, Any], concurrency: int) -> None:
        threading.Thread(target=self._listen, daemon=True).start()
        experiment = {
            "experimentName": "sepnas search",
            "searchSpace": {},
            "trialCommand": service["trialCommand"],
            "trialCodeDirectory": service["trialCodeDirectory"],
            "trialConcurrency": concurrency,
            "trainingService": service,
        }
        self._request("POST", "experiment", experiment)

    def _listen(self) -> None:
        self._channel.on_report_metric_data(self._on_metric)
        self._channel.on_trial_end(self._on_end)
        with contextlib.suppress(Exception):  # the connection is lost: then nothing more comes
            self._channel.listen(threading.Event())
        self.events.put(Over())

    def _on_metric(self, command: Any) -> None:
        if isinstance(command.value, dict):
            self.events.put(Answer(command.value))

    def _on_end(self, command: Any) -> None:
        if command.event == "FAILED" and not self._stopping:
            with contextlib.suppress(OSError, ValueError):
                lines = self._request("GET", f"trial-file/{command.trial_job_id}/stderr", raw=True).splitlines()
                self.complaint = "\n".join(lines[-SHOWN_LINES:])
        self.events.put(Ended(command.parameter_ids[0]))

    def _request(self, method: str, path: str, data: Any = None, raw: bool = False) -> Any:
        """A call of NNI's REST interface; OSError when it fails."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/api/v1/nni/{path}",
            method=method,
            data=None if data is None else json.dumps(data).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=30) as response:
            text = response.read().decode(errors="replace")
        return text if raw else json.loads(text)


def _free_port(wanted: int) -> int:
    """The wanted port of 127.0.0.1, or any for 0; :class:`SearchError` when it is taken."""
    try:
        with socket.create_server(("127.0.0.1", wanted)) as server:
            port: int = server.getsockname()[1]
    except OSError as error:
        raise SearchError(f"port {wanted} cannot be used for NNI's page: {error.strerror or error}") from error
    return port
