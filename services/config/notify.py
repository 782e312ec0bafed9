"""What the audit record tells of, and who is told."""

from __future__ import annotations

from typing import Final, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from cluster.config import StrictModel

AuditKind = Literal[
    "started", "step", "held", "promoted", "rolled_back", "aborted", "inconclusive", "reverted", "decayed", "waiting",
    "not_started", "published", "deployed", "keys", "refused",
]  # fmt: skip
"""What the audit record tells of, and webhooks. `held`: a person set the weight. `rolled_back`: the analysis found harm;
`aborted`: a person took the candidate out, or another one took its place; `inconclusive`: not enough evidence in time.
`reverted`: stable was changed outside a rollout, by a person or by the watch over decay. `decayed`: stable has, and a person
must act. `waiting`: a candidate has to wait for the rollout under way, or gave its place up; `not_started`: its turn came and
it could not be loaded. `refused`: a key of the control API asked for what its role may not."""
TOLD: Final[tuple[AuditKind, ...]] = (
    "started", "step", "held", "promoted", "rolled_back", "aborted", "inconclusive", "reverted", "decayed", "waiting",
    "not_started",
)  # fmt: skip


class WebhookConfig(StrictModel):
    """One receiver of notifications. docs/notifications.md has the payload and how to check its signature."""

    url: str | None = None
    """Where to POST. It goes into storage as it is: where the address itself is a secret, name `url_env` instead."""
    url_env: str | None = Field(None, pattern=r"^[A-Za-z_]\w*$")
    """Environment variable, on the head node of the cluster, that holds the address."""
    secret_env: str | None = Field(None, pattern=r"^[A-Za-z_]\w*$")
    """Environment variable there that holds the secret the body is signed with. Without one nothing is signed."""
    events: tuple[AuditKind, ...] = TOLD
    """Kinds of entries of the audit record that are sent."""

    @field_validator("url")
    @classmethod
    def _of_the_web(cls, url: str | None) -> str | None:
        if url is not None and not is_web_address(url):
            raise ValueError("should be an address such as https://host/path")
        return url

    @model_validator(mode="after")
    def _one_address(self) -> WebhookConfig:
        if (self.url is None) == (self.url_env is None):
            raise ValueError("give one of url and url_env")
        return self


def is_web_address(url: str) -> bool:
    """Whether a notification can be sent there."""
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        return False


class NotifyConfig(StrictModel):
    """Who is told what happens to rollouts."""

    webhooks: tuple[WebhookConfig, ...] = ()
    timeout_s: float = Field(10, gt=0)
    """For a receiver to take the connection, and between two bytes of its answer."""
    give_up_after_s: float = Field(86_400, gt=0)
    """What could not be delivered for so long after it happened is not tried any more."""
