"""The machines of ``--engine remote``, and the keys that they must show."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import AfterValidator, Field

from sepnas.errors import SearchError, SpecError
from sepnas.spec.document import Document, Part, short
from sepnas.spec.hosts import is_host

SSH_PORT = 22


ShellPath = Annotated[str, Field(min_length=1, pattern=r"^[^'\x00-\x1f\x7f]+$")]
"""A path that stands in single quotes in a command line of another machine."""


_MACHINE = re.compile(r"([^@]+)@(\[[^\]]+\]|[^:\[]+)(?::(\d{1,5}))?", re.ASCII)


def _host(text: str) -> str:
    if not is_host(text):
        raise ValueError("expected an IP address or a host name (letters, digits, hyphens and dots)")
    return text


class Machine(Part):
    """A machine that SSH reaches. ``python`` has NNI and torch; without ``ssh_key`` the SSH agent is asked."""

    host: Annotated[str, AfterValidator(_host)]
    user: Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$")]
    port: Annotated[int, Field(ge=1, le=65535)] = SSH_PORT
    ssh_key: ShellPath | None = None
    python: ShellPath = "/usr/bin/python3"
    known_hosts: ShellPath = "~/.ssh/known_hosts"

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"

    def keys(self) -> list[tuple[str, str]]:
        """Its host keys, as (type, base64), that ``known_hosts`` holds; :class:`SearchError` when there is none."""
        name = self.host if self.port == SSH_PORT else f"[{self.host}]:{self.port}"
        known = Path(self.known_hosts).expanduser()
        try:
            found = subprocess.run(["ssh-keygen", "-F", name, "-f", str(known)], capture_output=True, text=True)
        except FileNotFoundError:
            raise SearchError("ssh-keygen is missing: install the SSH client (openssh-client)") from None
        lines = [line.split() for line in found.stdout.splitlines() if line and line[0] not in "#@"]
        if not lines:
            raise SearchError(
                f"{known}: no key of {name}, so whoever answers there cannot be told from it: connect once with "
                f"`ssh -p {self.port} {self.user}@{self.host}` and accept its key"
            )
        return [(kind, key) for _, kind, key, *_ in lines]


class Machines(Document):
    """A file that lists machines."""

    format_name: ClassVar[str] = "sepnas.machines"

    machines: Annotated[tuple[Machine, ...], Field(min_length=1)]


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
    """Machines by name or by the file that lists them."""
    found: list[Machine] = []
    for text in given:
        if Path(text).is_file():
            found += Machines.load(text).machines
        else:
            found.append(parse_machine(text, ssh_key, python))
    return tuple(found)
