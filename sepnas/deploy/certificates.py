"""A certificate authority for one deployment, and a certificate for each device and the client.

EC P-256 for mutual TLS 1.3: each certificate is valid for both ends of a connection, and its name identifies the
deployment and the rank. Private keys are PKCS #8 PEM files without a password, readable by their owner only.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

DEFAULT_VALIDITY_DAYS = 3650
AUTHORITY_VALIDITY_DAYS = 2 * DEFAULT_VALIDITY_DAYS
"""Longer than the first certificates' validity, so that the authority can still renew them when they expire."""
CLOCK_SKEW_DAYS = 1
"""Certificates are valid from this many days before their creation: boards without a battery-backed clock lag."""


@dataclass(frozen=True, slots=True)
class Credential:
    """A private key and its certificate."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    def key_pem(self) -> bytes:
        return self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )

    def certificate_pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)


def make_authority(deployment_id: str, validity_days: float = DEFAULT_VALIDITY_DAYS) -> Credential:
    """Create the certificate authority of one deployment."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name(f"sepnas authority {deployment_id[:16]}")
    builder = (
        _builder(name, name, key, validity_days)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
    )
    return Credential(key, builder.sign(key, hashes.SHA256()))


def issue(authority: Credential, dns_name: str, validity_days: float = DEFAULT_VALIDITY_DAYS) -> Credential:
    """Issue a certificate for ``dns_name``; a negative validity makes an expired one."""
    key = ec.generate_private_key(ec.SECP256R1())
    both = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    issuer = authority.certificate
    builder = (
        _builder(_name(dns_name), issuer.subject, key, validity_days)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(both), critical=False)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(dns_name)]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key()), critical=False)
    )
    return Credential(key, builder.sign(authority.key, hashes.SHA256()))


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, validity_days: float
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.timezone.utc)
    end = now + datetime.timedelta(days=validity_days)
    start = min(now, end) - datetime.timedelta(days=CLOCK_SKEW_DAYS)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(end)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _usage(signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
