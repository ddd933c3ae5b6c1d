"""Renews the certificates and keys of devices and the client, and the authority itself.

A new authority is trusted beside the old one, which signs this renewal too, so devices can get their folders one after
the other. The next renewal is signed by the new authority.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from sepnas.deploy.certificates import (
    AUTHORITY_VALIDITY_DAYS,
    DEFAULT_VALIDITY_DAYS,
    Credential,
    issue,
    make_authority,
)
from sepnas.deploy.renewal_writer import write_renewal
from sepnas.deployment.manifest import Manifest, certificate_name, device_folder
from sepnas.deployment.verify import KEY_NAME, check_credential, exported_entry, load_manifest
from sepnas.errors import DeploymentError, SpecError
from sepnas.plan.steps import CLIENT
from sepnas.spec.folder_lock import held

MIN_DAYS_LEFT = 30
"""An authority that expires sooner signs only if ``days`` is given or the authority itself is being renewed."""
AUTHORITY = "authority"
_ALL_ANEW = "or make everything anew: sepnas export --force"


@dataclass(frozen=True, slots=True)
class Certificate:
    """One certificate of a deployment: its holder, the folder of its files, and its validity period."""

    holder: str
    file: Path
    valid_from: datetime.datetime
    valid_to: datetime.datetime
    fingerprint: str
    """sha256 in hexadecimal."""

    @property
    def days_left(self) -> float:
        return _days_until(self.valid_to)


@dataclass(frozen=True, slots=True)
class _Authority:
    """The newest authority, and all trusted authority certificates, the newest first."""

    newest: Credential
    trusted: tuple[x509.Certificate, ...]

    def trusted_pem(self) -> bytes:
        return b"".join(certificate.public_bytes(serialization.Encoding.PEM) for certificate in self.trusted)


def renew(
    deployment: Path,
    ranks: Sequence[int],
    days: float | None = None,
    out: Path | None = None,
    new_authority: bool = False,
) -> list[Certificate]:
    """Renew the certificates and keys of ``ranks`` (-1 is the client); the deployment must have its ``authority/``.

    Args:
        days: validity in days; by default ten years, limited by the authority's own.
        out: folder to write them into, with the deployment's layout; by default they take effect in the deployment.
        new_authority: also make a new authority, trusted from now on, which signs from the next renewal on.

    Raises:
        DeploymentError: the authority is missing, damaged, foreign, expired or about to expire, or a device's folder is
            missing.
        SpecError: ``ranks`` or ``days`` out of range.
        StorageError: a folder cannot be written; folders renewed before it stay renewed.
    """
    manifest = load_manifest(deployment)
    target = out or deployment
    with ExitStack() as alone:
        for folder in dict.fromkeys((target, deployment) if new_authority else (target,)):
            alone.enter_context(held(folder))
        return _renew(deployment, manifest, ranks, days, out, new_authority)


def _renew(
    deployment: Path,
    manifest: Manifest,
    ranks: Sequence[int],
    days: float | None,
    out: Path | None,
    new_authority: bool,
) -> list[Certificate]:
    target = out or deployment
    for rank in ranks:
        _check_rank(manifest, rank)
        if out is None and not (deployment / holder_name(rank)).is_dir():
            raise DeploymentError(f"{deployment}: has no {holder_name(rank)}; write elsewhere with --out FOLDER")
    authority = load_authority(deployment, manifest)
    signer = authority.newest
    if new_authority:
        authority = _with_new_authority(authority, manifest)
        if _days_until(signer.certificate.not_valid_after_utc) < 1:
            signer = authority.newest  # the old one has expired: no connection is possible anyway
    valid_days = _validity_days(deployment, signer, days, may_end_soon=new_authority)
    if new_authority:
        files = {"ca.pem": authority.trusted_pem(), KEY_NAME: authority.newest.key_pem()}
        write_renewal(deployment / AUTHORITY, files, exported_entry(AUTHORITY, manifest.files))
    return [_renew_one(manifest, rank, target, authority, signer, valid_days) for rank in ranks]


def certificates(deployment: Path) -> list[Certificate]:
    """The certificates in force in a deployment, the authority's first; holders without a folder here are omitted.

    Raises :class:`DeploymentError` for a changed file or a key that other users may read.
    """
    manifest = load_manifest(deployment)
    found = []
    for holder in (AUTHORITY, *map(holder_name, (*range(manifest.num_devices), CLIENT))):
        if not (deployment / holder).is_dir():
            continue
        name, pem = (AUTHORITY, "ca.pem") if holder == AUTHORITY else (f"{holder}/tls", "cert.pem")
        file = check_credential(deployment, name, manifest.files) / pem
        for place, certificate in enumerate(_read_certificates(file)):
            found.append(_told(f"{holder}, before" if place else holder, file, certificate))
    return found


def holder_name(rank: int) -> str:
    """The folder of a device, or of the client (rank -1), in a deployment."""
    return "client" if rank == CLIENT else device_folder(rank)


def load_authority(deployment: Path, manifest: Manifest) -> _Authority:
    """The authority of a deployment; raises :class:`DeploymentError`."""
    if not (deployment / AUTHORITY).is_dir():
        raise DeploymentError(
            f"{deployment}: has no {AUTHORITY}/, which signs certificates; put back the one that was exported with "
            f"this deployment (it stays where it was exported), {_ALL_ANEW}"
        )
    folder = check_credential(deployment, AUTHORITY, manifest.files)
    trusted = _read_certificates(folder / "ca.pem")
    try:
        key = serialization.load_pem_private_key((folder / KEY_NAME).read_bytes(), None)
    except (ValueError, TypeError) as error:
        raise DeploymentError(
            f"{folder / KEY_NAME}: is not a private key; put back the right one, {_ALL_ANEW}"
        ) from error
    newest, *earlier = trusted
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != newest.public_key():
        raise DeploymentError(f"{folder}: the key is not that of ca.pem; put back the right one, {_ALL_ANEW}")
    return _Authority(Credential(key, newest), (newest, *_still_valid(earlier)))


def _read_certificates(file: Path) -> tuple[x509.Certificate, ...]:
    try:
        return tuple(x509.load_pem_x509_certificates(file.read_bytes()))
    except ValueError as error:
        raise DeploymentError(f"{file}: is not a certificate; put back the right one, {_ALL_ANEW}") from error


def _check_rank(manifest: Manifest, rank: int) -> None:
    if not CLIENT <= rank < manifest.num_devices:
        raise SpecError(f"certs: `device` must be one of 0..{manifest.num_devices - 1}, got {rank}")


def _with_new_authority(old: _Authority, manifest: Manifest) -> _Authority:
    newest = make_authority(manifest.deployment_id, AUTHORITY_VALIDITY_DAYS)
    return _Authority(newest, (newest.certificate, *_still_valid(old.trusted)))


def _still_valid(certificates: Sequence[x509.Certificate]) -> list[x509.Certificate]:
    return [certificate for certificate in certificates if _days_until(certificate.not_valid_after_utc) > 0]


def _validity_days(deployment: Path, signer: Credential, days: float | None, may_end_soon: bool) -> float:
    """The validity in days, limited to the authority's: a certificate is useless after its authority has expired."""
    if days is not None and not 0 < days <= AUTHORITY_VALIDITY_DAYS:  # refuses nan too
        raise SpecError(f"certs: `days` must be more than 0 and at most {AUTHORITY_VALIDITY_DAYS}, got {days!r}")
    end = signer.certificate.not_valid_after_utc
    left = _days_until(end)
    remedy = f"make a new one: sepnas certs renew {deployment} --authority"
    if left <= 0:
        raise DeploymentError(f"{deployment / AUTHORITY}: the authority has expired ({end:%Y-%m-%d}); {remedy}")
    if days is None:
        if left < MIN_DAYS_LEFT and not may_end_soon:
            raise DeploymentError(
                f"{deployment / AUTHORITY}: the authority expires in {left:.0f} days ({end:%Y-%m-%d}), and what it "
                f"signs with it; {remedy}"
            )
        return min(DEFAULT_VALIDITY_DAYS, left)
    if days > left and not may_end_soon:
        raise SpecError(
            f"certs: `days` is {days:g}, but the authority expires in {left:.0f} days ({end:%Y-%m-%d}); give no more, "
            f"or {remedy}"
        )
    return min(days, left)


def _renew_one(
    manifest: Manifest, rank: int, target: Path, authority: _Authority, signer: Credential, days: float
) -> Certificate:
    name = f"{holder_name(rank)}/tls"
    credential = issue(signer, certificate_name(rank, manifest.deployment_id), days)
    files = {
        "ca.pem": authority.trusted_pem(),
        "cert.pem": credential.certificate_pem(),
        KEY_NAME: credential.key_pem(),
    }
    place = write_renewal(target / name, files, exported_entry(name, manifest.files))
    return _told(holder_name(rank), place / "cert.pem", credential.certificate)


def _told(holder: str, file: Path, certificate: x509.Certificate) -> Certificate:
    fingerprint = certificate.fingerprint(hashes.SHA256()).hex()
    return Certificate(holder, file, certificate.not_valid_before_utc, certificate.not_valid_after_utc, fingerprint)


def _days_until(moment: datetime.datetime) -> float:
    return (moment - datetime.datetime.now(datetime.timezone.utc)).total_seconds() / 86_400
