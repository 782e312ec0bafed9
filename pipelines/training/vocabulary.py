"""Does the tokenizer belong to the model? Asked of the tokens that it makes: a vocabulary may name some that no text has."""

from __future__ import annotations

import json
from pathlib import Path

from cluster.errors import InputError


def check_known(largest: int, folder: Path) -> None:
    """Make sure that the model in the folder has an embedding for each token up to `largest`.

    Raises:
        InputError: it has not.
    """
    config = json.loads((folder / "config.json").read_bytes())
    num = config.get("text_config", config).get("vocab_size")
    if num is not None and largest >= num:
        found = f"the tokenizer does not match the model: it makes token {largest}, and the model knows {num} (from 0)"
        remedy = "take the tokenizer that came with the model, or give the model rows for it (resize_token_embeddings)"
        raise InputError(str(folder), found, remedy)
