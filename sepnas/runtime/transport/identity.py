"""TLS contexts made from the certificate of a device or the client.

TLS 1.3, mutual: each end shows a certificate of the deployment's authority that carries the name of the rank it claims.
"""

from __future__ import annotations

import contextlib
import ssl
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from sepnas.deployment.manifest import certificate_name
from sepnas.errors import DeploymentError, HandshakeError
from sepnas.spec.files import why


class Identity:
    """The certificate in ``folder`` (``ca.pem``, ``cert.pem``, ``key.pem``), as ``rank`` of a deployment.

    Raises :class:`DeploymentError` if the files are no key pair, and :class:`HandshakeError` if the certificate has
    expired or belongs to another rank: every peer would refuse it later.
    """

    def __init__(self, folder: Path, rank: int, deployment_id: str) -> None:
        self.rank, self.deployment_id = rank, deployment_id
        try:
            self._contexts = (
                _context(ssl.PROTOCOL_TLS_SERVER, folder),
                _context(ssl.PROTOCOL_TLS_CLIENT, folder),
            )
        except PermissionError as error:
            raise DeploymentError(f"{folder}: its certificates cannot be read: {why(error, folder)}") from error
        except (ssl.SSLError, OSError) as error:
            raise DeploymentError(
                f"{folder}: not a certificate and its key: {error}; export the deployment again"
            ) from error
        self._contexts[0].num_tickets = 0  # no session is resumed, so the first bytes after the handshake are frames
        self._check(folder)

    @property
    def server(self) -> ssl.SSLContext:
        """The context for accepted connections."""
        return self._contexts[0]

    @property
    def client(self) -> ssl.SSLContext:
        """The context for dialed connections."""
        return self._contexts[1]

    def name(self, rank: int) -> str:
        return certificate_name(rank, self.deployment_id)

    def _check(self, folder: Path) -> None:
        """Do a handshake with this identity at both ends, in memory."""
        to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
        server = self._contexts[0].wrap_bio(to_server, to_client, server_side=True)
        client = self._contexts[1].wrap_bio(to_client, to_server, server_hostname=self.name(self.rank))
        try:
            for _ in range(3):
                for end in (client, server):
                    _advance(end)
        except ssl.SSLError as error:
            raise HandshakeError(
                f"{folder / 'cert.pem'}: no peer would accept it: {getattr(error, 'verify_message', error)}; "
                f"check this machine's clock ({_now()}), or {RENEW_HINT}"
            ) from error


def _advance(end: ssl.SSLObject) -> None:
    with contextlib.suppress(ssl.SSLWantReadError):
        end.do_handshake()


def _context(protocol: int, folder: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(folder / "ca.pem")
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    return context


def names_in(certificate: dict[str, Any] | None) -> list[str]:
    """The DNS names of a certificate as ``SSLObject.getpeercert`` gives it."""
    return [value for kind, value in (certificate or {}).get("subjectAltName", ()) if kind == "DNS"]


RENEW_HINT = "make new ones where it was exported: sepnas certs renew DEPLOYMENT"

_NOT_YET_VALID, _EXPIRED = 9, 10
"""OpenSSL's X509_V_ERR_CERT_NOT_YET_VALID and X509_V_ERR_CERT_HAS_EXPIRED."""
_BY_CLOCK = {
    _NOT_YET_VALID: "set it, or that of the machine where the certificate was made",
    _EXPIRED: f"set it if that is wrong, else {RENEW_HINT}",
}

_MEANINGS = {
    "UNKNOWN_CA": "the certificate comes from another authority (another deployment)",
    "CERTIFICATE_UNKNOWN": "the certificate is not valid",
    "CERTIFICATE_REQUIRED": "a certificate is required",
    "WRONG_VERSION_NUMBER": "the other end speaks no TLS 1.3 (was it started with --insecure?)",
    "RECORD_LAYER_FAILURE": "the other end speaks no TLS 1.3 (was it started with --insecure?)",
    "HTTP_REQUEST": "the other end speaks no TLS",
    "PROTOCOL_VERSION": "the other end does not speak TLS 1.3",
}


def _now() -> str:
    return f"{datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC"


def reason_of(error: ssl.SSLError) -> str:
    """The meaning of an SSL error in words, with advice where there is some."""
    if isinstance(error, ssl.SSLCertVerificationError):
        if advice := _BY_CLOCK.get(error.verify_code):
            return f"{error.verify_message}; this machine's clock says {_now()}: {advice}"
        # 18-20: self-signed or unknown issuer, 7: signature of another authority with the same name
        foreign = error.verify_code in (7, 18, 19, 20, 21)
        hint = " (a certificate of another deployment)" if foreign else ""
        return f"{error.verify_message}{hint}"
    code = error.reason or ""
    if code.endswith("CERTIFICATE_EXPIRED"):
        return f"the certificate has expired by the other machine's clock (this one says {_now()}); {RENEW_HINT}"
    if code.endswith("BAD_CERTIFICATE"):  # also what OpenSSL sends for one that is not yet valid
        return (
            f"the certificate is not valid there: is the other machine's clock right (this one says {_now()}), and "
            "does its hosts.yaml name this device's address?"
        )
    for ending, meaning in _MEANINGS.items():
        if code.endswith(ending):
            return meaning
    return code.lower().replace("_", " ") or str(error)
