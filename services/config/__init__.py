"""Settings of what runs: the engine, the gateway, the rollout. No heavy imports here."""

from services.config.engine import EngineConfig, LoraConfig, LoraRank, ReplicasConfig
from services.config.notify import TOLD, AuditKind, NotifyConfig, WebhookConfig, is_web_address
from services.config.probes import DecayConfig, JudgeConfig, ProbesConfig, ProbeSetConfig, Scorer
from services.config.rollout import METRICS, MIN_HARMED_USERS, Metric, RolloutConfig, StepConfig
from services.config.serving import (
    AdmissionConfig,
    ControlConfig,
    ServingConfig,
    ShadowConfig,
    TlsConfig,
    TracingConfig,
)

__all__ = [
    "METRICS",
    "MIN_HARMED_USERS",
    "TOLD",
    "AdmissionConfig",
    "AuditKind",
    "ControlConfig",
    "DecayConfig",
    "EngineConfig",
    "JudgeConfig",
    "LoraConfig",
    "LoraRank",
    "Metric",
    "NotifyConfig",
    "ProbeSetConfig",
    "ProbesConfig",
    "ReplicasConfig",
    "RolloutConfig",
    "Scorer",
    "ServingConfig",
    "ShadowConfig",
    "StepConfig",
    "TlsConfig",
    "TracingConfig",
    "WebhookConfig",
    "is_web_address",
]
