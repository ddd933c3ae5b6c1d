"""Nobody but the search and its trials gets anything from NNI's server."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sepnas.search.nni_import import nni
from sepnas.search.trials.manager import NniManager
from tests.search.test_trials import MODELS, engine_of, processes_of

NOBODY = 65534
STRANGER = """
import json, os, socket, sys
port, requests, user = json.load(sys.stdin)
"x".encode("idna"), "x".encode("latin1")  # loaded while this user may read the interpreter's files
if user is not None:
    os.setgroups([]), os.setgid(user), os.setuid(user)
answers = []
for request in requests:
    with socket.create_connection(("127.0.0.1", port), timeout=300) as stream:
        stream.sendall(request.encode("latin1"))
        answer = b""
        while more := stream.recv(65536):
            answer += more
        answers.append(answer.decode("latin1"))
print(json.dumps(answers))
"""
TRIAL = {"hyperParameters": {"value": "{}", "index": 0}}


def request(
    method: str, path: str, host: str = "127.0.0.1", data: Any = None, upgrade: bool = False, origin: str | None = None
) -> str:
    body = "" if data is None else json.dumps(data)
    heads = [f"{method} {path} HTTP/1.1", f"Host: {host}", "Content-Type: application/json"]
    heads += [f"Content-Length: {len(body)}"] if body else []
    heads += [f"Origin: {origin}"] if origin else []
    heads += (
        ["Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", f"Sec-WebSocket-Key: {'A' * 22}=="]
        if upgrade
        else ["Connection: close"]
    )
    return "\r\n".join(heads) + "\r\n\r\n" + body


def traversals(target: Path) -> list[str]:
    """Paths by which NNI's server gave this file away, and ways to write them otherwise."""
    up = "../" * 30 + str(target).lstrip("/")
    forms = [
        up,
        up.replace("/", "%2f"),
        up.replace("/", "%2F").replace(".", "%2e"),
        up.replace("/", "%252f"),
        up.replace("/", "%5c"),
        up.replace("/", "\\"),
        "stderr%00" + up,
    ]
    return [f"{place}/{form}" for place in ("/api/v1/nni/trial-file/x", "/logs", "") for form in forms]


def changes() -> list[str]:
    """Requests that would end or add trials, or the whole experiment."""
    api = "/api/v1/nni"
    return [
        request("POST", f"{api}/trial-jobs", data=TRIAL),
        request("DELETE", f"{api}/trial-jobs/x"),
        request("DELETE", f"{api}/experiment"),
        request("PUT", f"{api}/experiment", data={}),
        request("POST", f"{api}/tensorboard", data={"trials": "x"}),
        *(request("GET", path, upgrade=True) for path in ("/tuner", "/env/x/y", "/platform/remote/1", "/")),
        *(
            request("GET", path)
            for path in ("/tuner/.websocket", "/netron/", f"{api}/check-status", "/", "/index.html")
        ),
        *(request("PUT", path, data={"type": "metric"}) for path in ("/env/local-env/x", "/env/local/x")),
    ]


def ask(port: int, requests: list[str], user: int | None = None) -> list[str]:
    """The answers to raw requests; as another user of the machine, where this one may become one."""
    done = subprocess.run(
        [sys.executable, "-I", "-c", STRANGER],
        input=json.dumps([port, requests, user if os.geteuid() == 0 else None]),
        capture_output=True,
        text=True,
        check=True,
    )
    answers: list[str] = json.loads(done.stdout)
    return answers


def refused(answer: str) -> bool:
    head, _, body = answer.partition("\r\n\r\n")
    return head.startswith("HTTP/1.1 40") and body == ""


