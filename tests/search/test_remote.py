"""``--engine remote`` against real SSH servers on loopback; see also `test_trials.py`."""

from __future__ import annotations

import getpass
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sepnas.errors import SearchError, SpecError
from sepnas.search.progress import ProgressDisplay
from sepnas.search.run import SearchResult
from sepnas.search.trials.machines import Machine, Machines, parse_machine, read_machines
from sepnas.search.trials.manager import NniManager
from sepnas.search.trials.settings import Trials
from tests.helpers_runtime import eventually
from tests.search import test_trials as local
from tests.search.test_search import search
from tests.search.test_trials import SETTINGS, Spy, listening, processes_of, processes_with, same, sockets_of
from tests.search.test_trials_guard import NOBODY, ask, changes, look_at_trials, refused, request, traversals

finished = local.finished  # its fixture
SSHD = shutil.which("sshd", path=os.environ.get("PATH", "") + ":/usr/sbin")
needs_sshd = pytest.mark.skipif(SSHD is None, reason="no sshd: `make sshd`, or apt install openssh-server")

CONFIGURATION = """
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host
AuthorizedKeysFile {folder}/user.pub
PidFile none
UsePAM no
StrictModes no
PasswordAuthentication no
SetEnv HOME={folder}/home
Subsystem sftp internal-sftp
"""


@dataclass
class Server:
    """An SSH server with a home folder of its own, and the machine that it stands for."""

    folder: Path
    process: subprocess.Popen[bytes]
    machine: Machine

    def processes(self) -> dict[int, str]:
        """Everything that was started through it, by id."""
        return processes_with(f"HOME={self.folder}/home")

    def sessions(self) -> list[int]:
        listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(self.process.pid)], capture_output=True, text=True)
        return [int(pid) for pid in listed.stdout.split()]

    def cut(self) -> None:
        """The machine is gone from the network."""
        sessions = self.sessions()
        self.process.kill()
        self.process.wait()
        for pid in sessions:
            end(pid)


