"""Where the devices of a deployment listen: ``hosts.yaml``."""

from __future__ import annotations

import ipaddress
import os
import re
from typing import Annotated, ClassVar

from pydantic import Field, PrivateAttr, field_validator, model_validator
from typing_extensions import Self

from sepnas.errors import SpecError
from sepnas.spec.document import Document, Part, few, repeated, short
from sepnas.spec.figures import MAX_DEVICES, Rank

DEFAULT_FIRST_PORT = 17300
"""Below 32768, the first port that Linux assigns by itself."""


_MAX_HOST_CHARACTERS = 253
_MAX_ADDRESS_CHARACTERS = 300
_LABEL = re.compile(r"(?!-)[A-Za-z0-9-]{1,63}(?<!-)", re.ASCII)
_SCOPE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,14}", re.ASCII)
"""A network interface, by name or number."""


def is_host(text: str) -> bool:
    """Whether it is an IP address (IPv6 with an optional interface, as ``fe80::1%eth0``) or an RFC 1123 name.

    An accepted host can be put into a configuration file, a command line or a message as it is; ``%`` is its only
    character that may have a special meaning there.
    """
    address, percent, scope = text.partition("%")
    if ":" in text:
        return _is_ip(address) and (not percent or _SCOPE.fullmatch(scope) is not None)
    labels = text.removesuffix(".").split(".")
    named = len(text) <= _MAX_HOST_CHARACTERS and all(map(_LABEL.fullmatch, labels))
    return _is_ip(text) or (named and not labels[-1].isdigit())


def _is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def parse_address(text: str, lowest_port: int = 1) -> tuple[str, int]:
    """``HOST:PORT`` (an IPv6 host in brackets) as host and port; raises :class:`SpecError`."""
    host, colon, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    host = host[1:-1] if bracketed else host
    if not (host and colon and port.isascii() and port.isdigit() and bracketed == (":" in host)):
        raise SpecError(
            f"expected HOST:PORT, such as 192.168.1.20:{DEFAULT_FIRST_PORT} or [::1]:..., got {short(text)}"
        )
    if not is_host(host):
        raise SpecError(
            "expected an IP address or a host name (letters, digits, hyphens and dots) before the port, got "
            f"{short(text)}"
        )
    if len(port) > 5 or not lowest_port <= int(port) <= 65535:
        raise SpecError(f"the port must lie in {lowest_port}..65535, got {short(text)}")
    return host, int(port)


def format_address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class HostEntry(Part):
    """One device's address, as seen by the client and the other devices."""

    rank: Rank
    address: Annotated[str, Field(max_length=_MAX_ADDRESS_CHARACTERS)]

    @field_validator("address")
    @classmethod
    def _is_address(cls, address: str) -> str:
        try:
            parse_address(address)
        except SpecError as error:
            raise ValueError(str(error)) from None
        return address


class Hosts(Document):
    """Addresses by rank."""

    format_name: ClassVar[str] = "sepnas.hosts"
    max_values: ClassVar[int] = 5_000

    devices: Annotated[tuple[HostEntry, ...], Field(min_length=1, max_length=MAX_DEVICES)]
    _where: str = PrivateAttr("hosts")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Hosts) and self.devices == other.devices  # whichever file they come from

    def __hash__(self) -> int:
        return hash(self.devices)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        hosts = super().load(path)
        hosts._where = str(path)
        return hosts

    @model_validator(mode="after")
    def _all_differ(self) -> Self:
        for name in ("rank", "address"):
            twice = repeated(getattr(device, name) for device in self.devices)
            if twice:
                raise ValueError(f"each `{name}` may occur once; repeated: {few(sorted(twice))}")
        return self

    @classmethod
    def on(cls, addresses: list[str]) -> Self:
        """Ranks 0, 1, ... at these addresses."""
        entries = [{"rank": rank, "address": address} for rank, address in enumerate(addresses)]
        return cls.from_data({"devices": entries}, "addresses")

    @classmethod
    def local(cls, num_devices: int, first_port: int = DEFAULT_FIRST_PORT) -> Self:
        """All devices on this machine, on consecutive ports."""
        return cls.on([f"127.0.0.1:{first_port + rank}" for rank in range(num_devices)])

    def address(self, rank: int) -> str:
        """``HOST:PORT`` of a rank; raises :class:`SpecError` when it is not listed."""
        for device in self.devices:
            if device.rank == rank:
                return device.address
        known = ", ".join(str(device.rank) for device in self.devices)
        raise SpecError(f"{self._where}: no address for rank {rank}; `devices` lists the ranks {known}")
