"""What a webhook is told of one entry of the audit record, and how that is signed: Standard Webhooks 1.0."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
from typing import Any, Final

from cluster.errors import ConfigError
from services.audit import Line, Stored
from services.config import AuditKind

WORDS: Final[dict[AuditKind, str]] = {
    "started": "rollout started",
    "step": "next step",
    "held": "weight set by hand",
    "promoted": "promoted",
    "rolled_back": "ROLLED BACK",
    "aborted": "taken out",
    "inconclusive": "rolled back, inconclusive",
    "reverted": "STABLE CHANGED outside a rollout",
    "waiting": "waiting for its turn",
    "decayed": "HAS DECAYED",
    "not_started": "NOT STARTED",
    "published": "published",
    "deployed": "deployed",
    "keys": "API keys changed",
    "refused": "REFUSED by the control API",
}


def payload(stored: Stored) -> bytes:
    """The body: `text` is what Slack and its like show, `data` is for machines. Layout as Standard Webhooks has it."""
    line = stored.entry.line
    data = {
        "id": line.id,
        "model": line.name,
        "kind": line.kind,
        "who": line.who,
        "message": line.message,
        **line.details,
        "audit_number": stored.entry.number,
        "audit_sha256": stored.sha256,
    }
    body: dict[str, Any] = {"type": f"serinus.{line.kind}", "timestamp": line.at.isoformat(), "text": text(line)}
    return json.dumps({**body, "data": data}, ensure_ascii=False).encode()


def text(line: Line) -> str:
    """One line for people."""
    about = line.details.get("candidate")
    what = f" {about}" if about else ""
    return f"{line.name}:{what} {WORDS[line.kind]} (by {line.who}): {line.message}"


def signature(secret: str, message_id: str, timestamp_s: int, body: bytes) -> str:
    """HMAC-SHA256 over id, time and body: Standard Webhooks 1.0, "signature scheme", symmetric. The time is part of it so that a
    receiver can refuse what is old, and nobody can send it again as new."""
    signed = f"{message_id}.{timestamp_s}.".encode() + body
    return "v1," + base64.b64encode(hmac.new(_key_of(secret), signed, hashlib.sha256).digest()).decode()


def _key_of(secret: str) -> bytes:
    if secret.startswith("whsec_"):
        try:
            return base64.b64decode(secret.removeprefix("whsec_"), validate=True)
        except binascii.Error:
            raise ConfigError("notify.webhooks.secret_env", "begins with whsec_ and goes on with no base64",
                              "give whsec_ and base64, or any other text") from None  # fmt: skip
    return secret.encode()
