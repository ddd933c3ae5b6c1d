"""The machines of ``--engine remote``, and their required host keys."""

from __future__ import annotations

import re
import socket
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import AfterValidator, Field

from sepnas.errors import SearchError, SpecError
from sepnas.spec.document import Document, Part, short
from sepnas.spec.hosts import is_host

SSH_PORT = 22
ANSWER_TIMEOUT_S = 10.0
MAX_MACHINES = 256


ShellPath = Annotated[str, Field(min_length=1, pattern=r"^[^'\x00-\x1f\x7f]+$")]
"""A path that is safe within single quotes in a remote command line."""


_MACHINE = re.compile(r"([^@]+)@(\[[^\]]+\]|[^:\[]+)(?::(\d{1,5}))?", re.ASCII)


def _host(text: str) -> str:
    if not is_host(text):
        raise ValueError("expected an IP address or a host name (letters, digits, hyphens and dots)")
    return text


class Machine(Part):
    """A machine reachable over SSH. ``python`` must have NNI and torch; without ``ssh_key`` the SSH agent is used."""

    host: Annotated[str, AfterValidator(_host)]
    user: Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$")]
    port: Annotated[int, Field(ge=1, le=65535)] = SSH_PORT
    ssh_key: ShellPath | None = None
    python: ShellPath = "/usr/bin/python3"
    known_hosts: ShellPath = "~/.ssh/known_hosts"

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"

    def check(self) -> str | None:
        """Check that the machine is usable; returns the problem if it does not respond now, else None.

        Raises :class:`SearchError` for an unknown host key, a name without an address and an unreadable private key.
        """
        self.keys()
        if self.ssh_key is not None:
            _check_readable(Path(self.ssh_key).expanduser(), self.address)
        try:
            socket.create_connection((self.host, self.port), timeout=ANSWER_TIMEOUT_S).close()
        except UnicodeError as error:
            raise SearchError(f"machine {self.address}: the name has no address: {error}") from None
        except OSError as error:
            if isinstance(error, socket.gaierror) and error.errno != socket.EAI_AGAIN:
                raise SearchError(f"machine {self.address}: the name has no address: {error.strerror}") from None
            return f"machine {self.address} does not answer: {error.strerror or error}"
        return None

    def keys(self) -> list[tuple[str, str]]:
        """The host keys in ``known_hosts``, as (type, base64); raises :class:`SearchError` if there are none."""
        name = self.host if self.port == SSH_PORT else f"[{self.host}]:{self.port}"
        known = Path(self.known_hosts).expanduser()
        try:
            found = subprocess.run(["ssh-keygen", "-F", name, "-f", str(known)], capture_output=True, text=True)
        except FileNotFoundError:
            raise SearchError("ssh-keygen is missing: install the SSH client (openssh-client)") from None
        lines = [line.split() for line in found.stdout.splitlines() if line and line[0] not in "#@"]
        if not lines:
            raise SearchError(
                f"{known}: no key of {name}, so another machine could answer in its place: connect once with "
                f"`ssh -p {self.port} {self.user}@{self.host}` and accept its key"
            )
        return [(kind, key) for _, kind, key, *_ in lines]


class Machines(Document):
    """A file that lists machines."""

    format_name: ClassVar[str] = "sepnas.machines"

    machines: Annotated[tuple[Machine, ...], Field(min_length=1, max_length=MAX_MACHINES)]


def _check_readable(key: Path, address: str) -> None:
    try:
        key.open("rb").close()
    except OSError as error:
        raise SearchError(f"machine {address}: `ssh_key` {key}: cannot be read: {error.strerror or error}") from None


def check_machines(machines: Sequence[Machine]) -> list[str]:
    """The problems of machines that do not respond now; raises :class:`SearchError` if none responds."""
    with ThreadPoolExecutor(max(1, len(machines))) as pool:
        problems = [problem for problem in pool.map(Machine.check, machines) if problem]
    if machines and len(problems) == len(machines):
        raise SearchError(f"no machine can be reached: {'; '.join(problems)}")
    return problems


def parse_machine(text: str, ssh_key: str | None = None, python: str | None = None) -> Machine:
    """``USER@HOST`` or ``USER@HOST:PORT``; raises :class:`SpecError`."""
    found = _MACHINE.fullmatch(text)
    if not found:
        raise SpecError(f"expected USER@HOST or USER@HOST:PORT, or a file that lists machines, got {short(text)}")
    user, host, port = found.groups()
    host = host.removeprefix("[").removesuffix("]")
    given = {"port": int(port) if port else None, "ssh_key": ssh_key, "python": python}
    data = {"host": host, "user": user, **{name: value for name, value in given.items() if value is not None}}
    return Machines.from_data({"machines": [data]}, text).machines[0]


def read_machines(given: list[str], ssh_key: str | None, python: str | None) -> tuple[Machine, ...]:
    """Machines, given by address or by files that list them."""
    found: list[Machine] = []
    for text in given:
        if Path(text).is_file():
            found += Machines.load(text).machines
        else:
            found.append(parse_machine(text, ssh_key, python))
    return tuple(found)
