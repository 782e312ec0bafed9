"""The gateway's certificate: whether it can be served with, and what of it decides that gateways are replaced."""

from __future__ import annotations

import ssl
from datetime import datetime
from pathlib import Path

from cluster.certificates import check_pair, trusting
from cluster.storage import sha256_of
from services.config import ServingConfig


def check(serving: ServingConfig) -> datetime | None:
    """Until when the certificate holds; None without one.

    Raises:
        ConfigError: the files cannot be served with.
    """
    if serving.tls is None:
        return None
    return check_pair("serve.tls", Path(serving.tls.certificate), Path(serving.tls.key)).until


def shown(serving: ServingConfig) -> dict[str, str]:
    """Of a gateway's settings. A renewed one is shown by new gateways; proxies keep theirs until the cluster starts anew."""
    if serving.tls is None or not serving.is_direct:
        return {}
    return {"certificate": sha256_of(Path(serving.tls.certificate))}


def trusted(serving: ServingConfig) -> ssl.SSLContext | None:
    """For who asks the gateway on its own machine."""
    return trusting(Path(serving.tls.certificate)) if serving.tls else None
