"""API keys: kept as hashes, found in constant time, added without touching what stands in the file."""

from __future__ import annotations

import hmac
from pathlib import Path

import pytest

from cluster.config import load_yaml
from cluster.errors import ConfigError, InputError
from cluster.storage import LocalStorage
from services.serving.keys import ApiKey, KeyFile, Published, add_key, hash_of, publish_keys, read_keys, revoke_key


def test_a_key_is_found_by_its_token_and_by_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "keys.yaml"
    tokens = {name: add_key(path, name) for name in ("ann", "ben", "cem")}
    keys = load_yaml(path, KeyFile)
    for name, token in tokens.items():
        found = keys.owner(token)
        assert found is not None
        assert found.name == name
        assert keys.owner(hash_of(token)) is None
        assert token not in path.read_text()
    assert keys.owner("") is None
    assert keys.owner("\ud800") is None
    assert len(set(tokens.values())) == 3


def test_every_hash_is_compared_even_after_one_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[str] = []
    real = hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", lambda a, b: bool(compared.append(b)) or real(a, b))
    keys = KeyFile(keys=tuple(ApiKey(name=name, sha256=hash_of(name)) for name in ("a", "b", "c")))
    assert keys.owner("a") is not None
    assert compared == [hash_of("a"), hash_of("b"), hash_of("c")]


def test_a_file_written_by_hand_keeps_its_comments(tmp_path: Path) -> None:
    path = tmp_path / "keys.yaml"
    path.write_text(f"# ours\nkeys:\n  - name: ann # since May\n    sha256: {'a' * 64}\n    requests_per_minute: 5\n")
    add_key(path, "ben", rights=("canary",), tokens_per_minute=100)
    assert "# since May" in path.read_text()
    ann, ben = load_yaml(path, KeyFile).keys
    assert (ann.requests_per_minute, ben.rights, ben.tokens_per_minute) == (5, ("canary",), 100)
    assert path.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("name", "fields", "match"),
    [("ann", {}, "already"), ("two words", {}, "name"), ("ben", {"rights": ("king",)}, "rights")],
)
def test_a_key_that_cannot_be_is_refused_and_the_file_left_alone(
    tmp_path: Path, name: str, fields: dict[str, object], match: str
) -> None:
    path = tmp_path / "keys.yaml"
    add_key(path, "ann")
    before = path.read_text()
    with pytest.raises(InputError, match=match):
        add_key(path, name, **fields)
    assert path.read_text() == before


@pytest.mark.parametrize("text", ["keys: []\n", "keys:\n- name: ann\n  sha256: " + "a" * 64 + "\n"])
def test_a_file_in_another_style_is_refused_and_left_alone(tmp_path: Path, text: str) -> None:
    path = tmp_path / "keys.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"keys\.yaml"):
        add_key(path, "ben")
    assert path.read_text() == text
    assert [file.name for file in tmp_path.iterdir()] == ["keys.yaml"]


@pytest.mark.parametrize(
    "text",
    [
        f"keys:\n  - {{name: a, sha256: {'a' * 64}}}\n  - {{name: a, sha256: {'b' * 64}}}\n",
        f"keys:\n  - {{name: a, sha256: {'a' * 64}}}\n  - {{name: b, sha256: {'a' * 64}}}\n",
        "keys:\n  - {name: a, sha256: sk-serinus-oops}\n",
        f"keys:\n  - {{name: a, sha256: {'a' * 64}, requests_per_minute: 0}}\n",
    ],
)
def test_a_file_with_a_mistake_is_not_put_in_force(tmp_path: Path, storage: LocalStorage, text: str) -> None:
    path = tmp_path / "keys.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"keys\.yaml"):
        publish_keys(storage, "m", path)
    assert read_keys(storage, "m") == (Published(), "")


def test_gateways_read_what_was_published(tmp_path: Path, storage: LocalStorage) -> None:
    token = add_key(tmp_path / "keys.yaml", "ann")
    publish_keys(storage, "m", tmp_path / "keys.yaml")
    keys, version = read_keys(storage, "m")
    assert version
    assert keys.owner(token) is not None


def test_a_file_that_cannot_be_read_or_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("keys:\n")
    for path, says in ((tmp_path, "cannot be read"), (tmp_path / "file" / "keys.yaml", "cannot be written")):
        with pytest.raises(ConfigError, match=says):
            add_key(path, "ann")


def test_keys_of_the_control_api_are_apart_from_users(tmp_path: Path, storage: LocalStorage) -> None:
    users, control = tmp_path / "keys.yaml", tmp_path / "control.yaml"
    add_key(users, "ann")
    token = add_key(control, "ann", control="operator")
    publish_keys(storage, "m", users)
    publish_keys(storage, "m", control, "control")
    assert read_keys(storage, "m")[0].owner(token) is None
    found = read_keys(storage, "m", "control")[0].owner(token)
    assert found is not None
    assert (found.told, found.control) == ("ann (operator)", "operator")
    for path, kind in ((control, "users"), (users, "control")):
        with pytest.raises(ConfigError, match="key ann"):
            publish_keys(storage, "m", path, kind)
    with pytest.raises(InputError, match="control"):
        add_key(control, "bob", control="root")


def test_a_revoked_key_stays_out_though_a_file_has_it_still(tmp_path: Path, storage: LocalStorage) -> None:
    path = tmp_path / "control.yaml"
    tokens = {name: add_key(path, name, control="admin") for name in ("ann", "ben")}
    publish_keys(storage, "m", path, "control")
    revoke_key(storage, "m", "control", "ann")
    published = publish_keys(storage, "m", path, "control")
    assert published.owner(tokens["ann"]) is None
    assert published.owner(tokens["ben"]) is not None
    with pytest.raises(InputError, match="is not in force"):
        revoke_key(storage, "m", "control", "ann")


def test_a_file_published_while_a_key_is_revoked_does_not_bring_it_back(tmp_path: Path) -> None:
    class Racing(LocalStorage):
        """Somebody else revokes ann's key at the moment of the first write after it is armed."""

        armed = False

        def write(self, key: str, content: bytes, *, expect: str | None = None) -> str:
            if self.armed:
                self.armed = False
                revoke_key(LocalStorage(tmp_path / "storage"), "m", "users", "ann")
            return super().write(key, content, expect=expect)

    storage, path = Racing(tmp_path / "storage"), tmp_path / "keys.yaml"
    add_key(path, "ann")
    publish_keys(storage, "m", path)
    storage.armed = True
    assert publish_keys(storage, "m", path).keys == ()
