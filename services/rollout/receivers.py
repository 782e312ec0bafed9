"""Which webhooks of a model are in force, in storage: the recipe names them, the controller reads them within seconds."""

from __future__ import annotations

import hashlib

from cluster.config import StrictModel, variable
from cluster.errors import ConfigError
from cluster.storage import Storage
from services import audit
from services.config import NotifyConfig, WebhookConfig, is_web_address


class Receiver(StrictModel):
    """A webhook as it is in force."""

    webhook: WebhookConfig
    since: int = 0
    """Last entry of the record before the webhook was named: it hears what comes after."""
    timeout_s: float
    give_up_after_s: float

    @property
    def id(self) -> str:
        """Tells receivers apart by their addresses, and tells no address."""
        where = self.webhook.url or f"env:{self.webhook.url_env}"
        return hashlib.sha256(where.encode()).hexdigest()[:12]

    @property
    def url(self) -> str:
        """Raises ConfigError: the environment variable is not set, or is no address."""
        if self.webhook.url is not None:
            return self.webhook.url
        url = _variable("url_env", str(self.webhook.url_env))
        if not is_web_address(url):
            found = f"the environment variable {self.webhook.url_env} is no address"
            raise ConfigError("notify.webhooks.url_env", found, "should be such as https://host/path")
        return url

    @property
    def secret(self) -> str | None:
        """Raises ConfigError: the environment variable is not set."""
        name = self.webhook.secret_env
        return _variable("secret_env", name) if name else None


class Receivers(StrictModel):
    """All webhooks of one model, as the controller reads them."""

    receivers: tuple[Receiver, ...] = ()


def publish_receivers(storage: Storage, name: str, config: NotifyConfig) -> None:
    """Put the recipe's webhooks in force: the controller of `name` reads them within seconds."""
    known = {receiver.id: receiver for receiver in read_receivers(storage, name)}
    end = audit.end(storage, name) if config.webhooks else None
    made = []
    for webhook in config.webhooks:
        since = end.entry.number if end else 0
        new = Receiver(webhook=webhook, since=since, timeout_s=config.timeout_s, give_up_after_s=config.give_up_after_s)
        made.append(new.replace(since=known[new.id].since) if new.id in known else new)
    if made or known:
        storage.write(_receivers_key(name), Receivers(receivers=tuple(made)).model_dump_json(indent=1).encode())


def read_receivers(storage: Storage, name: str) -> tuple[Receiver, ...]:
    """Those in force, each once."""
    blob = storage.read(_receivers_key(name))
    found = Receivers.model_validate_json(blob.content).receivers if blob else ()
    return tuple({receiver.id: receiver for receiver in found}.values())


def check_receivers(storage: Storage, name: str) -> None:
    """Raises ConfigError: what a webhook needs of this process's environment is not there."""
    for receiver in read_receivers(storage, name):
        receiver.url, receiver.secret  # noqa: B018


def _variable(field: str, name: str) -> str:
    found = variable(name)
    if found is None:
        remedy = f"set {name} where the head of the cluster is started (before `serinus up`, or in the head's pod)"
        raise ConfigError(f"notify.webhooks.{field}", f"the controller's environment has no variable {name}", remedy)
    return found


def _receivers_key(name: str) -> str:
    return f"notifications/{name}/webhooks.json"
