"""Loads n-gram models and tokenizers, once a process; and tries to, in a process of its own (pipelines/data/apart.py)."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import Any

TRIAL = "the canary sings"


@cache
def load_model(path: Path, sha256: str) -> Any:
    """KenLM's own format is mapped, so that processes share its pages; ARPA's is read and built anew by each."""
    import kenlm

    return kenlm.Model(os.fspath(path))


@cache
def load_tokenizer(path: Path, sha256: str) -> Any:
    import sentencepiece

    return sentencepiece.SentencePieceProcessor(model_file=os.fspath(path))


def try_model(path: bytes) -> float:
    """log10 of the probability of a line, by the model at that path."""
    return load_model(Path(os.fsdecode(path)), "").score(TRIAL)


def try_tokenizer(path: bytes) -> list[str]:
    """The pieces of a line, by the tokenizer at that path."""
    return load_tokenizer(Path(os.fsdecode(path)), "").encode(TRIAL, out_type=str)
