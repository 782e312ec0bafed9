"""The log format and the names of the metrics, said once. Ray puts `ray_` before each name and `_total` after counters."""

from __future__ import annotations

import logging
import sys

from cluster.config import logs_json
from cluster.log_format import JsonFormatter, TextFormatter, bind, printable

__all__ = ["bind", "configure", "logger", "printable"]

REQUESTS, REFUSED = "serinus_requests", "serinus_refused_requests"
TTFT, TPOT, TOKENS = "serinus_ttft_seconds", "serinus_tpot_seconds", "serinus_tokens"
SHADOW_REPLIES, SHADOW_LENGTH = "serinus_shadow_replies", "serinus_shadow_length_ratio"

FEEDBACK = "serinus_feedback"

EVIDENCE_LOST = "serinus_evidence_lost"
ROLLOUT_TURN, ROLLOUT_WEIGHT = "serinus_rollout_turn_timestamp_seconds", "serinus_rollout_weight_percent"
ROLLOUT_WAITS, DECAY_PHASE = "serinus_rollout_waits_seconds", "serinus_decay_phase"
ROLLOUT_VOTES, ROLLOUT_VOTES_DOWN = "serinus_rollout_votes", "serinus_rollout_votes_down_share"

STAGE_RUNNING, STAGE_BEGAN = "serinus_stage_running", "serinus_stage_began_timestamp_seconds"
STAGE_ENDED, STAGE_SECONDS = "serinus_stage_ended", "serinus_stage_seconds"
STAGE_DONE, STAGE_PLANNED = "serinus_stage_done", "serinus_stage_planned"
CLEAN_DOCUMENTS, CLEAN_EXCLUDED = "serinus_clean_documents", "serinus_clean_excluded_documents"
CLEAN_BYTES, CLEAN_CHARACTERS = "serinus_clean_bytes", "serinus_clean_characters"
CLEAN_SPEED = "serinus_clean_bytes_per_second"
TRAIN_STEP_AT, TRAIN_LOSS = "serinus_train_step_timestamp_seconds", "serinus_train_loss"
TRAIN_REWARD, TRAIN_LEARNING_RATE = "serinus_train_reward", "serinus_train_learning_rate"
TRAIN_TOKENS, TRAIN_SPEED = "serinus_train_tokens", "serinus_train_tokens_per_second"
TRAIN_GRADIENT_NORM, TRAIN_MFU = "serinus_train_gradient_norm", "serinus_train_mfu"
TRAIN_EPSILON, TRAIN_BUDGET_SPENT = "serinus_train_epsilon", "serinus_train_privacy_budget_spent"
TRAIN_ROLLBACKS, TRAIN_RESUMES = "serinus_train_rollbacks", "serinus_train_resumes"
TRAIN_CHECKPOINTS, TRAIN_CHECKPOINT_SECONDS = "serinus_train_checkpoints", "serinus_train_checkpoint_seconds"
EVALUATE_SCORE, QUANTIZE_SCHEME, QUANTIZE_BYTES = (
    "serinus_evaluate_score",
    "serinus_quantize_scheme",
    "serinus_quantize_bytes",
)
GATE_VERDICTS = "serinus_gate_verdicts"

REVISION_LABELS = ("model", "revision", "role")
"""`model` is the public name."""

TTFT_BUCKETS_S = (
    0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 320
)  # fmt: skip
"""OpenTelemetry's for gen_ai.server.time_to_first_token, and on to where long prompts wait in a queue."""
TPOT_BUCKETS_S = (
    0.0025, 0.005, 0.01, 0.015, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5
)  # fmt: skip
"""OpenTelemetry's for gen_ai.server.time_per_output_token, and finer where GPUs are."""
LENGTH_RATIO_BUCKETS = (0.1, 0.25, 0.5, 0.75, 0.9, 1, 1.1, 1.33, 2, 4, 10)


def logger(name: str) -> logging.Logger:
    """A logger below `serinus` that writes to standard error once `configure` was called."""
    return logging.getLogger(f"serinus.{name}")


def configure(verbose: bool = False) -> None:
    """Log serinus's own lines to standard error, for people or, with SERINUS_LOG_FORMAT=json, as JSON."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if logs_json() else TextFormatter())
    root = logging.getLogger("serinus")
    root.handlers[:] = [handler]
    root.setLevel(logging.DEBUG if verbose else logging.INFO)
    root.propagate = False
