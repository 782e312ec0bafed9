"""API keys: a YAML file of hashes, the document in storage that gateways follow, and finding a key's owner.

    keys.yaml  --serinus deploy, serinus keys apply-->  registry/<name>/keys.json  --read every second-->  gateways
    control-keys.yaml  --the same-->  registry/<name>/control-keys.json  --the same-->  the control API (services/control)

A key has 256 random bits, so its plain SHA-256 cannot be searched backwards; a slow hash would only slow every request.
Neither the file nor the document nor any log holds a key itself.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Final, Literal

import yaml
from pydantic import Field, ValidationError, field_validator

from cluster.config import StrictModel, is_empty, is_none, load_yaml
from cluster.errors import ConfigError, Conflict, InputError
from cluster.storage import ABSENT, Storage
from cluster.telemetry import logger
from services.contract import ControlRole, Role

log = logger("serving")

KeyKind = Literal["users", "control"]
"""Whose keys: those that ask the gateway, or those that steer. Apart, so that a key for one is none for the other."""
DOCUMENTS: Final[dict[KeyKind, str]] = {"users": "keys.json", "control": "control-keys.json"}
NUM_ATTEMPTS: Final = 20

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
    control: ControlRole | None = Field(None, exclude_if=is_none)
    """What a key of the control API may do; a user's key has none."""

    @property
    def told(self) -> str:
        """For people."""
        return self.name if self.control is None else f"{self.name} ({self.control})"


class KeyFile(StrictModel):
    """All keys of one gateway, or of one control API."""

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


class Published(KeyFile):
    """The keys in force."""

    revoked: tuple[str, ...] = Field((), exclude_if=is_empty)
    """Hashes of keys that were revoked: a file that has one still, as on another machine, does not bring it back."""

    def taking(self, file: KeyFile) -> Published:
        """Those of `file` in the place of these."""
        keys = tuple(key for key in file.keys if key.sha256 not in self.revoked)
        return Published(keys=keys, revoked=self.revoked)

    def without(self, key_name: str) -> Published:
        """These, with that one revoked."""
        gone = tuple(key.sha256 for key in self.keys if key.name == key_name)
        return Published(keys=tuple(key for key in self.keys if key.name != key_name), revoked=(*self.revoked, *gone))


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
        remedy = (
            "letters, digits, . @ _ - for names; stable and canary for rights; viewer, operator and admin for control; "
            "whole numbers above 0 for limits"
        )
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
        raise ConfigError(str(path), found, "name a file in the recipe that you may write to") from None
    finally:
        with contextlib.suppress(OSError):
            draft.unlink()


def publish_keys(storage: Storage, name: str, path: Path, kind: KeyKind = "users") -> Published:
    """Put the file's keys in force for the gateways or the control API of `name`, which follow within a second or two; returns
    what is in force now, without those that were revoked.

    Raises:
        ConfigError: the file is missing or says something it must not.
    """
    found = read_file(path, kind)
    return _change(storage, name, kind, lambda present: present.taking(found))


def read_file(path: Path, kind: KeyKind) -> KeyFile:
    """What a file says.

    Raises:
        ConfigError: as `publish_keys`.
    """
    found = load_yaml(path, KeyFile)
    for key in found.keys:
        _check_kind(path, key, kind)
    return found


def _check_kind(path: Path, key: ApiKey, kind: KeyKind) -> None:
    if kind == "users" and key.control is not None:
        remedy = "keep it in the file of serve.control.keys: serinus keys add NAME --control ROLE"
        raise ConfigError(f"{path}: key {key.name}", f"is to be {key.control}, in the users' file", remedy)
    if kind == "control" and (key.control is None or key.rights or key.tokens_per_minute):
        found = "is no key of the control API: such a one has `control`, and neither rights nor tokens at the gateway"
        raise ConfigError(f"{path}: key {key.name}", found, "add `control: viewer`, `operator` or `admin`")


def revoke_key(storage: Storage, name: str, kind: KeyKind, key_name: str) -> None:
    """Take a key out of force for good, whatever the file says.

    Raises:
        InputError: there is none of that name.
    """

    def without(present: Published) -> Published:
        if all(key.name != key_name for key in present.keys):
            raise InputError(f"key {key_name}", f"is not in force among those of {kind}", "see: serinus keys list")
        return present.without(key_name)

    _change(storage, name, kind, without)


def read_keys(storage: Storage, name: str, kind: KeyKind = "users") -> tuple[Published, str]:
    """The keys in force and their version in storage; no keys at all where none were published.

    Raises:
        InputError: the document is damaged, or another version wrote it.
    """
    blob = storage.read(_document(name, kind))
    if blob is None:
        return Published(), ABSENT
    try:
        return Published.model_validate_json(blob.content), blob.version
    except ValidationError as error:
        found = f"holds no keys that this version can read ({error.errors(include_url=False)[0]['msg']})"
        remedy = "put the file's in force again: serinus keys apply; then revoke those anew that were revoked"
        raise InputError(f"{storage.uri}/{_document(name, kind)}", found, remedy) from None


def _change(storage: Storage, name: str, kind: KeyKind, change: Callable[[Published], Published]) -> Published:
    """By compare-and-set: who publishes a file must not bring back what is being revoked."""
    for _ in range(NUM_ATTEMPTS):
        present, version = readable_keys(storage, name, kind)
        wanted = change(present)
        with contextlib.suppress(Conflict):
            storage.write(_document(name, kind), wanted.model_dump_json(indent=1).encode(), expect=version)
            return wanted
    raise Conflict(f"the keys of {name} are being changed by others all the time")


def readable_keys(storage: Storage, name: str, kind: KeyKind) -> tuple[Published, str]:
    """As `read_keys`, for those who write over a damaged document."""
    try:
        return read_keys(storage, name, kind)
    except InputError as error:
        blob = storage.read(_document(name, kind))
        log.warning("%s", error)
        return Published(), blob.version if blob else ABSENT


def _document(name: str, kind: KeyKind) -> str:
    return f"registry/{name}/{DOCUMENTS[kind]}"


def changes(before: KeyFile, after: KeyFile) -> str:
    """What was done to the keys, by their names, for the audit record; empty when nothing was."""
    old, new = ({key.name: key for key in keys.keys} for keys in (before, after))
    done = {
        "added": new.keys() - old.keys(),
        "removed": old.keys() - new.keys(),
        "changed": {name for name in old.keys() & new.keys() if old[name] != new[name]},
    }
    shown = {key.name: key.told for key in (*before.keys, *after.keys)}
    told = {what: ", ".join(shown[name] for name in sorted(names)) for what, names in done.items() if names}
    return "; ".join(f"{what}: {names}" for what, names in told.items())
