"""NNI's manager (a node process) with its training service, as a child of this process.

``nni.experiment.Experiment`` starts it too, but waits only 3 s, writes to the home folder, starts an unneeded tuner,
and leaves everything running if this process is killed. Here this process is the tuner.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import queue
import re
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sepnas.errors import SearchError
from sepnas.search.nni_import import nni_node
from sepnas.search.trials import spare_loopback_of_proxies
from sepnas.search.trials.channel import Api, Key, TunerChannel, read_value

PRELOAD = Path(__file__).with_name("preload.js")
START_TIMEOUT_S = 300.0
STOP_TIMEOUT_S = 20.0
SHOWN_LINES = 15


@dataclass(frozen=True)
class TrialMetric:
    """A trial's report, to be matched by its content."""

    metric: Mapping[str, Any]


@dataclass(frozen=True)
class Ended:
    """A trial has ended, with or without success."""

    number: int


@dataclass(frozen=True)
class Over:
    """The manager has ended; no more events follow."""


Event = TrialMetric | Ended | Over


class NniManager:
    """A running manager: submit trials, read their ``events``, stop it.

    ``service`` is the training service's part of NNI's configuration; ``machines`` holds the facts about machines for
    remote.js. Raises :class:`SearchError` if the manager does not start.

    Only this object and its trials can access the server; ``page`` is the path of NNI's page.
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
        self.folder, self.port, self.machines = folder, web_port, machines
        self._key = Key()
        self.page = self._key.page()
        self.experiment = f"sepnas-{secrets.token_hex(4)}"  # names the folders on remote machines
        self.events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self.complaint = ""
        self.said: list[str] = []
        self._output, self._port_file = folder / "manager.txt", folder / "port"
        spare_loopback_of_proxies()
        self._submitted = 0
        self._stopping = False
        self._process = self._launch(web_host)
        try:
            self._api = self._await_server()
            # Connecting before the experiment starts avoids NNI's 10 s timeout for tuners.
            self._channel = TunerChannel(self._key, self.port)
            self._begin(service, concurrency)
        except BaseException as error:
            self.stop()
            if not isinstance(error, Exception) or isinstance(error, SearchError):
                raise
            raise SearchError(f"NNI's server on port {self.port} does not answer: {error}") from error

    def submit(self, parameters: Mapping[str, Any]) -> int:
        """Queue a trial; returns the number that its ``Ended`` event will carry."""
        number, self._submitted = self._submitted, self._submitted + 1
        try:
            self._channel.send_trial(number, parameters)
        except OSError:
            self.events.put(Over())
        return number

    def is_sound(self) -> bool:
        """Whether the manager runs without an error; after an error it keeps serving pages."""
        if self._process.poll() is not None:
            return False
        try:
            status = self._api.json("GET", "check-status")
        except (OSError, ValueError):
            return False
        if status["status"] == "ERROR":
            self.complaint = "; ".join(map(str, status["errors"]))
        return status["status"] not in ("ERROR", "STOPPING", "STOPPED")

    def stop(self) -> None:
        """End the manager and its trials, by process id; kill them after a timeout."""
        self._stopping = True
        self._process.terminate()
        try:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_TIMEOUT_S)
        finally:
            if self._process.poll() is None:
                os.killpg(self._process.pid, signal.SIGKILL)  # the process has a group of its own
                self._process.wait()
            assert self._process.stdin is not None
            self._process.stdin.close()

    def news(self) -> list[str]:
        """New messages about machines since the last call."""
        lines = self._output.read_text(errors="replace").splitlines()
        known, self.said = len(self.said), [line[8:] for line in lines if line.startswith("sepnas: ")]
        return self.said[known:]

    def log(self) -> str:
        """The last few errors in NNI's log."""
        written = self.folder / self.experiment / "log" / "nnimanager.log"
        lines = written.read_text(errors="replace").splitlines() if written.exists() else []
        return "\n".join([line for line in lines if "ERROR" in line][-SHOWN_LINES:])

    def _launch(self, web_host: str) -> subprocess.Popen[bytes]:
        manifest = self.folder / "nni-experiments" / ".experiment"
        manifest.parent.mkdir(parents=True, exist_ok=True)
        manifest.write_text(json.dumps({self.experiment: {}}))
        home = Path(nni_node.__path__[0])
        arguments = {
            "port": self.port,  # 0: the system chooses; the port is written to a file
            "experiment-id": self.experiment,
            "action": "create",
            "experiments-directory": self.folder,
            "log-level": "info",
            "python-interpreter": sys.executable,
            "tuner-command-channel": "ours",  # replaced by preload.js
        }
        environment = {
            **os.environ,
            "NODE_OPTIONS": f'--require "{PRELOAD}"',
            "SEPNAS_LIFELINE": str(os.getpid()),
            "SEPNAS_NNI_HOME": str(self.folder),
            "SEPNAS_PORT_FILE": str(self._port_file),
            "SEPNAS_WEB_HOST": web_host,
        }
        if self.machines is not None:
            remote = {"id": self.experiment, "machines": self.machines}
            environment["SEPNAS_REMOTE"] = json.dumps(remote)
        command = [str(home / "node"), str(home / "main.js")]
        command += [f"--{name}={value}" for name, value in arguments.items()]
        with self._output.open("ab") as output:
            process = subprocess.Popen(
                command,
                cwd=home,
                env=environment,
                stdin=subprocess.PIPE,  # carries the key, and is the lifeline of preload.js
                stdout=output,
                stderr=output,
                start_new_session=True,  # Ctrl-C must reach only this process
            )
        assert process.stdin is not None
        with contextlib.suppress(OSError):  # the process has ended; this is detected later
            process.stdin.write(self._key.line())
            process.stdin.flush()
        return process

    def _await_server(self) -> Api:
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            if self._process.poll() is not None:
                raise SearchError(f"NNI's server ended as it started: {self._last_words()}")
            if (api := self._ready()) is not None:
                return api
            if time.monotonic() > deadline:
                raise SearchError(f"NNI's server did not start within {START_TIMEOUT_S:.0f} s: {self.log()}")
            time.sleep(0.1)

    def _ready(self) -> Api | None:
        try:
            self.port = int(self._port_file.read_text())
            api = Api(self._key, self.port)
            return api if api.json("GET", "check-status")["status"] == "INITIALIZED" else None
        except (OSError, ValueError, TypeError):
            return None  # not yet

    def _last_words(self) -> str:
        text = self._output.read_text(errors="replace")
        found = re.search(r"listen (E[A-Z]+)", text + self.log())
        problem = os.strerror(getattr(errno, found[1], 0)) if found else ""
        return f"port {self.port} cannot be used for NNI's page: {problem}" if found else text

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
        self._api.text("POST", "experiment", experiment)

    def _listen(self) -> None:
        for kind, content in self._channel.commands():
            with contextlib.suppress(KeyError, TypeError, AttributeError):  # malformed message from another machine
                if kind == "ME":
                    self._on_metric(content)
                elif kind == "EN":
                    self._on_end(content)
        self._channel.close()
        self.events.put(Over())

    def _on_metric(self, content: Mapping[str, Any]) -> None:
        value = read_value(content["value"])
        if isinstance(value, dict):
            self.events.put(TrialMetric(value))

    def _on_end(self, content: Mapping[str, Any]) -> None:
        number = int(read_value(content["hyper_params"])["parameter_id"])
        if content["event"] == "FAILED" and not self._stopping:
            with contextlib.suppress(OSError):
                lines = self._api.text("GET", f"trial-file/{content['trial_job_id']}/stderr").splitlines()
                self.complaint = "\n".join(lines[-SHOWN_LINES:])
        self.events.put(Ended(number))
