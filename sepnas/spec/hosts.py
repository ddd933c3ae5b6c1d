"""Where the devices of a deployment listen: ``hosts.yaml``."""

from __future__ import annotations

import os
from typing import Annotated, ClassVar

from pydantic import Field, PrivateAttr, field_validator, model_validator
from typing_extensions import Self

from sepnas.errors import SpecError
from sepnas.spec.document import Document, Part

DEFAULT_FIRST_PORT = 17300
"""Below 32768, where Linux starts to hand out ports by itself."""


def parse_address(text: str, lowest_port: int = 1) -> tuple[str, int]:
    """``HOST:PORT`` (an IPv6 host in brackets) as host and port; raises :class:`SpecError`."""
    host, colon, port = text.rpartition(":")
    host = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    bracketed_or_plain = ":" not in host or text.startswith("[")
    if not (host and colon and port.isascii() and port.isdigit() and bracketed_or_plain):
        raise SpecError(f"expected HOST:PORT, such as 192.168.1.20:{DEFAULT_FIRST_PORT} or [::1]:..., got {text!r}")
    if len(port) > 5 or not lowest_port <= int(port) <= 65535:
        raise SpecError(f"the port must lie in {lowest_port}..65535, got {text!r}")
    return host, int(port)


def format_address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class HostEntry(Part):
    """One device's address, as the client and the other devices reach it."""

    rank: Annotated[int, Field(ge=0)]
    address: str

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

    devices: Annotated[tuple[HostEntry, ...], Field(min_length=1)]
    _where: str = PrivateAttr("hosts")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Hosts) and self.devices == other.devices  # wherever they were read

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
            found = [getattr(device, name) for device in self.devices]
            twice = sorted({str(value) for value in found if found.count(value) > 1})
            if twice:
                raise ValueError(f"each `{name}` must stand once, these stand more often: {', '.join(twice)}")
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
