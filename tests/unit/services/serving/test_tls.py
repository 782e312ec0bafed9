"""The gateway over real HTTPS: what clients see, and what they do not get without it."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

import httpx
import pytest

from cluster.certificates import trusting
from services.config import ServingConfig, TlsConfig
from services.serving import listener, tls
from services.serving.listener import Listener
from tests.unit.certificate_files import make_pair
from tests.unit.services.serving.test_listener import HOST, MAX_REQUESTS, Application, free_port


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LINGER_S", "HANDSHAKE_S", "GOODBYE_S"):
        monkeypatch.setattr(listener, name, 0.1)


def test_a_listener_with_a_certificate_speaks_https_alone(tmp_path: Path) -> None:
    certificate, key = make_pair(tmp_path)

    async def story() -> None:
        application, port = Application(), free_port()
        listening = Listener(HOST, port, MAX_REQUESTS, TlsConfig(certificate=str(certificate), key=str(key)))
        await listening.start(application)
        trusts = ssl.create_default_context(cafile=str(certificate))  # with the host's name, as a client does
        async with httpx.AsyncClient(base_url=f"https://{HOST}:{port}", verify=trusts) as client:
            assert (await client.get("/quick")).text == "one two"
            slow = asyncio.create_task(client.get("/slow"))
            await application.begun.wait()
            with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
                await httpx.AsyncClient().get(f"https://{HOST}:{port}/quick")
            with pytest.raises(httpx.RemoteProtocolError):
                await httpx.AsyncClient().get(f"http://{HOST}:{port}/quick")
            draining = asyncio.create_task(listening.drain())
            application.finish.set()
            assert (await slow).text == "one two", "answered while it drains"
            await draining

    asyncio.run(asyncio.wait_for(story(), 30))


def test_commands_on_this_machine_trust_that_certificate_and_no_other(tmp_path: Path) -> None:
    ours, key = make_pair(tmp_path)
    other, _ = make_pair(tmp_path, "other")

    async def story() -> None:
        port = free_port()
        listening = Listener("127.0.0.2", port, MAX_REQUESTS, TlsConfig(certificate=str(ours), key=str(key)))
        await listening.start(Application())
        url = f"https://127.0.0.2:{port}/quick"  # an address that the certificate does not name
        async with httpx.AsyncClient(verify=trusting(ours)) as client:
            assert (await client.get(url)).status_code == 200
        async with httpx.AsyncClient(verify=trusting(other)) as client:
            with pytest.raises(httpx.ConnectError):
                await client.get(url)
        await listening.drain()

    asyncio.run(asyncio.wait_for(story(), 30))


def test_a_renewed_certificate_is_another_setting_and_none_is_none(tmp_path: Path) -> None:
    certificate, key = make_pair(tmp_path)
    serving = ServingConfig(tls=TlsConfig(certificate=str(certificate), key=str(key)))
    before = tls.shown(serving)
    make_pair(tmp_path)
    assert tls.shown(serving) != before
    assert tls.shown(ServingConfig()) == {}
    assert tls.check(ServingConfig()) is None
    assert tls.trusted(ServingConfig()) is None
