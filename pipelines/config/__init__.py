"""The recipe of a lifecycle, up to the published revision. No heavy imports here."""

from pipelines.config.continual import ConsolidationConfig, OnlineConfig, ReplayConfig
from pipelines.config.data import (
    BUILT_IN_RULES,
    DEFAULT_RULE_NAMES,
    DEFAULT_RULES,
    DataConfig,
    DecontaminateConfig,
    DedupConfig,
    EvaluationSetConfig,
    ProtectAction,
    ProtectConfig,
    ProtectedKind,
    RepeatsConfig,
    RuleConfig,
    SourceConfig,
)
from pipelines.config.evaluation import EvaluateConfig
from pipelines.config.filters import (
    BlockedWordsConfig,
    C4Config,
    ClassifierConfig,
    FilterConfig,
    FineWebConfig,
    Fraction,
    PerplexityConfig,
    SixFractions,
)
from pipelines.config.gate import (
    DEFAULT_REQUIREMENTS,
    Comparison,
    ContaminationLimit,
    GateConfig,
    Priority,
    RequirementConfig,
    asked_of,
)
from pipelines.config.lifecycle import LifecycleConfig
from pipelines.config.methods import CausalConfig, InstructConfig, MethodConfig, PreferenceConfig
from pipelines.config.model import ModelConfig
from pipelines.config.privacy import BudgetConfig, PrivacyConfig
from pipelines.config.progressive import ForecastGateConfig, ProgressiveConfig, SizeConfig, StageConfig, StageRunConfig
from pipelines.config.quantization import QuantizationAwareConfig, QuantizeConfig, Stratum
from pipelines.config.rewards import AnswerReward, FunctionReward, GrpoConfig, PatternReward, Reward
from pipelines.config.sharing import ParallelConfig, ZeroConfig
from pipelines.config.spending import LedgerConfig, NodeBudgetConfig, NodeRates
from pipelines.config.stages import STAGES, Pool, Stage
from pipelines.config.trackers import MlflowConfig, TrackersConfig, WandbConfig
from pipelines.config.training import DistillationConfig, LoraConfig, TrainConfig

__all__ = [
    "BUILT_IN_RULES",
    "DEFAULT_REQUIREMENTS",
    "DEFAULT_RULES",
    "DEFAULT_RULE_NAMES",
    "STAGES",
    "AnswerReward",
    "BlockedWordsConfig",
    "BudgetConfig",
    "C4Config",
    "CausalConfig",
    "ClassifierConfig",
    "Comparison",
    "ConsolidationConfig",
    "ContaminationLimit",
    "DataConfig",
    "DecontaminateConfig",
    "DedupConfig",
    "DistillationConfig",
    "EvaluateConfig",
    "EvaluationSetConfig",
    "FilterConfig",
    "FineWebConfig",
    "ForecastGateConfig",
    "Fraction",
    "FunctionReward",
    "GateConfig",
    "GrpoConfig",
    "InstructConfig",
    "LedgerConfig",
    "LifecycleConfig",
    "LoraConfig",
    "MethodConfig",
    "MlflowConfig",
    "ModelConfig",
    "NodeBudgetConfig",
    "NodeRates",
    "OnlineConfig",
    "ParallelConfig",
    "PatternReward",
    "PerplexityConfig",
    "Pool",
    "PreferenceConfig",
    "Priority",
    "PrivacyConfig",
    "ProgressiveConfig",
    "ProtectAction",
    "ProtectConfig",
    "ProtectedKind",
    "QuantizationAwareConfig",
    "QuantizeConfig",
    "RepeatsConfig",
    "ReplayConfig",
    "RequirementConfig",
    "Reward",
    "RuleConfig",
    "SixFractions",
    "SizeConfig",
    "SourceConfig",
    "Stage",
    "StageConfig",
    "StageRunConfig",
    "Stratum",
    "TrackersConfig",
    "TrainConfig",
    "WandbConfig",
    "ZeroConfig",
    "asked_of",
]
