"""Network namespaces: each emulated device gets network interfaces of its own, at the rate of its link. Linux, root.

Every device has a port at one switch for its peers and a port at another for the client, so that a client without
a link of its own costs nothing. Each port has a token bucket at both ends. Nothing is changed outside the namespaces,
and an interface goes with its namespace.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from typing_extensions import Self

from sepnas.cost.routes import routes_of
from sepnas.errors import ExchangeError
from sepnas.plan.plan import Plan
from sepnas.plan.steps import CLIENT
from sepnas.spec.cluster import Cluster
from sepnas.spec.emulation import Emulation

MAX_DEVICES = 250
_OURS = re.compile(r"sepnas-(\d+)-\w+")
_BURST_S, _MIN_BURST_BYTES = 1.2e-3, 5000
"""Size of a bucket, in seconds of its rate: 15 kB at 100 Mbit/s. With less, the kernel does not reach the rate."""
_PASSING_SHARE = 1.07
"""Bytes on a port per byte of messages: headers of Ethernet, IP and TCP (4.6 %) and acknowledgements of the other
direction (2.3 %) come on top. The bandwidth of a link is that of messages."""
_TCP = {"tcp_limit_output_bytes": 16 << 10, "tcp_slow_start_after_idle": 0}
_QUEUE_BYTES = 32 << 20
"""Capacity of a port's queue: links of the cluster lose nothing."""
_CLONE_NEWNET = 0x40000000


def why_no_namespaces(plan: Plan, cluster: Cluster) -> str | None:
    """Why namespaces cannot stand for this cluster on this machine; None when they can."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return "they need root"
    missing = [tool for tool in ("ip", "tc") if shutil.which(tool) is None]
    if missing:
        return f"they need the command {' and '.join(missing)} (iproute2)"
    if plan.num_devices > MAX_DEVICES:
        return f"they serve at most {MAX_DEVICES} devices"
    pairs = {(message.source, message.destination) for message in plan.messages()}
    between = [pair for pair in pairs if CLIENT not in pair]
    if len({route.bandwidth_bytes_per_s for pair in between if (route := routes_of(cluster)[pair])}) > 1:
        return "the links differ in bandwidth, but a port has one rate for all"
    if plan.num_devices > 2 and any(cluster.link(*pair).medium == "own" for pair in between):
        return "with `medium: own` each pair has a cable of its own, but a device here has one port for all"
    return _refusal()


def _refusal() -> str | None:
    """The system's error for a namespace with all that is needed; a container may refuse it even to root."""
    name = f"sepnas-{os.getpid()}-probe"
    try:
        _ip("netns", "add", name)
        _ip("-n", name, "link", "add", "eth0", "type", "veth", "peer", "name", "port")
        _ip("-n", name, "link", "add", "peers", "type", "bridge")
        _limit(name, "eth0", 1e6)
    except ExchangeError as error:
        return str(error)
    finally:
        with contextlib.suppress(ExchangeError):
            _ip("netns", "del", name)
    return None


