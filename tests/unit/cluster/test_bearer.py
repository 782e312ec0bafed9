"""A service's key comes from the environment, and is in no error."""

from __future__ import annotations

import pytest

from cluster.bearer import authorization
from cluster.errors import ConfigError


def test_the_key_goes_along(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVICE_KEY", "s3cr3t")
    assert authorization("SERVICE_KEY", "judge.key_env") == {"authorization": "Bearer s3cr3t"}
    assert authorization(None, "judge.key_env") == {}


@pytest.mark.parametrize("key", ["", None])
def test_a_variable_that_says_nothing_is_named(key: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SERVICE_KEY", raising=False)
    if key is not None:
        monkeypatch.setenv("SERVICE_KEY", key)
    with pytest.raises(ConfigError, match=r"^judge.key_env: the environment has no variable SERVICE_KEY"):
        authorization("SERVICE_KEY", "judge.key_env")


@pytest.mark.parametrize("key", ["schl\u00fcssel", "key\n", "key\r\nx-other: 1"])
def test_what_no_header_may_hold_is_refused_and_not_shown(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVICE_KEY", key)
    with pytest.raises(ConfigError, match="characters that no header may have") as caught:
        authorization("SERVICE_KEY", "judge.key_env")
    assert key not in str(caught.value)