def end(pid: int) -> None:
    """Kill a process, which may have ended by itself."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[[str], Server]]:
    """Starts SSH servers, with fresh keys; ends them, and what they started, afterwards."""
    servers: list[Server] = []
    Path("/run/sshd").mkdir(exist_ok=True)

    def start(name: str) -> Server:
        folder = tmp_path / name
        (folder / "home").mkdir(parents=True)
        for key in ("host", "user"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / key)], check=True)
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        (folder / "sshd_config").write_text(CONFIGURATION.format(port=port, folder=folder))
        (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} " + (folder / "host.pub").read_text())
        command = [str(SSHD), "-D", "-e", "-f", str(folder / "sshd_config")]
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(command, stderr=log)
        eventually(lambda: socket.socket().connect_ex(("127.0.0.1", port)) == 0, limit_s=10)
        machine = Machine(
            host="127.0.0.1",
            user=getpass.getuser(),
            port=port,
            ssh_key=str(folder / "user"),
            python=sys.executable,
            known_hosts=str(folder / "known_hosts"),
        )
        servers.append(Server(folder, process, machine))
        return servers[-1]

    yield start
    for server in servers:
        if server.process.poll() is None:
            server.cut()
        for pid in server.processes():
            end(pid)


@needs_sshd
@pytest.mark.slow
def test_remote_trials_give_the_result_of_this_process(
    serve: Callable[[str], Server],
    finished: SearchResult,
    begun: Path,
) -> None:
    """Two machines, reached by SSH alone, find the same accuracies as this process, bit for bit, and need no data.

    All that listens, here and there, listens on 127.0.0.1; afterwards no process and no file is left there.
    """
    servers = [serve("one"), serve("two")]

    def look() -> list[set[str]]:
        return [listening(set(found)) for found in (processes_of(os.getpid()), *(s.processes() for s in servers))]

    spy = Spy(2, look)
    machines = tuple(server.machine for server in servers)
    search(begun, resume=True, trials=Trials(machines=machines), progress=spy, **SETTINGS)
    assert same(begun, finished)
    assert spy.found == [{"0100007F"}] * 3
    for server in servers:
        eventually(lambda server=server: server.processes() == {})  # type: ignore[misc]
        assert list((server.folder / "home").iterdir()) == []


def ports_of(pids: set[int]) -> set[int]:
    inodes = {inode for pid in pids for inode in sockets_of(pid)}
    rows = [row.split() for row in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return {int(row[1].split(":")[1], 16) for row in rows if row[3] == "0A" and row[9] in inodes}


@needs_sshd
@pytest.mark.slow
def test_nobody_at_the_far_end_gets_anything(serve: Callable[[str], Server], tmp_path: Path) -> None:
    """Another user of the machine where trials run gets nothing: neither there, nor through the tunnel from here.

    The tunnel carries a trial keeper's channel alone, even for one who knows the codes of everything else.
    """
    server, secret = serve("one"), tmp_path / "secret"
    secret.write_text("the owner's own")
    home = server.folder / "home" / "nni-experiments"

    def look(manager: NniManager) -> dict[str, Any]:
        far = {pid for session in server.sessions() for pid in (session, *children_of(session))}
        ports = ports_of(far | set(server.processes())) - {server.machine.port}
        blind = [request("GET", path) for path in traversals(secret)] + changes()
        key = manager._key
        coded = [request("GET", manager.page), request("GET", key.sealed("/api/v1/nni/check-status"))]
        coded += [request("GET", key.sealed("/tuner"), upgrade=True), request("GET", key.sealed("/platform/remote/1"))]
        answers = {port: ask(port, blind + coded, NOBODY) for port in ports}
        return {"answers": answers, "modes": {stat.S_IMODE(path.stat().st_mode) for path in home.iterdir()}}

    found, labels = look_at_trials(tmp_path, look, machines=(server.machine,))
    assert len(found["answers"]) == 2, "the tunnel's and the trial keeper's"
    assert [text for answers in found["answers"].values() for text in answers if not refused(text)] == []
    assert found["modes"] == {0o700}
    assert labels == [0, 1, 2, 3]


@needs_sshd
@pytest.mark.slow
def test_what_has_lost_its_search_obeys_nobody(serve: Callable[[str], Server], tmp_path: Path) -> None:
    """When the connection is cut, whoever takes the tunnel's port there is not asked for work: all there ends."""
    server, found = serve("one"), list[bool]()

    def look(manager: NniManager) -> bool:
        far = {pid for session in server.sessions() for pid in (session, *children_of(session))}
        (tunnel,) = ports_of(far) - {server.machine.port}
        server.cut()
        taken = socket.socket()
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        eventually(lambda: bound(taken, tunnel))
        taken.listen()
        eventually(lambda: not any("trial_keeper" in line for line in server.processes().values()), limit_s=120)
        taken.setblocking(False)
        with taken, suppress(BlockingIOError):
            return bool(taken.accept())
        return False

    with pytest.raises(SearchError, match="could not be evaluated"):
        look_at_trials(tmp_path, lambda manager: found.append(look(manager)), machines=(server.machine,))
    assert found == [False]


def bound(taken: socket.socket, port: int) -> bool:
    try:
        taken.bind(("127.0.0.1", port))
    except OSError:  # those that had it are still ending
        return False
    return True


def children_of(parent: int) -> list[int]:
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(parent)], capture_output=True, text=True)
    return [int(pid) for pid in listed.stdout.split()]


