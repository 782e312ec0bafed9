"""What the driver of a training run tells its ranks."""

from __future__ import annotations

from typing import Any, NamedTuple


class Plan(NamedTuple):
    """What the driver tells every rank; plain values that travel well."""

    config: dict[str, Any]
    storage: str
    base: str
    """Storage folder of the model to start from."""
    tokens: dict[str, dict[str, Any]]
    """Role (dataset, replayed, consolidated, held: held-out old documents) -> index of the documents' token files."""
    examples: str
    """Storage key of the method's file, tokenised, or of grpo's prompts; empty for causal."""
    run: str
    """Storage folder of the run."""
    export: str
    """Storage folder for the model made."""
    num_parameters: int = 0
    """Of that model."""
    adapter: str = ""
    """Storage folder for the adapter, where one is trained."""
    importance: str = ""
    """Storage folder for Fisher's diagonal, with consolidation."""
    earlier: dict[str, Any] | None = None
    """That of the run before (importance.py): storage `folder` and `num_files`."""
    heldout: str = ""
    """Storage key of pairs that are not trained on, tokenised; empty where there are none."""
    teacher: str = ""
    """Storage folder of the model that this one learns from, with distillation."""
    rewards: dict[str, str] = {}  # nobody writes into it
    """Source of each of grpo's rewards that is a function of the user's, by name."""
    terms: dict[str, Any] | None = None
    """Of a private run: its mechanism (privacy.py). Its secret lies in the run's folder and travels in no message."""
