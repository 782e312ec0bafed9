"""Where Serve listens, and whether it can and does."""

from __future__ import annotations

import itertools
import socket
import time
import urllib.error
import urllib.request
from typing import Any

import psutil

from cluster.errors import ResourceError
from cluster.pools import node_hosts
from services.config import ServingConfig
from services.serving import tls

EVERY_ADDRESS = ("0.0.0.0", "::")  # noqa: S104  # compared, not bound


def reached_at(host: str) -> str:
    """Where those on the same machine reach who listens on that host."""
    return "127.0.0.1" if host in EVERY_ADDRESS else host


def origin(host: str, port: int, serving: ServingConfig) -> str:
    """Scheme, host and port of an URL."""
    return f"{'https' if serving.tls else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"


def url_at(host: str, serving: ServingConfig) -> str:
    """OpenAI's base URL of a gateway that listens on that host."""
    return f"{origin(host, serving.port, serving)}/v1"


def listen(serving: ServingConfig) -> None:
    """Start Serve, with HTTP proxies where they are to listen; loopback addresses make sense on the head alone.

    Raises:
        ResourceError: the port is taken, or Serve listens elsewhere already.
    """
    from ray import serve
    from ray.serve.context import _get_global_client

    client = _get_global_client(raise_if_no_controller_running=False)
    if client is not None:
        _check_same_address(serving, client)
        return
    check_free(serving.host, serving.port, "serve.port")
    location = "Disabled" if serving.is_direct else "HeadOnly" if serving.on_loopback else "EveryNode"
    files = {"ssl_certfile": serving.tls.certificate, "ssl_keyfile": serving.tls.key} if serving.tls else {}
    serve.start(proxy_location=location, http_options={"host": serving.host, "port": serving.port, **files})


def _check_same_address(serving: ServingConfig, client: Any) -> None:
    import ray
    from ray.serve.config import ProxyLocation

    remedy = "use what the cluster has in the recipe, or restart it (`serinus down`, `serinus up`) to change it"
    present = client.http_config
    if (present.host, present.port) != (serving.host, serving.port):
        found = f"this cluster's gateway listens on {present.host}:{present.port} already"
        raise ResourceError(f"serve.port {serving.host}:{serving.port}", found, remedy)
    if (ray.get(client._controller.get_proxy_location.remote()) == ProxyLocation.Disabled) != serving.is_direct:
        found = "this cluster's Serve was started " + ("with proxies" if serving.is_direct else "without proxies")
        raise ResourceError("serve.entry", found, remedy)
    if not serving.is_direct and present.ssl_certfile != (serving.tls.certificate if serving.tls else None):
        found = f"this cluster's proxies were started {'with' if present.ssl_certfile else 'without'} a certificate"
        raise ResourceError("serve.tls", found, remedy)


def check_free(host: str, port: int, setting: str) -> None:
    """Raises ResourceError: something else listens there."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            remedy = f"choose another {setting}, or stop what listens there"
            raise ResourceError(f"{setting} {host}:{port}", error.strerror or str(error), remedy) from None


def num_listening(serving: ServingConfig) -> int:
    """Sockets of this machine on which gateways take connections themselves: one a gateway."""
    found = psutil.net_connections("tcp")
    here = (socket.getaddrinfo(serving.host, serving.port)[0][4][0], serving.port)
    return sum(one.status == psutil.CONN_LISTEN and tuple(one.laddr) == here for one in found)


def wait_answering(serving: ServingConfig, selector: dict[str, str], timeout_s: float = 30.0) -> None:
    """The proxy learns of a new application a moment after it runs.

    Args:
        selector: labels of the nodes on which gateways run.

    Raises:
        ResourceError: none answers.
    """
    deadline = time.monotonic() + timeout_s
    for url in itertools.cycle(f"{url_at(host, serving)}/models" for host in _hosts(serving, selector)):
        if (silent := _silent(url, serving)) is None:
            return
        if time.monotonic() > deadline:
            raise ResourceError(url, f"the gateway does not answer ({silent})", "see `serinus status`")
        time.sleep(0.2)


def _hosts(serving: ServingConfig, selector: dict[str, str]) -> list[str]:
    """Where one answers at least. Gateways that listen themselves may all be on other machines than this."""
    if serving.is_direct and serving.host in EVERY_ADDRESS:
        return node_hosts(selector)
    return [reached_at(serving.host)]


def _silent(url: str, serving: ServingConfig) -> str | None:
    """None: it answers, also if it asks for a key."""
    try:
        with urllib.request.urlopen(url, timeout=5, context=tls.trusted(serving)) as answer:  # noqa: S310  # our own
            return None if answer.status == 200 else f"HTTP {answer.status}"
    except urllib.error.HTTPError as error:
        return None if error.code == 401 else str(error)
    except OSError as error:
        return str(error)