def look_at_trials(
    tmp_path: Path, look: Callable[[NniManager], Any], says: str = "pass", **settings: Any
) -> tuple[Any, list[int]]:
    """What ``look`` finds while a trial waits for it, and the labels that are evaluated in the end."""
    found: list[Any] = []
    waits = f"while not os.path.exists({str(tmp_path / 'looked')!r}): time.sleep(0.05)"
    with engine_of(tmp_path, after=f"{says}\n    {waits}", **settings) as (engine, told):

        def on_metric(event: Any) -> None:
            if not found:
                assert engine.manager is not None
                try:
                    found.append(look(engine.manager))
                finally:
                    (tmp_path / "looked").touch()

        engine.register_model_event_callback("final_metric", on_metric)
        engine.submit_models(*MODELS)
    return found[0], sorted(model.sample["label"] for model, _ in told)  # the order in which trials end is their own


@pytest.fixture(scope="module")
def looked(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What is found beside one running search, whose trial also reports a metric that names a function."""
    tmp_path = tmp_path_factory.mktemp("guard")
    secret, trials, called = tmp_path / "secret", tmp_path / "trials", tmp_path / "called"
    secret.write_text("the owner's own")
    named = {"__symbol__": "path:os.mkdir", "__args__": [str(called)], "__kwargs__": {}}
    nni.load(json.dumps(named))
    assert called.is_dir(), "NNI calls nothing by now: this trap is gone"
    called.rmdir()

    def look(manager: NniManager) -> dict[str, Any]:
        def of(path: str) -> str:
            return manager.page[:-1] + path

        blind = [request("GET", path) for path in traversals(secret)] + changes()
        guessed = [line.replace(" /", f" /{'0' * 64}/", 1) for line in blind]
        linked = [line.replace(" /", f" {of('/')}", 1) for line in blind if "check-status" not in line]
        linked = [line for line in linked if line.split()[1] not in (of("/"), of("/index.html"))]
        sites = [
            request("GET", of("/"), host="evil.example"),
            request("GET", of("/"), host="evil.example:1", origin="http://evil.example:1"),
            request("GET", of("/"), origin="http://evil.example"),
            request("GET", of("/"), origin="null"),
        ]
        index = ask(manager.port, [request("GET", of("/"))])[0]
        script = re.search(r'src="\.(/static/js/[^"]+)"', index)
        page = [
            of(script[1] if script else "/none"),
            of("/api/v1/nni/check-status"),
            of("/api/v1/nni/trial-jobs?status=RUNNING"),
        ]
        return {
            "blind": ask(manager.port, blind + guessed, NOBODY),
            "linked": ask(manager.port, linked + sites, NOBODY),
            "page": [index, *ask(manager.port, [request("GET", path) for path in page])],
            "lines": list(processes_of(os.getpid()).values()),
            "modes": {stat.S_IMODE(path.stat().st_mode) for path in (trials, *trials.glob("nni-*"))},
        }

    says = f"nni.report_intermediate_result({{'genotype': genotype, 'seconds': {named}}})"
    found, labels = look_at_trials(tmp_path, look, says)
    return found | {"labels": labels, "called": called.exists()}


def test_another_user_gets_nothing(looked: dict[str, Any]) -> None:
    """Another user of the machine, who knows the port, reads no file, ends no trial and adds none.

    With the link to the page they, or anyone who was lured, read no other file either, and can change nothing; the page
    opens for nobody who comes by another site's name. No secret stands in a command line or in a folder for all.
    """
    found = looked
    assert [answer for answer in found["blind"] + found["linked"] if not refused(answer)] == []
    assert len(found["blind"]) > 70
    index, script, status, jobs = (answer.partition("\r\n\r\n")[2] for answer in found["page"])
    assert "Neural Network Intelligence" in index
    assert len(script) > 10**6
    assert json.loads(status)["status"] == "RUNNING"
    assert len(json.loads(jobs)) == 1
    assert found["labels"] == [0, 1, 2, 3]
    assert found["modes"] == {0o700}
    assert found["lines"]
    assert not [line for line in found["lines"] if any(len(word) >= 64 for word in line.replace("/", " ").split())]


def test_what_a_trial_says_is_data(looked: dict[str, Any]) -> None:
    """A metric that names a function, which NNI's own reading would call, calls nothing here and is no answer."""
    assert looked["labels"] == [0, 1, 2, 3]
    assert not looked["called"]
