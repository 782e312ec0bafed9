"""Does the tokenizer belong to the model? Asked of the tokens that it makes: a vocabulary may name some that no text has."""

from __future__ import annotations

import json
from pathlib import Path

from cluster.errors import InputError


def check_known(largest: int, num_embeddings: int, where: str) -> None:
    """Raises InputError: the tokenizer makes a token that a model of so many embeddings has none for."""
    if largest >= num_embeddings:
        known = f"the model knows {num_embeddings} (from 0)"
        found = f"the tokenizer does not match the model: it makes token {largest}, and {known}"
        remedy = "take the tokenizer that came with the model, or give the model rows for it (resize_token_embeddings)"
        raise InputError(where, found, remedy)


def check_known_in(folder: Path, largest: int) -> None:
    """Raises InputError: the tokenizer makes a token that the model in the folder has no embedding for."""
    config = json.loads((folder / "config.json").read_bytes())
    num = config.get("text_config", config).get("vocab_size")
    if num is not None:
        check_known(largest, num, str(folder))
