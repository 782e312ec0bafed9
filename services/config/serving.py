"""The gateway: who comes in, who is asked, where it listens."""

from __future__ import annotations

import math
from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from cluster.config import LOOPBACK, Location, StrictModel, WebAddress, is_loopback, is_none
from services.config.engine import EngineConfig, ReplicasConfig


class AdmissionConfig(StrictModel):
    """Who may ask the gateway, and how much."""

    keys: Location | None = None
    """YAML file of API keys (`serinus keys add NAME`). Without one the gateway is open to whoever reaches it."""
    max_body_bytes: int = Field(8 * 2**20, ge=1024)
    """A request's body beyond it is refused (413) while it streams in."""
    max_output_tokens: int | None = Field(None, ge=1)
    """A request for more is refused, one that names no maximum gets this one. None: the engine's max_model_len alone."""
    max_choices: int = Field(16, ge=1)
    """Largest `n` of a request."""
    max_waiting_requests: int = Field(256, ge=1)
    """Requests without a first token at each gateway replica; beyond it they are refused (429)."""
    waiting_share_percent: float = Field(50, gt=0, le=100)
    """Of these places one key may take so many: a client that floods the gateway leaves room for the others."""
    timeout_s: float = Field(600, gt=0)
    """An answer that is not whole by then is stopped, in vLLM too (504). Clients may ask for less by x-serinus-timeout-s."""
    canary_patience_s: float = Field(60, gt=0)
    """A canary that has not begun its stream by then has failed (outcome `timeout`), and stable answers: a revision that hangs
    must cost its users a minute, not `timeout_s`. Answers in one piece get the whole `timeout_s`."""
    canary_absence_s: float = Field(180, ge=0)
    """A canary whose replicas are all gone for a while (a process was killed, a machine died) starts again by itself: its users are
    answered by stable, and the requests it missed say nothing about the model. Absent for longer, each of them is its failure."""

    @property
    def max_waiting_of_key(self) -> int:
        return math.ceil(self.max_waiting_requests * self.waiting_share_percent / 100)


class ShadowConfig(StrictModel):
    """Copies of users' requests to a canary while it has 0 % of the users."""

    percent: float = Field(0, ge=0, le=100)
    """Share of requests that are copied after the user was answered; 0 copies none. A rollout whose first step is at 0 % judges the
    canary by them, against the requests that are not copied."""
    max_concurrent: int = Field(2, ge=1)
    """Requests at each gateway replica that are to be copied or are being copied, from the user's question to the end of the copy.
    While there are so many no other takes part in the comparison."""
    timeout_s: float = Field(60, gt=0)
    """For a copy's answer. Requests that stable took longer to answer are not compared."""


class TlsConfig(StrictModel):
    """HTTPS in place of HTTP. The files must be there on every node that listens."""

    certificate: Location
    """PEM file: the server's certificate, then those between it and its root."""
    key: Location
    """PEM file of its private key, without a passphrase."""


class ControlConfig(StrictModel):
    """The control API, by which rollouts are looked at and steered over HTTP with keys that have roles."""

    host: str = LOOPBACK
    """Address on the cluster's head; any other than a loopback one asks for `serve.tls`."""
    port: int = Field(8010, ge=1, le=65535)
    keys: Location
    """YAML file of its keys (`serinus keys add NAME --control ROLE`), not that of the gateway's: a user's key steers nothing."""

    @property
    def on_loopback(self) -> bool:
        return is_loopback(self.host)


class TracingConfig(StrictModel):
    """Spans of requests, sent to an OpenTelemetry collector by OTLP: the gateway's, and vLLM's below them. What the collector asks
    for (OTEL_EXPORTER_OTLP_HEADERS and the like) is taken from the environment of the nodes alone."""

    endpoint: WebAddress
    """The collector as gateways and engines reach it, such as http://127.0.0.1:4317 for one on every node; for `http` without
    the path `/v1/traces`, which is added."""
    protocol: Literal["grpc", "http"] = "grpc"
    """OTLP's: gRPC (a collector's port 4317) or protobuf over HTTP (4318)."""
    sample_percent: float = Field(100, ge=0, le=100)
    """Share of requests that are traced, where the client's `traceparent` does not say: one that comes is followed."""

    @property
    def traces_address(self) -> str:
        """Where an exporter of this protocol sends spans."""
        return f"{self.endpoint}/v1/traces" if self.protocol == "http" else self.endpoint

    @model_validator(mode="after")
    def _a_collector_alone(self) -> TracingConfig:
        path = urlsplit(self.endpoint).path
        if path and self.protocol == "grpc":
            raise ValueError(f"endpoint: gRPC has no path ({path}): leave it out, or set protocol: http")
        if path.endswith("/v1/traces"):
            raise ValueError("endpoint: leave /v1/traces out, it is added")
        return self


class ServingConfig(StrictModel):
    """The gateway and the model servers behind it."""

    host: str = LOOPBACK
    """Address the gateway listens on; 0.0.0.0 opens it to the network."""
    port: int = Field(8000, ge=1, le=65535)
    tls: TlsConfig | None = None
    """Without it the gateway speaks plain HTTP: put a proxy with TLS before it where a network is between."""
    entry: Literal["auto", "direct", "proxy"] = "auto"
    """`direct`: gateway replicas listen themselves, on the nodes where they run; the shortest way. `proxy`: Serve's proxies listen,
    on every node, and go on to a replica anywhere. `auto`: direct on a loopback address, else proxy."""
    pool: Literal["serve", "train", "data", "head"] = "serve"
    num_gateway_replicas: int = Field(1, ge=1)
    user_header: str = "x-serinus-user"
    """Header that names the user when a request has neither an API key nor the `user` field."""
    show_revision: bool = True
    """Tell the revision that answered in the header x-serinus-revision."""
    admission: AdmissionConfig = AdmissionConfig()
    control: ControlConfig | None = Field(None, exclude_if=is_none)
    """Without it there is no control API."""
    tracing: TracingConfig | None = Field(None, exclude_if=is_none)
    """Without it nothing is traced."""
    shadow: ShadowConfig = ShadowConfig()
    engine: EngineConfig = EngineConfig()
    replicas: ReplicasConfig = ReplicasConfig()
    ready_timeout_s: float = Field(600, gt=0)
    """How long a revision may take to load before that counts as its failure."""
    keep_revisions: int = Field(1, ge=0)
    """Replaced revisions left running after a promotion, at rest, for rollout.keep_warm_s."""

    @property
    def on_loopback(self) -> bool:
        return is_loopback(self.host)

    @property
    def is_direct(self) -> bool:
        """Whether gateway replicas listen themselves."""
        return self.entry == "direct" or (self.entry == "auto" and self.on_loopback)

    @model_validator(mode="after")
    def _control_is_apart(self) -> ServingConfig:
        if self.control is None:
            return self
        if self.control.port == self.port:
            raise ValueError(f"control.port: {self.port} is the gateway's port: choose another one")
        if not self.control.on_loopback and self.tls is None:
            raise ValueError(
                f"control.host: {self.control.host} is open to a network, where keys would be read by others: "
                "set serve.tls, or listen on 127.0.0.1"
            )
        if self.control.keys == self.admission.keys:
            raise ValueError("control.keys: the users' file (serve.admission.keys): name another one")
        return self
