"""How connections are made: names with several addresses, names that change, name servers that are down."""

import os
import subprocess
import sys

import pytest

PRELUDE = """
import socket, subprocess, threading, time, warnings
from pathlib import Path
from sepnas.errors import PeerUnreachableError
from sepnas.runtime.transport import lookup
from sepnas.runtime.transport.handshake import _connect
from sepnas.runtime.transport.lookup import LookupTimeoutError, look_up
from sepnas.runtime.worker.peer_guard import Dial
from sepnas.runtime.transport.sockets import connect, listen
from sepnas.runtime.transport.listening import listening_socket
from sepnas.spec.hosts import format_address, parse_address

FAR_S = 60.0

def names(text):
    Path("hosts").write_text(text)

def reached(host, port):
    with connect(host, port, time.monotonic() + FAR_S) as sock:
        assert sock.getblocking()
        return sock.getpeername()[0]

for command in (
    "link set lo up", "link add wire type veth peer name far", "link set wire up", "link set far up",
    "addr add 2001:db8::2/64 dev wire nodad", "addr add fe80::5/64 dev wire nodad",
    "neigh add 2001:db8::9 lladdr 02:00:00:00:00:09 dev wire nud permanent",
):
    subprocess.run(["ip", *command.split()], check=True)
"""


def run_apart(script: str, tmp_path) -> None:
    """Run a script with a network, names of hosts and name servers of its own."""
    (tmp_path / "hosts").touch()
    (tmp_path / "resolv.conf").write_text("nameserver 127.0.0.1\n")
    (tmp_path / "nsswitch.conf").write_text("hosts: files dns\n")
    mounts = "; ".join(f"mount --bind {name} /etc/{name}" for name in ("hosts", "resolv.conf", "nsswitch.conf"))
    command = ["unshare", "--mount", "--net", "sh", "-ec", f'{mounts}; exec "$0" "$@"', sys.executable, "-c"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [*command, PRELUDE + script], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=170
    )
    assert done.returncode == 0, done.stderr


pytestmark = pytest.mark.skipif(bool(os.geteuid()), reason="network namespaces need root")


def test_names_are_raced_looked_up_again_and_bounded_in_time(tmp_path):
    """A live address is reached beside dead ones, also when the name leads elsewhere; a dead name server holds nobody
    up beyond the deadline, whoever asks how often."""
    run_apart(
        """
here = socket.create_server(("127.0.0.1", 0))
port = here.getsockname()[1]
there = socket.create_server(("127.0.0.2", port))
names("2001:db8::9 both\\n127.0.0.1 both\\n")
assert look_up("both", port, time.monotonic() + FAR_S)[0].host == "2001:db8::9"  # which swallows everything
assert reached("both", port) == "127.0.0.1"
names("127.0.0.2 both\\n")
assert reached("both", port) == "127.0.0.2"
names("127.0.1.1 me\\n")
try:
    _connect(0, Dial(f"me:{port}", time.monotonic() + FAR_S, bool))
    raise SystemExit("nobody listens there")
except PeerUnreachableError as error:
    assert "127.0.1.1: Connection refused" in str(error), error

silent = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
silent.bind(("127.0.0.1", 53))
for _ in range(20):
    try:
        _connect(0, Dial("far.example:1", time.monotonic() + 0.01, bool))
        raise SystemExit("nobody knows it")
    except PeerUnreachableError as error:
        assert "the name server did not say in time where host 'far.example' is" in str(error), error
assert sum(thread.name == "look up far.example" for thread in threading.enumerate()) == 1
""",
        tmp_path,
    )


def test_names_and_scoped_addresses_can_be_listened_on(tmp_path):
    """An IPv6-only name and an address with its interface are served; a name that is loopback here is warned of."""
    run_apart(
        """
names("2001:db8::2 six\\n127.0.1.1 me\\n127.0.0.1 both\\n2001:db8::2 both\\n")
for host, number in (("six", "2001:db8::2"), ("both", "127.0.0.1"), ("fe80::5%wire", "fe80::5%wire")):
    address = format_address(host, 0)
    assert parse_address(address, lowest_port=0) == (host, 0)
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        with listening_socket(host, 0) as listener:
            assert reached(host, listener.getsockname()[1]).startswith(number.partition("%")[0])
            accepted, origin = listener.accept()
            accepted.close()
            assert origin[0] == number.partition("%")[0]
    assert bool(found) == (host == "both"), (host, [str(each.message) for each in found])
with warnings.catch_warnings(record=True) as found:
    warnings.simplefilter("always")
    listening_socket("me", 0).close()
assert "host 'me' is 127.0.1.1 here, which no other machine reaches" in str(found[0].message), found
""",
        tmp_path,
    )
