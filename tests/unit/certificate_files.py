"""Certificates for tests, signed by themselves."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest


def make_pair(
    folder: Path,
    name: str = "tls",
    *,
    days: float = 30,
    since: float = -1,
    for_servers_alone: bool = False,
    hosts: Sequence[str] = ("127.0.0.1",),
) -> tuple[Path, Path]:
    """Certificate and key for these addresses (or URIs, which are none), valid from `since` days from now for so many days."""
    pytest.importorskip("cryptography")
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    begins = datetime.now(UTC) + timedelta(days=since)
    purposes = [ExtendedKeyUsageOID.SERVER_AUTH, *([] if for_servers_alone else [ExtendedKeyUsageOID.CLIENT_AUTH])]
    names = [
        x509.UniformResourceIdentifier(host) if "://" in host else x509.IPAddress(ipaddress.ip_address(host))
        for host in hosts
    ]
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins)
        .not_valid_after(begins + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
    )
    if names:
        made = made.add_extension(x509.SubjectAlternativeName(names), critical=False)
    signed = made.sign(key, hashes.SHA256())
    files = folder / f"{name}.crt", folder / f"{name}.key"
    files[0].write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    plain = serialization.NoEncryption()
    files[1].write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain))
    return files
