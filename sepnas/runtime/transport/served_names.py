"""Host names under which an HTTP endpoint answers, so that pages of other sites in a browser cannot use it.

A browser sends the name that it looked up (Host), even if the name's owner has pointed it at this machine (DNS
rebinding), and the site of the page that asks (Origin, Sec-Fetch-Site).
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from sepnas.errors import SpecError

MAX_HOST_NAMES = 100
_AUTHORITY = re.compile(r"(\[[0-9a-f:.%]+\]|[^\[\]:/@\s]*)(?::(\d*))?", re.IGNORECASE)
_HOST_NAME = re.compile(r"(?!-)[\w-]{1,63}(?<!-)(\.(?!-)[\w-]{1,63}(?<!-))*", re.ASCII)
_READING = frozenset({"GET", "HEAD", "OPTIONS"})
_SHOWN = 80


@dataclass(frozen=True)
class NameRefusal:
    """Why a request is refused: HTTP status, a code for programs, a message for people."""

    status: int
    code: str
    message: str


class ServedNames:
    """The names that a request's Host may have.

    These are this machine's loopback names, the address that the request reached, and ``extra``, which may also be in
    its Origin. Raises :class:`SpecError` if one of ``extra`` is neither a host name nor an address.
    """

    def __init__(self, extra: Iterable[str] = ()) -> None:
        self._extra = frozenset(_checked(name) for name in extra)
        if len(self._extra) > MAX_HOST_NAMES:
            raise SpecError(f"at most {MAX_HOST_NAMES} host names can be served, got {len(self._extra)}")

    def refusal(self, method: str, headers: Mapping[str, str], reached: str) -> NameRefusal | None:
        """Why a request is refused; None if it may be answered. One without a Host (HTTP/1.0) is not a browser's.

        ``headers`` have lower-case names; ``reached`` is the address of this machine at which the request came.
        """
        host, origin = headers.get("host"), headers.get("origin")
        if host is not None and not self._serves(host, reached):
            return NameRefusal(421, "misdirected", f"Host {_shown(host)} is not served here; {_remedy(host)}")
        if origin is not None and not self._own(origin, host):
            return _cross_origin(f"a page of {_shown(origin)}")
        site = headers.get("sec-fetch-site", "none")
        if origin is None and method not in _READING and site not in ("none", "same-origin"):
            return _cross_origin("a page of another site")
        return None

    def _serves(self, authority: str, reached: str) -> bool:
        host, _ = _parts(authority)
        return host is not None and (host == _plain(reached) or host in self._extra or _is_own(host))

    def _own(self, origin: str, host: str | None) -> bool:
        scheme, _, authority = origin.partition("://")
        name, port = _parts(authority)
        if name is None or scheme not in ("http", "https"):
            return False  # `null`, an extension
        return name in self._extra or (host is not None and _parts(host) == (name, port))


def _checked(name: str) -> str:
    host = _plain(name.removeprefix("[").removesuffix("]"))
    if not (_is_address(host) or (len(host) <= 253 and _HOST_NAME.fullmatch(host))):
        raise SpecError(
            f"{name!r} is not a host name; give a name or address without a port, such as images.example.org"
        )
    return host


def _parts(authority: str) -> tuple[str | None, str]:
    """Host and port; the host is None if it is neither a name nor an address."""
    found = _AUTHORITY.fullmatch(authority)
    if found is None or not found[1]:
        return None, ""
    return _plain(found[1].strip("[]")), found[2] or ""


def _plain(host: str) -> str:
    """A host in its canonical spelling."""
    host = host.partition("%")[0].removesuffix(".").lower()
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    return str(getattr(address, "ipv4_mapped", None) or address)


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _is_own(host: str) -> bool:
    return host == "localhost" or (_is_address(host) and ipaddress.ip_address(host).is_loopback)


def _remedy(host: str) -> str:
    name = _parts(host)[0]
    if name is None or not (_is_address(name) or _HOST_NAME.fullmatch(name)):
        return "ask by this machine's address"
    return f"ask by this machine's address, or start it with --host-name {name[:_SHOWN]}"


def _cross_origin(whose: str) -> NameRefusal:
    return NameRefusal(403, "cross-origin", f"{whose} must not ask here; only pages of this service's own names may")


def _shown(text: str) -> str:
    return repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}...")
