"""Engines of the search: all give the same result; NNI's known faults are avoided."""

from __future__ import annotations

import os
import resource
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sepnas.errors import SearchError, StorageError
from sepnas.search import load_candidates
from sepnas.search.archive import SearchWarning
from sepnas.search.progress import SearchProgress
from sepnas.search.run import SearchResult
from sepnas.search.trials.engine import TrialsEngine
from sepnas.search.trials.settings import Trials, trials_engine
from tests.helpers_runtime import eventually
from tests.limits import PROCESS_S
from tests.search.test_search import ROOT, search, told, wait_for_lines

CANDIDATES = 12
SETTINGS: dict[str, Any] = {"candidates": CANDIDATES, "batch": 6}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> SearchResult:
    """A search of this process."""
    return search(tmp_path_factory.mktemp("search") / "run", **SETTINGS)


def processes_of(parent: int) -> dict[int, str]:
    """What runs because process ``parent`` started a manager: node and trials, by id."""
    return processes_with(f"SEPNAS_LIFELINE={parent}")


def processes_with(setting: str) -> dict[int, str]:
    """The command lines of all processes that have this ``NAME=value`` in their environment, by id."""
    mark = setting.encode()
    found = {}
    for place in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (place / "environ").read_bytes().split(b"\0"):
                found[int(place.name)] = (place / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue  # it ended meanwhile
    return {pid: line for pid, line in found.items() if line}


def trials_of(parent: int) -> list[int]:
    return [pid for pid, line in processes_of(parent).items() if "sepnas.search.trials.trial" in line]


def sockets_of(pid: int) -> Iterator[str]:
    """The inodes of a process's sockets; it may close some, or end, meanwhile."""
    with suppress(FileNotFoundError, ProcessLookupError):
        for link in list(Path(f"/proc/{pid}/fd").iterdir()):
            with suppress(FileNotFoundError):
                target = str(link.readlink())
                if target.startswith("socket:["):
                    yield target[8:-1]


def listening(pids: set[int]) -> set[str]:
    """The addresses, as Linux writes them, on which these processes listen."""
    inodes = {inode for pid in pids for inode in sockets_of(pid)}
    rows = [row.split() for kind in ("tcp", "tcp6") for row in Path(f"/proc/net/{kind}").read_text().splitlines()[1:]]
    return {row[1].split(":")[0] for row in rows if row[3] == "0A" and row[9] in inodes}


def same(run_dir: Path, finished: SearchResult) -> bool:
    return told(load_candidates(run_dir)) == told(load_candidates(finished.run_dir))


class Spy:
    """A progress callback that looks around, or does something, at one candidate."""

    def __init__(self, at: int, do: Callable[[], Any]) -> None:
        self.at, self.do, self.found = at, do, None

    def __call__(self, progress: SearchProgress) -> None:
        if progress.done == self.at:
            self.found = self.do()


def test_local_trials_give_the_result_of_this_process(
    finished: SearchResult, begun: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Evaluation in two trials side by side, every candidate and the front are the same to the last bit.

    While it runs NNI listens on 127.0.0.1 alone; afterwards no process, no file in the home folder, no log is left.
    """
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    spy = Spy(2, lambda: listening(set(processes_of(os.getpid()))))
    result = search(begun, resume=True, trials=Trials(workers=2), progress=spy, **SETTINGS)
    assert same(begun, finished)
    assert told(result.front) == told(finished.front)
    assert spy.found == {"0100007F"}
    assert processes_of(os.getpid()) == {}
    assert list((tmp_path / "home").iterdir()) == []
    assert {path.name for path in begun.iterdir()} == {path.name for path in finished.run_dir.iterdir()}


@pytest.mark.slow
def test_a_killed_trial_loses_no_finished_candidate(finished: SearchResult, begun: Path) -> None:
    """A trial that is killed in the middle of its batch is replaced; what it had evaluated is not evaluated again."""

    def kill() -> list[str]:
        for pid in trials_of(os.getpid()):
            os.kill(pid, signal.SIGKILL)
        return (begun / "candidates.jsonl").read_text().splitlines()

    spy = Spy(2, kill)
    search(begun, resume=True, trials=Trials(), progress=spy, **SETTINGS)
    assert spy.found == (begun / "candidates.jsonl").read_text().splitlines()[:2]
    assert same(begun, finished)


@pytest.mark.slow
def test_a_killed_server_loses_no_finished_candidate(finished: SearchResult, begun: Path) -> None:
    """NNI's server is started again when it dies."""

    def kill() -> None:
        for pid, line in processes_of(os.getpid()).items():
            if "nni_node" in line:
                os.kill(pid, signal.SIGKILL)

    search(begun, resume=True, trials=Trials(), progress=Spy(2, kill), **SETTINGS)
    assert same(begun, finished)


@pytest.mark.slow
def test_a_full_disk_loses_no_finished_candidate(finished: SearchResult, begun: Path) -> None:
    """When the archive cannot grow any more the search ends, saying so; resumed elsewhere, it ends as it would have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill() -> None:
        size = (begun / "candidates.jsonl").stat().st_size
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 10, hard))

    try:
        with pytest.raises(StorageError, match=r"candidates\.jsonl: cannot be written"):
            search(begun, resume=True, trials=Trials(), progress=Spy(3, fill), **SETTINGS)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert processes_of(os.getpid()) == {}
    with pytest.warns(SearchWarning, match="line 4 is damaged"):
        search(begun, resume=True, **SETTINGS)
    assert same(begun, finished)


SCRIPT = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from sepnas.search.trials.settings import Trials
from tests.search.test_search import search
search(Path(sys.argv[1]), resume=True, progress=True, candidates=12, batch=6, trials=Trials())
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_no_process_outlives_the_search(finished: SearchResult, begun: Path, how: signal.Signals) -> None:
    """After SIGKILL, SIGTERM or Ctrl-C nothing runs on; the search goes on in this process, to the same result."""
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(begun)], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    wait_for_lines(begun / "candidates.jsonl", 2, process)
    assert len(processes_of(process.pid)) >= 2
    process.send_signal(how)
    process.communicate(timeout=PROCESS_S)
    assert process.returncode in (-how, 130, 1)
    eventually(lambda: processes_of(process.pid) == {})
    search(begun, resume=True, **SETTINGS)
    assert same(begun, finished)


@dataclass
class Model:
    """What an engine looks at in a model of NNI's."""

    sample: dict[str, Any]


MODELS = [Model({"label": number}) for number in range(4)]
TRIAL = """
import os, time
import nni
number = int(os.environ["NNI_TRIAL_SEQ_ID"])
{before}
genotypes = nni.get_next_parameter()["genotypes"]
open(f"asked{{number}}", "w").close()
for genotype in genotypes:
    nni.report_intermediate_result(
        {{"default": 0.5, "genotype": genotype, "seconds": 0.0, "trial": number, "first": genotype["label"]}}
    )
    {after}
nni.report_final_result(0.5)
"""


@contextmanager
def engine_of(
    folder: Path, before: str = "", after: str = "", **settings: Any
) -> Iterator[tuple[TrialsEngine, list[Any]]]:
    """A real engine whose trials run a small script, and the list of what it tells its listeners."""

    def write_kit(kit: Path) -> None:
        place = kit / "sepnas" / "search" / "trials"
        place.mkdir(parents=True)
        for package in (place, place.parent, place.parent.parent):
            (package / "__init__.py").write_text("")
        (place / "trial.py").write_text(TRIAL.format(before=before, after=after))

    told: list[Any] = []
    with trials_engine(Trials(**settings), folder / "trials", write_kit, lambda text: None) as engine:
        engine.register_model_event_callback("final_metric", lambda event: told.append((event.model, event.metric)))
        engine.default_callback = lambda event: None
        yield engine, told


def test_an_answer_is_for_the_genotype_that_it_repeats(tmp_path: Path) -> None:
    """NNI hands the first trial's parameters to the second when that asks first; each genotype gets its own answer."""
    before = "while number == 0 and not os.path.exists('asked1'): time.sleep(0.1)"
    with engine_of(tmp_path, before=before, workers=2) as (engine, told):
        engine.submit_models(*MODELS)
    handed = {metric["genotype"]["label"]: metric["trial"] for _, metric in told}
    assert handed == {0: 1, 1: 0, 2: 1, 3: 0}, "NNI pairs rightly by now: this trap is gone"
    assert {model.sample["label"]: metric["first"] for model, metric in told} == {n: n for n in range(4)}


@pytest.mark.slow
def test_trials_that_all_fail_end_the_search(tmp_path: Path) -> None:
    """After three rounds without an answer the error has the last lines of a trial, and says that --resume goes on."""
    with (
        engine_of(tmp_path, before="raise MemoryError('too small')") as (engine, _),
        pytest.raises(SearchError, match=r"(?s)4 candidates could not.*resume the search.*MemoryError: too small"),
    ):
        engine.submit_models(*MODELS)


@pytest.mark.slow
def test_a_trial_that_hangs_is_ended(tmp_path: Path) -> None:
    """A trial that reports nothing for a while is ended; another one evaluates its remaining candidates."""
    after = "time.sleep(3600 * (number == 0 and not os.path.exists('hung') and open('hung', 'w') is not None))"
    with engine_of(tmp_path, after=after, patience_s=20.0) as (engine, told):
        engine.submit_models(*MODELS)
    assert [model.sample["label"] for model, _ in told] == [0, 1, 2, 3]
    eventually(lambda: processes_of(os.getpid()) == {})


def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    """A port that is taken is an error at once, with its number."""
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        engine_of(tmp_path, web_port=taken.getsockname()[1]) as (engine, _),
        pytest.raises(SearchError, match=f"port {taken.getsockname()[1]} cannot be used"),
    ):
        engine.submit_models(*MODELS)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2"])
def test_a_taken_port_is_named_before_anything_is_trained(tmp_path: Path, host: str) -> None:
    """A search whose page cannot listen where it is to is refused before its folder is made."""
    with socket.create_server((host, 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SearchError, match=f"port {port} cannot be used for NNI's page: Address already in use"):
            search(tmp_path / "run", trials=Trials(web_host=host, web_port=port))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("host", ["192.0.2.1", "no..name"])
def test_a_host_that_is_not_here_is_named_before_anything_is_trained(tmp_path: Path, host: str) -> None:
    """A web host that is no address of this machine is refused before the folder is made."""
    with pytest.raises(SearchError, match=f"`web_host` {host}, port 0 cannot be used for NNI's page"):
        search(tmp_path / "run", trials=Trials(web_host=host))
    assert not (tmp_path / "run").exists()


def test_a_server_that_does_not_come_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that is not there in time is ended, and an error says how long it was waited for."""
    monkeypatch.setattr("sepnas.search.trials.manager.START_TIMEOUT_S", 0.0)
    with engine_of(tmp_path) as (engine, _), pytest.raises(SearchError, match="did not start within 0 s"):
        engine.submit_models(*MODELS)
    assert processes_of(os.getpid()) == {}


@pytest.mark.slow
def test_an_exception_of_the_strategy_leaves_nothing_behind(begun: Path) -> None:
    """An exception among the candidates comes out as it is, and NNI ends."""

    def fail() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        search(begun, resume=True, trials=Trials(), progress=Spy(2, fail), **SETTINGS)
    assert processes_of(os.getpid()) == {}


@pytest.mark.slow
def test_the_command_line_chooses_the_engine(tmp_path: Path) -> None:
    """`sepnas search --engine local` ends with a front."""
    words = ["search", "search_spaces/demo.yaml", "--out", str(tmp_path / "run"), "--candidates", "4", "--epochs", "1"]
    command = [sys.executable, "-m", "sepnas", *words, "--engine", "local", "--workers", "2"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "NNI's page: http://127.0.0.1:" in done.stderr
    assert len(load_candidates(tmp_path / "run")) == 4


def test_machines_without_their_engine_are_refused() -> None:
    """`--remote` without `--engine remote` is a mistake, and is said before anything begins."""
    command = [sys.executable, "-m", "sepnas", "search", "search_spaces/demo.yaml", "--out", "x", "--remote", "me@host"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert "`--engine remote` and `--remote` belong together" in done.stderr


@pytest.mark.slow
def test_the_page_listens_elsewhere_on_request(tmp_path: Path) -> None:
    """With another web host, NNI's page is to be had there as well, by its link, and nothing else is."""
    with engine_of(tmp_path, web_host="127.0.0.2", after="time.sleep(2)") as (engine, _):
        pages: list[bytes] = []

        def look(event: Any) -> None:
            manager = engine.manager
            with urllib.request.urlopen(f"http://127.0.0.2:{manager.port}{manager.page}") as response:
                pages.append(response.read())
            for path in ("/", manager._key.sealed("/api/v1/nni/check-status")):
                with pytest.raises(urllib.error.HTTPError, match="404"):
                    urllib.request.urlopen(f"http://127.0.0.2:{manager.port}{path}")

        engine.register_model_event_callback("final_metric", look)
        engine.submit_models(*MODELS[:1])
    assert b"Neural Network Intelligence" in pages[0]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"workers": 0}, "`workers` must be at least 1, got 0"),
        ({"workers": 10**6}, "`workers` must be at most 1024, got 1000000"),
        ({"web_port": 65536}, r"`web_port` must be within 0\.\.65535, got 65536"),
        ({"patience_s": float("nan")}, "`patience_s` must be above 0, got nan"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, Any], said: str) -> None:
    """Settings that make no sense are refused with their value."""
    with pytest.raises(SearchError, match=said):
        Trials(**settings)


def test_a_resume_with_another_batch_is_refused(finished: SearchResult) -> None:
    """The batch decides what the strategy knows when it chooses: another one would give another result."""
    with pytest.raises(SearchError, match="`batch` was 6 and is now 5"):
        search(finished.run_dir, resume=True, candidates=CANDIDATES, batch=5)
