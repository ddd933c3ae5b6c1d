"""The commands of the README and of docs/: they exist, and those of the README work, in its order."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.main import get_command

import sepnas
from sepnas.cli.main import app
from sepnas.deployment.manifest import Manifest
from sepnas.spec.hosts import Hosts
from tests.helpers_runtime import free_ports
from tests.limits import PROCESS_S

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")] + sorted(ROOT.glob("docs/**/*.md"))
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"`([^`]+)`")
TIMEOUT_S = 1800


def blocks(text: str, language: str = "") -> list[str]:
    """The fenced blocks of a page: shell commands have no language."""
    return [body for found, body in _BLOCK.findall(text) if found == language]


def commands_in(block: str) -> list[list[str]]:
    """The words of each command of a block, without comments."""
    lines = block.replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def spans(page: Path) -> Iterator[str]:
    """What stands between backticks in running text, on one line."""
    for span in _SPAN.findall(_BLOCK.sub("", page.read_text())):
        yield " ".join(span.split())


def sepnas_commands(page: Path) -> Iterator[list[str]]:
    """The words after `sepnas` (or `python -m sepnas`) of each command that a page names."""
    whole = chain.from_iterable(commands_in(block) for block in blocks(page.read_text()))
    for words in chain(whole, (shlex.split(span) for span in spans(page) if re.search(r"(^| )sepnas [a-z-]", span))):
        if "sepnas" in words:
            yield words[words.index("sepnas") + 1 :]


COMMANDS = sorted({tuple(words) for page in PAGES for words in sepnas_commands(page)})


def parse(words: list[str]) -> None:
    """Let the real command line read the words; a fragment may lack arguments, and its last option a value."""
    command = get_command(app)
    while words and words[0] in getattr(command, "commands", {}):
        command, words = command.commands[words[0]], words[1:]  # type: ignore[attr-defined]
    if words in (["..."], []) or words == ["--version"]:
        return
    assert not hasattr(command, "commands") or not words or words[0].startswith("-"), f"no verb {words[0]!r}"
    try:
        command.make_context(command.name, [word for word in words if word != "..."])
    except Exception as error:  # Typer keeps its own copies of click's errors
        lacks_value = type(error).__name__ == "BadOptionUsage" and getattr(error, "option_name", "") == words[-1]
        if type(error).__name__ != "MissingParameter" and not lacks_value:
            raise


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_commands_of_the_pages_are_understood(words: tuple[str, ...]) -> None:
    """The real command line knows the verb, the options and their values."""
    parse(list(words))


def test_an_option_that_is_not_there_would_be_noticed() -> None:
    """The check above refuses unknown verbs and options."""
    with pytest.raises(AssertionError, match="no verb"):
        parse(["infr", "deployment"])
    with pytest.raises(Exception, match="No such option"):
        parse(["infer", "--deadlines", "1"])


def _options(command: Any) -> Iterator[str]:
    for each in command.params:
        yield from (*getattr(each, "opts", ()), *getattr(each, "secondary_opts", ()))
    for below in getattr(command, "commands", {}).values():
        yield from _options(below)


OTHER_PROGRAMS = {"--no-deps", "--index-url", "--nproc-per-node", "--data-binary", "--logdir"}
"""Options of pip, torchrun, curl and TensorBoard."""


def test_options_that_are_named_alone_exist() -> None:
    """Every `--option` in running text is one of a verb."""
    known = set(_options(get_command(app))) | {"--help"} | OTHER_PROGRAMS
    named = {word for page in PAGES for span in spans(page) for word in re.findall(r"(?<!\S)--[a-z][a-z0-9-]*", span)}
    assert named
    assert named - known == set()


# --- the README, run ---

EDITS = (
    # as the README says: the digits, their space, three devices and no bounds take minutes
    ("raspberry-pi-4b:4", "raspberry-pi-4b:3"),
    ("search_spaces/cifar-small.yaml", "search_spaces/demo.yaml"),
    ("--data cifar100 --download", "--data digits"),
    ("--data cifar100", "--data digits"),
    (" --max-bytes 50KB", ""),
    (" --max-latency 20ms", ""),
    ("--devices-count 4", "--devices-count 3"),
)
MORE = {
    # what makes it minutes on a small machine
    "search": "--candidates 30 --epochs 2",
    "train": "--epochs 2",
    "profile device": "--seconds 20",
    "export": "--hosts hosts.yaml",
    "status": "--json",
}
WITHOUT = {"status": {"--watch"}}
BLOCKS = {
    "make demo": "run by tests/local/test_demo.py and by every run of the tests",
    "sepnas cluster": "run",
    ". .venv/bin/activate": "run",
    "sepnas worker deployment/device1": "run",
    "sepnas train architecture.json --wire fp32": "run",
    "sepnas train resnet50": "run, with a smaller network, by tests/cli/test_tuning_command.py",
    "sepnas separate runs/tuned": "run, with a smaller network, by tests/cli/test_tuning_command.py",
    "sepnas explore runs/tuned": "run, with a smaller network, by tests/cli/test_explore_command.py",
    "sepnas profile device": "run",
    "sepnas export runs/training deployment --plan": "run by tests/cli/test_several_plans.py",
    "make setup": "run by every run of the tests",
}
"""What each shell block of the README begins with, and where it is run."""


def block_that_begins(start: str) -> str:
    [found] = [block for block in blocks(README) if block.startswith(start)]
    return found


def test_every_block_of_the_readme_is_run() -> None:
    """Each shell block of the README is known here, with where it is run."""
    unknown = [block for block in blocks(README) if not any(block.startswith(start) for start in BLOCKS)]
    assert unknown == []
    assert all(block_that_begins(start) for start in BLOCKS)


def small(line: str) -> str:
    """A command of the README at the size of this test."""
    for old, new in EDITS:
        line = line.replace(old, new)
    words = shlex.split(line, comments=True)
    verb = " ".join(words[1:3]) if words[1] == "profile" else words[1]
    kept = [word for word in words if word not in WITHOUT.get(verb, ())]
    more = [] if verb == "train" and "--epochs" in kept else shlex.split(MORE.get(verb, ""))
    return shlex.join([*kept, *more])


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., str]:
    """Runs a command in the test's folder, in a shell where `sepnas` is this one; gives what it wrote on stdout."""
    program = tmp_path / "bin/sepnas"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m sepnas "$@"\n')
    program.chmod(0o755)
    shutil.copytree(ROOT / "search_spaces", tmp_path / "search_spaces")
    path = f"{program.parent}:{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}

    def run_one(line: str, **kept: Any) -> Any:
        if kept.get("background"):
            return subprocess.Popen(
                f"exec {line}", shell=True, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True
            )
        done = subprocess.run(
            line, shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S
        )
        # on a machine whose speed changes meanwhile the honest end of a calibration is that it helps nothing
        refused = " calibrate " in line and "the correction predicts worse" in done.stderr
        assert done.returncode == (1 if refused else 0), f"{line}\n{done.stdout}{done.stderr}"
        return done.stdout

    return run_one