class Namespaces:
    """A namespace for each device of an emulation and for its client, while the ``with`` block runs.

    Names begin with ``sepnas-`` and the process id; namespaces of processes that have ended are removed first.

    Raises:
        ExchangeError: the system refuses a command, which is quoted.
    """

    def __init__(self, emulations: Mapping[int, Emulation]) -> None:
        self._emulations = emulations
        self._ranks = sorted(rank for rank in emulations if rank != CLIENT)
        self._prefix = f"sepnas-{os.getpid()}"
        self.switch = f"{self._prefix}-switch"

    def __enter__(self) -> Self:
        remove_leftovers()
        try:
            self._make()
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._remove()

    def name(self, rank: int) -> str:
        return f"{self._prefix}-client" if rank == CLIENT else f"{self._prefix}-device{rank}"

    def address(self, rank: int) -> str:
        """The address on which a device listens for its peers and for the client."""
        return f"10.83.0.{rank + 1}"

    def prefix(self, rank: int) -> tuple[str, ...]:
        """The prefix of a command that runs on a device."""
        return "ip", "netns", "exec", self.name(rank)

    @contextmanager
    def inside(self, rank: int) -> Iterator[None]:
        """Sockets that this thread opens within the block belong to the device, or the client, for good."""
        with Path("/proc/thread-self/ns/net").open() as home, Path(f"/run/netns/{self.name(rank)}").open() as there:
            _enter(there.fileno())
            try:
                yield
            finally:
                _enter(home.fileno())

    def _make(self) -> None:
        _ip("netns", "add", self.switch)
        for bridge in ("peers", "clients"):
            _ip("-n", self.switch, "link", "add", bridge, "type", "bridge")
            _ip("-n", self.switch, "link", "set", bridge, "up")
        for rank in (*self._ranks, CLIENT):
            _ip("netns", "add", self.name(rank))
            _ip("-n", self.name(rank), "link", "set", "lo", "up")
            self._tune(rank)
        for rank in self._ranks:
            self._plug(rank, "eth0", "peers", self.address(rank), self._rate(rank, of_client=False))
            self._plug(rank, "eth1", "clients", f"10.84.0.{rank + 1}", self._rate(rank, of_client=True))
        client_rates = [link.bandwidth_bytes_per_s for link in self._emulations[CLIENT].links]
        self._plug(CLIENT, "eth1", "clients", "10.84.0.254", max(client_rates, default=None))
        for rank in self._ranks:
            _ip("-n", self.name(CLIENT), "route", "add", self.address(rank), "via", f"10.84.0.{rank + 1}")

    def _tune(self, rank: int) -> None:
        """Keep a device's own queue as short as a network card's; otherwise acknowledgements wait behind data."""
        with self.inside(rank):
            for name, value in _TCP.items():
                with contextlib.suppress(OSError):  # in a container it may be read-only
                    Path("/proc/sys/net/ipv4", name).write_text(str(value))

    def _rate(self, rank: int, of_client: bool) -> float | None:
        links = self._emulations[rank].links
        return max((link.bandwidth_bytes_per_s for link in links if (link.peer == CLIENT) is of_client), default=None)

    def _plug(self, rank: int, interface: str, bridge: str, address: str, rate_bytes_per_s: float | None) -> None:
        """A cable from a namespace to a bridge of the switch."""
        name, port = self.name(rank), f"{interface}-{'c' if rank == CLIENT else rank}"
        _ip("link", "add", interface, "netns", name, "type", "veth", "peer", "name", port, "netns", self.switch)
        _ip("-n", self.switch, "link", "set", port, "master", bridge, "up")
        _ip("-n", name, "addr", "add", f"{address}/24", "dev", interface)
        _ip("-n", name, "link", "set", interface, "up")
        if rate_bytes_per_s is not None:
            # The processes hold back what a bucket lets through at once: they know when it is due.
            _limit(name, interface, rate_bytes_per_s)
            _limit(self.switch, port, rate_bytes_per_s)

    def _remove(self) -> None:
        for name in _names():
            if name.startswith(f"{self._prefix}-"):
                with contextlib.suppress(ExchangeError):
                    _ip("netns", "del", name)


def remove_leftovers() -> None:
    """Remove the namespaces of runs whose process is gone."""
    for name in _names():
        found = _OURS.fullmatch(name)
        if found and not Path(f"/proc/{found[1]}").exists():
            with contextlib.suppress(ExchangeError):
                _ip("netns", "del", name)


def _names() -> list[str]:
    folder = Path("/run/netns")
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def _limit(namespace: str, interface: str, rate_bytes_per_s: float) -> None:
    passing_bytes_per_s = _PASSING_SHARE * rate_bytes_per_s
    burst_bytes = max(_MIN_BURST_BYTES, round(_BURST_S * passing_bytes_per_s))
    _run(
        "tc", "-n", namespace, "qdisc", "add", "dev", interface, "root", "tbf", "rate",
        f"{max(8, round(8 * passing_bytes_per_s))}bit", "burst", str(burst_bytes), "limit", str(_QUEUE_BYTES),
    )  # fmt: skip


def _ip(*arguments: str) -> None:
    _run("ip", *arguments)


def _run(*command: str) -> None:
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace")
    if done.returncode:
        raise ExchangeError(f"a network namespace could not be set up: `{' '.join(command)}`: {done.stderr.strip()}")


def _enter(namespace: int) -> None:
    if ctypes.CDLL(None, use_errno=True).setns(namespace, _CLONE_NEWNET):
        raise ExchangeError(f"cannot enter a network namespace: {os.strerror(ctypes.get_errno())}")