@needs_sshd
@pytest.mark.slow
def test_a_lost_machine_loses_no_finished_candidate(
    serve: Callable[[str], Server],
    finished: SearchResult,
    begun: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A machine that cannot be reached is left out, one that is lost in the middle is replaced by the others."""
    good, lost, absent = serve("good"), serve("lost"), serve("absent")
    absent.cut()
    said: list[str] = []
    monkeypatch.setattr(ProgressDisplay, "say", lambda self, text: said.append(text))
    trials = Trials(machines=(good.machine, lost.machine, absent.machine))
    search(begun, resume=True, trials=trials, progress=Spy(1, lost.cut), **SETTINGS)
    assert same(begun, finished)
    told = "\n".join(said)
    assert f"{absent.machine.address} cannot be used: connect ECONNREFUSED" in told
    assert f"{lost.machine.address} is lost" in told
    eventually(lambda: lost.processes() == {})


@needs_sshd
@pytest.mark.slow
def test_a_search_whose_only_machine_is_lost_can_be_resumed(
    serve: Callable[[str], Server],
    finished: SearchResult,
    begun: Path,
) -> None:
    """When no machine is left the search ends, naming it; another engine goes on to the same result."""
    server = serve("one")
    with pytest.raises(SearchError, match=rf"(?s)could not be evaluated.*{server.machine.address} cannot be used"):
        search(begun, resume=True, trials=Trials(machines=(server.machine,)), progress=Spy(2, server.cut), **SETTINGS)
    kept = (begun / "candidates.jsonl").read_text().splitlines()
    assert len(kept) >= 2
    search(begun, resume=True, **SETTINGS)
    assert (begun / "candidates.jsonl").read_text().splitlines()[: len(kept)] == kept
    assert same(begun, finished)


@needs_sshd
@pytest.mark.slow
def test_a_machine_that_shows_another_key_is_not_used(
    serve: Callable[[str], Server],
    begun: Path,
) -> None:
    """Whoever answers with another host key than the known one gets neither code nor data."""
    real, false = serve("real"), serve("false")
    text = (real.folder / "known_hosts").read_text().replace(str(real.machine.port), str(false.machine.port))
    (false.folder / "known_hosts").write_text(text)
    with pytest.raises(SearchError, match=r"cannot be used: .*[Hh]ost"):
        search(begun, resume=True, trials=Trials(machines=(false.machine,)), **SETTINGS)
    assert list((false.folder / "home").iterdir()) == []


def test_an_unknown_machine_is_refused(tmp_path: Path) -> None:
    """A machine whose host key is not known is refused with the command that makes it known."""
    (tmp_path / "known_hosts").write_text("")
    machine = Machine(host="pi", user="me", port=2222, known_hosts=str(tmp_path / "known_hosts"))
    with pytest.raises(SearchError, match=r"no key of \[pi\]:2222.*`ssh -p 2222 me@pi`"):
        Trials(machines=(machine,)).facts()


def known(tmp_path: Path, host: str, port: int, **settings: str) -> Machine:
    """A machine with some host key that is known."""
    key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ9jhU0Tm3mZyJ5tKJmyLxkqmVTmkmHC6RDq0U8ldMhd"
    (tmp_path / "known_hosts").write_text(f"[{host}]:{port} {key}\n")
    return Machine(host=host, user="me", port=port, known_hosts=str(tmp_path / "known_hosts"), **settings)


@pytest.mark.parametrize(
    ("host", "settings", "said"),
    [
        ("127.0.0.1", {}, "no machine can be reached: machine 127.0.0.1:1 does not answer: Connection refused"),
        ("fe80::1%nosuch0", {}, "the name has no address"),
        ("127.0.0.1", {"ssh_key": "/no/key"}, "`ssh_key` /no/key: cannot be read: No such file"),
    ],
)
def test_a_machine_that_cannot_be_used_is_named_before_anything_is_trained(
    tmp_path: Path, host: str, settings: dict[str, str], said: str
) -> None:
    """Where no machine answers, a name has no address or a key is missing, nothing is begun."""
    with pytest.raises(SearchError, match=re.escape(said)):
        search(tmp_path / "run", trials=Trials(machines=(known(tmp_path, host, 1, **settings),)))
    assert not (tmp_path / "run").exists()


def test_one_machine_that_does_not_answer_is_only_told_of(tmp_path: Path) -> None:
    """A machine that is down now may be up when trials begin: with another that answers, it is named and no more."""
    with socket.create_server(("127.0.0.1", 0)) as up:
        port = up.getsockname()[1]
        machines = (known(tmp_path, "127.0.0.1", port), known(tmp_path, "127.0.0.1", 1))
        (tmp_path / "known_hosts").write_text("".join(f"[127.0.0.1]:{n} ssh-rsa AAAA\n" for n in (port, 1)))
        assert Trials(machines=machines).check() == ["machine 127.0.0.1:1 does not answer: Connection refused"]


def test_machines_are_named_or_listed_in_a_file(tmp_path: Path) -> None:
    """USER@HOST[:PORT] takes key and Python from the options; a file has its own."""
    listed = Machines(machines=(Machine(host="a", user="u", python="/opt/python3"), Machine(host="b", user="u")))
    listed.save(tmp_path / "machines.yaml")
    found = read_machines([str(tmp_path / "machines.yaml"), "v@c:2222"], "key", "/usr/bin/python3.12")
    assert found[:2] == listed.machines
    assert found[2] == Machine(host="c", user="v", port=2222, ssh_key="key", python="/usr/bin/python3.12")


@pytest.mark.parametrize(
    ("text", "said"),
    [("pi", "expected USER@HOST"), ("@pi", "expected USER@HOST"), ("me@pi:x", "expected"), ("me@pi:70000", "port")],
)
def test_a_machine_that_is_no_address_is_refused(text: str, said: str) -> None:
    """What is neither an address nor a file is refused with the form that is wanted."""
    with pytest.raises(SpecError, match=said):
        parse_machine(text)
