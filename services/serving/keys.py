"""API keys: a YAML file of hashes, the document in storage that gateways follow, and finding a key's owner.

    keys.yaml  --serinus deploy, serinus keys apply-->  registry/<name>/keys.json  --read every second-->  gateways

A key has 256 random bits, so its plain SHA-256 cannot be searched backwards; a slow hash would only slow every request.
Neither the file nor the document nor any log holds a key itself.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import secrets
from pathlib import Path

import yaml
from pydantic import Field, ValidationError, field_validator

from cluster.config import StrictModel, load_yaml
from cluster.errors import ConfigError, InputError
from cluster.storage import Storage
from services.contract import Role

PREFIX = "sk-serinus-"
KEY_BYTES = 32
HEADER = "# API keys of a serinus gateway: hashes, never keys. Add one: serinus keys add NAME; after edits: serinus keys apply\n"


class ApiKey(StrictModel):
    """One key: who has it, what it may do, and how much of it."""

    name: str = Field(pattern=r"^[\w.@-]{1,64}$")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    rights: tuple[Role, ...] = ()
    """Roles that this key may ask for by header instead of taking what the split gives."""
    requests_per_minute: int | None = Field(None, ge=1)
    tokens_per_minute: int | None = Field(None, ge=1)
    """Prompt and answer together."""


class KeyFile(StrictModel):
    """All keys of one gateway."""

    keys: tuple[ApiKey, ...] = ()

    @field_validator("keys")
    @classmethod
    def _each_once(cls, keys: tuple[ApiKey, ...]) -> tuple[ApiKey, ...]:
        for what in ("name", "sha256"):
            values = [getattr(key, what) for key in keys]
            if len(set(values)) < len(values):
                raise ValueError(f"two keys have the same {what}")
        return keys

    def owner(self, token: str) -> ApiKey | None:
        """The key that `token` is; compared with every hash, in a time that tells nothing about which one fits."""
        hashed, found = hash_of(token), None
        for key in self.keys:
            if hmac.compare_digest(hashed, key.sha256):
                found = key
        return found


def hash_of(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def add_key(path: Path, key_name: str, **fields: object) -> str:
    """Write a new key's hash at the end of the file, comments kept; returns the key, which is nowhere else.

    Raises:
        ConfigError: the file is not a list of keys, or cannot be added to.
        InputError: there is a key of that name, or what is asked for is not valid.
    """
    present = load_yaml(path, KeyFile) if path.exists() else KeyFile()
    text = path.read_text(encoding="utf-8") if path.exists() else HEADER + "keys:\n"
    if any(key.name == key_name for key in present.keys):
        raise InputError(f"key {key_name}", f"is in {path} already", "choose another name, or remove that entry first")
    token = PREFIX + secrets.token_urlsafe(KEY_BYTES)
    given = {name: value for name, value in fields.items() if value}
    try:
        added = ApiKey.model_validate({"name": key_name, "sha256": hash_of(token), **given})
    except ValidationError as error:
        detail = error.errors(include_url=False)[0]
        remedy = "letters, digits, . @ _ - for names; stable and canary for rights; whole numbers above 0 for limits"
        raise InputError(f"key {key_name}: {detail['loc'][0]}", detail["msg"], remedy) from None
    item = yaml.safe_dump([added.model_dump(mode="json", exclude_defaults=True)], sort_keys=False)
    wanted = KeyFile(keys=(*present.keys, added))
    _write(path, f"{text.rstrip()}\n{_indented(item)}", wanted)
    return token


def _indented(item: str) -> str:
    return "".join(f"  {line}\n" for line in item.splitlines())


def _write(path: Path, text: str, wanted: KeyFile) -> None:
    """Replace the file, once the new text is known to say what is wanted."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.touch(mode=0o600)
        draft.write_text(text, encoding="utf-8")
        if load_yaml(draft, KeyFile) != wanted:
            raise ConfigError(str(path), "is written in a way that cannot be added to", "end the file with the list `keys:`, "
                              "one entry a block with two spaces before the dash")  # fmt: skip
        draft.replace(path)
    except ConfigError as error:
        raise ConfigError(str(path), error.found, error.remedy) from None
    except OSError as error:
        found = f"cannot be written: {error.strerror or error}"
        raise ConfigError(str(path), found, "name a file that you may write to in serve.admission.keys") from None
    finally:
        with contextlib.suppress(OSError):
            draft.unlink()


def _document(name: str) -> str:
    return f"registry/{name}/keys.json"


def publish_keys(storage: Storage, name: str, path: Path) -> KeyFile:
    """Put the file's keys in force for the gateways of `name`, which follow within a second or two.

    Raises:
        ConfigError: the file is missing or says something it must not.
    """
    found = load_yaml(path, KeyFile)
    storage.write(_document(name), found.model_dump_json(indent=1).encode())
    return found


def read_keys(storage: Storage, name: str) -> tuple[KeyFile, str]:
    """The keys in force and their version in storage; no keys at all where none were published."""
    blob = storage.read(_document(name))
    return (KeyFile.model_validate_json(blob.content), blob.version) if blob else (KeyFile(), "")


def changes(before: KeyFile, after: KeyFile) -> str:
    """What was done to the keys, by their names, for the audit record; empty when nothing was."""
    old, new = ({key.name: key for key in keys.keys} for keys in (before, after))
    done = {
        "added": new.keys() - old.keys(),
        "removed": old.keys() - new.keys(),
        "changed": {name for name in old.keys() & new.keys() if old[name] != new[name]},
    }
    return "; ".join(f"{what}: {', '.join(sorted(names))}" for what, names in done.items() if names)
