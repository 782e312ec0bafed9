"""What Ray's pods may reach outside the cluster, beside ports 443 and 6443.

Sources: GKE, "Use network policies with Workload Identity"; EKS, "Learn how EKS Pod Identity grants pods access". IAM roles for
service accounts on EKS and Azure's workload identity go through port 443 and need nothing.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from typing import Any

from cluster.errors import ConfigError

METADATA_SERVICES = (ipaddress.ip_network("169.254.0.0/16"), ipaddress.ip_network("fd00:ec2::/32"))
"""Where clouds hand a machine's own credentials to whoever asks from it: to a pod only where an address is named."""
IDENTITIES = {
    "gke-workload-identity": ("169.254.169.254/32:80", "169.254.169.252/32:988"),  # Dataplane V2, and without it
    "eks-pod-identity": ("169.254.170.23/32:80", "[fd00:ec2::23/128]:80"),
}
"""The services that hand a pod the credentials of its own account."""
NAMESPACE = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
MAX_PORT = 65535

Rule = dict[str, Any]


def rules(allowed: Sequence[str]) -> list[Rule]:
    """Egress rules of a NetworkPolicy.

    Args:
        allowed: ADDRESS:PORT with an address or a CIDR, NAMESPACE:PORT, or one of IDENTITIES.

    Raises:
        ConfigError: one is none of these.
    """
    return [_rule(target) for name in allowed for target in IDENTITIES.get(name, (name,))]


def _rule(target: str) -> Rule:
    place, _, port = target.rpartition(":")
    if not place or not port.isdecimal() or not 0 < int(port) <= MAX_PORT:
        raise _refused(target)
    return {"to": [_peer(place, target)], "ports": [{"port": int(port), "protocol": "TCP"}]}


def _peer(place: str, target: str) -> Rule:
    try:
        block = ipaddress.ip_network(place.removeprefix("[").removesuffix("]"))
    except ValueError:
        if not NAMESPACE.fullmatch(place):
            raise _refused(target) from None
        return {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": place}}}
    inside = [str(m) for m in METADATA_SERVICES if m.version == block.version and m.subnet_of(block)]  # type: ignore[arg-type]
    return {"ipBlock": {"cidr": str(block), **({"except": inside} if inside else {})}}


def _refused(target: str) -> ConfigError:
    remedy = f"give 10.1.2.3:9000, 10.0.0.0/8:9000, a namespace as in minio:9000, or {' or '.join(IDENTITIES)}"
    return ConfigError("--egress", f"{target!r} is no place with a port", remedy)
