"""The model that another one learns from: does it speak of the same tokens, and how a rank holds it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cluster.artifacts import Weights
from cluster.errors import ConfigError
from cluster.storage import Storage
from pipelines.config import TrainConfig
from pipelines.training.losses import check_boundaries
from pipelines.training.tokens import tokenizer_digest
from pipelines.training.zero3 import deepspeed_config

FIELD = "train.distillation.teacher"


def check_vocabulary(teacher: Weights, base: Weights, storage: Storage) -> None:
    """Raises ConfigError: some token has another number in the teacher's tokenizer than in the base's."""
    digests = [tokenizer_digest({file.path: file.sha256 for file in one.files}) for one in (teacher, base)]
    if digests[0] == digests[1]:
        return
    found, wanted = (_vocabulary(one, storage) for one in (teacher, base))
    if found is None or wanted is None:
        told = (
            "its tokenizer is not the base's, and whether it has the same tokens cannot be told without tokenizer.json"
        )
    elif different := sorted(token for token in wanted.keys() | found.keys() if wanted.get(token) != found.get(token)):
        one = different[0]
        told = (
            f"{len(different):,} tokens have other numbers than in the base's tokenizer ({one!r}: {_number(found, one)},"
            f" there {_number(wanted, one)})"
        )
    else:
        return
    raise ConfigError(FIELD, told, "take a teacher of the base's family, with its tokenizer")


def _number(vocabulary: dict[str, int], token: str) -> str:
    return str(vocabulary[token]) if token in vocabulary else "none"


def _vocabulary(model: Weights, storage: Storage) -> dict[str, int] | None:
    blob = storage.read(f"{model.folder}/tokenizer.json")
    if blob is None:
        return None
    given = json.loads(blob.content)
    words = given["model"]["vocab"]
    if not isinstance(words, dict):
        words = {word: number for number, (word, _) in enumerate(words)}  # unigram models list them with their scores
    return {**words, **{one["content"]: one["id"] for one in given.get("added_tokens", [])}}


def load_teacher(config: TrainConfig, folder: Path, engine: Any) -> Any:
    """Frozen, in the number format of the engine's model. At stage 3 the ranks share it out as they share that one out.

    Raises:
        ConfigError: it looks back into the document before.
    """
    import deepspeed
    from transformers import AutoModelForCausalLM
    from transformers.integrations import HfDeepSpeedConfig

    precision: Any = str(engine.module.dtype).removeprefix("torch.")
    whole = config.zero.stage < 3
    settings = deepspeed_config(config.replace(precision=precision))
    del settings["optimizer"]
    sharded_load = None if whole else HfDeepSpeedConfig(settings)  # in force while it is referenced
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=engine.module.dtype, local_files_only=True)
    model.config.use_cache = False
    model.requires_grad_(False)
    if whole:
        teacher = model.to(engine.device)
    else:
        teacher, *_ = deepspeed.initialize(model=model, config=settings)
        del sharded_load
    if config.method.kind in ("causal", "instruct") and not config.attend_across_documents:
        check_boundaries(teacher)
    teacher.eval()
    return teacher