@contextmanager
def running(run: Callable[..., Any], lines: list[str], ready: str) -> Iterator[list[str]]:
    """The commands at work, after each has said that it is ready; gives what they said."""
    processes = []
    try:
        for line in lines:
            processes.append(run(line, background=True))
        said = [process.stdout.readline() for process in processes]
        assert all(ready in each for each in said), said
        yield said
    finally:
        for process in processes:
            process.send_signal(signal.SIGTERM)
        for process in processes:
            process.wait(60)
            process.stdout.close()


def worker_lines(template: str, deployment: str, hosts: Hosts) -> list[str]:
    """The README's command of device 1, for each device, at its own address."""
    words = shlex.split(template, comments=True)
    lines = []
    for rank in range(len(hosts.devices)):
        own = [f"{deployment}/device{rank}" if word.endswith("/device1") else word for word in words]
        own[own.index("--listen") + 1] = hosts.address(rank)
        lines.append(shlex.join(own))
    return lines


def joined(block: str) -> list[str]:
    return [line for line in block.replace("\\\n", " ").splitlines() if line.startswith("sepnas")]


def run_python(block: str, folder: Path) -> None:
    """The README's Python, with the images of the deployment."""
    images = np.zeros((2, *Manifest.load(folder / "deployment/manifest.json").image.dims), np.uint8)
    seen: list[Any] = []
    told = block.replace('"deployment"', repr(str(folder / "deployment"))).replace(
        '"hosts.yaml"', repr(str(folder / "hosts.yaml"))
    )
    exec(told.replace("...", "seen.append(found)"), {"sepnas": sepnas, "images": images, "seen": seen})
    assert len(seen) == 2


