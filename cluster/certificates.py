"""Certificates and their keys, looked at before a server starts with them. The standard library alone."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from cluster.errors import ConfigError

MAKE = "make a new pair, or name other files"
HOST_KINDS = ("DNS", "IP Address")
"""As Python's ssl calls them; an e-mail address or a URI names nobody that a client connects to."""


class Shown(NamedTuple):
    """What clients see of a certificate."""

    until: datetime
    names: frozenset[str]
    """Hosts and addresses that it is for: never none."""


def check_pair(where: str, certificate: Path, key: Path, authority: Path | None = None) -> Shown:
    """What a server can show with these files, its certificate with its chain, and prove to be its own.

    Args:
        where: the setting that names the files, for errors.
        authority: PEM file with what clients trust; without it the certificate itself. With it clients show the certificate, too.

    Raises:
        ConfigError: a file is missing, cannot be read or is no PEM, the key is another's or has a passphrase, or the certificate
            is not valid now, not signed by the authority, or names no host.
    """
    for file in filter(None, (certificate, key, authority)):
        try:
            file.read_bytes()
        except OSError as error:
            remedy = "name a PEM file that serinus may read"
            raise ConfigError(f"{where}: {file}", f"cannot be read: {error.strerror}", remedy) from None
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        server.load_cert_chain(certificate, key, password="")
    except (ssl.SSLError, ValueError, OSError) as error:
        found = f"and {key} are no certificate and key that belong together ({_reason(error)})"
        raise ConfigError(f"{where}: {certificate}", found, f"{MAKE}; the key must have no passphrase") from None
    client = _client(where, authority or certificate)
    if authority:  # as gRPC between nodes, each of which is server and client
        client.load_cert_chain(certificate, key, password="")
        server.verify_mode = ssl.CERT_REQUIRED
        server.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        server.load_verify_locations(authority)
    return _shown(where, certificate, server, client)


def trusting(certificate: Path) -> ssl.SSLContext:
    """For a client on this machine that asks the server which has this certificate, under whatever address."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False  # it is asked by a loopback address; nobody else has its key
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # itself is the anchor, whoever signed it
    context.load_verify_locations(certificate)
    return context


def _client(where: str, trusted: Path) -> ssl.SSLContext:
    try:
        return trusting(trusted)
    except ssl.SSLError as error:
        raise ConfigError(f"{where}: {trusted}", f"is no certificate ({_reason(error)})", MAKE) from None


def _shown(where: str, certificate: Path, server: ssl.SSLContext, asking: ssl.SSLContext) -> Shown:
    """A handshake in memory: what clients will see."""
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = asking.wrap_bio(to_client, to_server)
    answering = server.wrap_bio(to_server, to_client, server_side=True)
    try:
        for _ in range(4):  # flights of TLS 1.2; 1.3 has fewer
            for side in (client, answering):
                try:
                    side.do_handshake()
                except ssl.SSLWantReadError:
                    continue
    except ssl.SSLCertVerificationError as error:
        raise ConfigError(f"{where}: {certificate}", f"is not valid ({error.verify_message})", MAKE) from None
    except ssl.SSLError as error:
        raise ConfigError(f"{where}: {certificate}", f"no client would take it ({_reason(error)})", MAKE) from None
    shown = client.getpeercert() or {}
    names = frozenset(str(pair[1]) for pair in shown.get("subjectAltName", ()) if pair[0] in HOST_KINDS)
    if not names:  # `trusting` leaves the host's name out, so the handshake above does not ask for one
        found = "names no host as subjectAltName, which is where clients look for one (RFC 9110, 4.3.4)"
        raise ConfigError(f"{where}: {certificate}", found, "make one with DNS:HOST or IP:ADDRESS as subjectAltName")
    return Shown(datetime.fromtimestamp(ssl.cert_time_to_seconds(str(shown["notAfter"])), UTC), names)


def _reason(error: BaseException) -> str:
    return str(getattr(error, "reason", None) or error).replace("_", " ").lower()
