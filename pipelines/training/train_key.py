"""Which runs make the same: the key of what the train stage makes."""

from __future__ import annotations

from hashlib import sha256

from cluster import artifacts
from cluster.artifacts import Dataset, Weights
from pipelines.config import CausalConfig, GrpoConfig, PreferenceConfig, TrainConfig
from pipelines.training.method_file import read_file
from pipelines.training.rewards import recorded

HOW = {
    "pool",
    "cpus_per_worker",
    "checkpoint_every_steps",
    "checkpoint_asynchronously",
    "keep_checkpoints",
    "max_failures",
    "hang_timeout_s",
    "watts_per_worker",
    "trackers",
}
"""Fields that change how a run is carried out, not what it makes: they may change before an interrupted run goes on."""

LAYOUT = {
    "num_workers",
    "sequences_per_worker",
    "gradient_accumulation",
    "sequences_per_step",
    "gradient_checkpointing",
    "parallel",
}
"""Fields that say which worker computes what. What is made differs by rounding alone as long as a step takes the same
number of sequences, so that they may change as well; so may all of `zero` but `extra`, which can change anything."""


def train_key(config: TrainConfig, dataset: Dataset, base: Weights, teacher: Weights | None = None) -> str:
    """The key of the stage's result; with the same one an interrupted run is taken up again."""
    asked = config.model_dump(mode="json", exclude={*HOW, *LAYOUT, "zero"})
    if not isinstance(config.method, CausalConfig):
        asked["method"]["path"] = file_digest(config)
    if isinstance(config.method, GrpoConfig):
        del asked["method"]["rollouts"]  # how, not what
        asked["method"]["rewards"] = recorded(config.method)
    if isinstance(config.method, PreferenceConfig) and not config.method.heldout_percent:
        del asked["method"]["heldout_percent"], asked["method"]["heldout_seed"]  # as before there were such fields
    for name in ("lora", "privacy", "quantization_aware", "distillation"):
        if asked[name] is None:
            del asked[name]  # what was made before there was such a field keeps its key
    if config.distillation:
        del asked["distillation"]["teacher"]  # an input
    if config.quantization_aware:
        asked["quantization_aware"] = config.quantization_aware.settings
    if held := asked["consolidation"]:
        del held["min_retention_percent"]  # it says what is taken, not what is made
        if held["online"] is None:
            del held["online"]
    if config.privacy:
        del asked["privacy"]["budget"]  # a run may be allowed more and be the same run
    asked |= {"sequences_per_step": config.total_sequences, "zero.extra": config.zero.extra}
    learnt_from = {"teacher": teacher.digest} if teacher else {}
    return artifacts.stage_key("train", asked, {"dataset": dataset.digest, "base": base.digest, **learnt_from})


def file_digest(config: TrainConfig) -> str:
    """Of the method's file; empty where it has none."""
    return "" if isinstance(config.method, CausalConfig) else sha256(read_file(config.method.path)).hexdigest()