def ask_over_http(address: str, image: Path) -> str:
    request = urllib.request.Request(f"{address}/classify", image.read_bytes(), {"Content-Type": "image/png"})
    deadline = time.monotonic() + PROCESS_S
    while True:
        try:
            with urllib.request.urlopen(request, timeout=PROCESS_S) as answer:
                return answer.read().decode()
        except urllib.error.HTTPError as error:  # it starts before its devices, and a busy machine answers late
            if error.code not in (503, 504) or time.monotonic() > deadline:
                raise
            time.sleep(0.5)


@pytest.mark.slow
@pytest.mark.timeout(TIMEOUT_S)
def test_a_network_of_a_library_is_split_as_the_readme_says(run: Callable[..., str], tmp_path: Path) -> None:
    """From a network of a library to the classes that its split gives, in the README's words, with a small network."""
    for label in ("0", "217"):
        folder = tmp_path / "imagenette/val" / label
        folder.mkdir(parents=True)
        pixels = np.random.default_rng(int(label)).integers(0, 256, (96, 80, 3), np.uint8)
        Image.fromarray(pixels).save(folder / "image.png")
    for line in joined(block_that_begins("sepnas cluster")):
        found = run(line.replace("torchvision:resnet50 --weights pretrained", "timm:test_resnet"))
    assert "2 of 2 images get the same class" in found


@pytest.mark.slow
@pytest.mark.timeout(TIMEOUT_S)
def test_the_readmes_commands_work(run: Callable[..., str], tmp_path: Path) -> None:
    """From a data set to the answers of devices and a calibrated prediction, in the README's order and words."""
    hosts = Hosts.on([f"127.0.0.1:{port}" for port in free_ports(3)])
    hosts.save(tmp_path / "hosts.yaml")
    for line in joined(block_that_begins(". .venv/bin/activate")):
        run(small(line))
    worker, infer, status, serve = joined(block_that_begins("sepnas worker deployment/device1"))
    taken = Manifest.load(tmp_path / "deployment/manifest.json").image
    Image.fromarray(np.zeros((taken.height, taken.width), np.uint8)).save(tmp_path / "image.png")
    profile, probe, links, bench, *last = joined(block_that_begins("sepnas profile device"))
    with running(run, worker_lines(worker, "deployment", hosts), "listens on"):
        assert "image.png" in run(small(infer))
        assert "onnxruntime" in run(small(status))
        [python] = blocks(README, "python")
        run_python(python, tmp_path)
        [port] = free_ports(1)
        with running(run, [f"{shlex.join(shlex.split(serve, comments=True))} --listen 127.0.0.1:{port}"], "http"):
            assert "classes" in ask_over_http(f"http://127.0.0.1:{port}", tmp_path / "image.png")
    run(small(profile))
    run(small(probe))
    with running(run, worker_lines(worker, "probe", hosts), "listens on"):
        run(small(links))
    with running(run, worker_lines(worker, "deployment", hosts), "listens on"):
        run(small(bench))
    for line in last:
        run(small(line))
    shutil.rmtree(tmp_path / "runs/training")
    for line in joined(block_that_begins("sepnas train architecture.json --wire fp32")):
        run(small(line))
