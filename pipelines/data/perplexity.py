"""Documents that an n-gram language model of the user's own finds too unlikely, or too likely, as CCNet's do (Wenzek et al. 2020,
arXiv 1911.00359).

The model is read by KenLM (Heafield 2011): a text's perplexity is 10 ** (-s / n), where s is the sum of log10 p of its lines, each
scored from <s> to </s> by itself, and n the number of their tokens, </s> among them; empty lines do not count. Tokens are what
white space separates, of the text in lower case unless `lower_case` is off, or the pieces of a sentencepiece model. What the model
does not have counts as <unk>, with the probability that the model gives to that.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from cluster.errors import InputError
from pipelines.config import PerplexityConfig
from pipelines.data import ngram_model
from pipelines.data.apart import Apart, Ended
from pipelines.data.filters import Drop
from pipelines.data.inventory import SourceFile
from pipelines.data.model_file import check_package, find, on_disk
from pipelines.data.ngram_model import load_model, load_tokenizer
from pipelines.progress import say

if TYPE_CHECKING:
    import pyarrow as pa

WHERE = "data.filters.perplexity"
KIND = "an n-gram model in ARPA's format or KenLM's (.arpa, .bin)"
TOKENIZER = "a sentencepiece model (.model)"
TRIAL_CPU_S = 1_800.0
"""Only to end what does not end by itself: KenLM's own format is there at once, ARPA's is read whole."""
MARKS = ("<s>", "</s>")
"""KenLM takes these words for the beginning and the end, which no model has within a line: they are not looked at."""
LARGEST_EXPONENT = 308
"""Of a float. Some models say log10 p = -999 where they mean never."""
TOLD_BYTES = 500_000_000
"""A larger file in ARPA's format takes ten seconds or more."""


class LanguageModel(NamedTuple):
    """What workers load: the files go to no worker but by their paths."""

    file: SourceFile
    tokenizer: SourceFile | None
    config: PerplexityConfig


def recorded(config: PerplexityConfig) -> dict[str, Any]:
    """The model and the tokenizer by name and hash, without this machine's paths."""
    model, tokenizer = _files(config)
    found = {**config.model_dump(exclude={"path", "sentencepiece"}), "file": model.name, "sha256": model.sha256}
    return found if tokenizer is None else {**found, "tokenizer": tokenizer.name, "tokenizer_sha256": tokenizer.sha256}


def _files(config: PerplexityConfig) -> tuple[SourceFile, SourceFile | None]:
    model = find(WHERE, config.path, KIND)
    if config.sentencepiece is None:
        return model, None
    return model, find(f"{WHERE}.sentencepiece", config.sentencepiece, TOKENIZER)


def read_language_model(config: PerplexityConfig) -> LanguageModel:
    """Raises InputError: a file is missing or no such model; ResourceError: what reads it is not installed."""
    check_package(WHERE, "kenlm", "kenlm")
    if config.sentencepiece is not None:
        check_package(f"{WHERE}.sentencepiece", "sentencepiece", "sentencepiece")
    model, tokenizer = _files(config)
    if tokenizer is not None:
        _try(f"{WHERE}.sentencepiece", tokenizer, "try_tokenizer", TOKENIZER)
    _try(WHERE, model, "try_model", KIND)
    return LanguageModel(model, tokenizer, config)


def _try(where: str, file: SourceFile, function: str, kind: str) -> None:
    """Raises InputError: the file cannot be loaded."""
    if wrong := _wrong(on_disk(file), file.sha256, function):
        raise InputError(f"{where}: {file.name}", f"cannot be loaded ({wrong})", f"name {kind}")


@cache
def _wrong(path: Path, sha256: str, function: str) -> str:
    """What is wrong with a file; empty for nothing. It is loaded in a process of its own: C++ may not come back from damage."""
    num_bytes = path.stat().st_size
    if num_bytes > TOLD_BYTES:
        say("clean", f"loading {path.name}, {num_bytes / 1e9:.1f} GB, to see whether it can be")
    trial = Apart(f"{ngram_model.__name__}:{function}", 4 * num_bytes + (2 << 30), TRIAL_CPU_S)
    try:
        trial(os.fsencode(path))
    except Ended as error:
        return str(error)
    finally:
        trial.close()
    return ""


def perplexity_drops(texts: pa.Array, language_model: LanguageModel) -> dict[int, Drop]:
    """By index, the texts whose perplexity is outside the bounds."""
    config = language_model.config
    drops = dict[int, Drop]()
    for i, found in enumerate(perplexities(texts.to_pylist(), language_model)):
        if config.max is not None and found > config.max:
            drops[i] = Drop("perplexity", f"{found:.2f}, at most {config.max:g} allowed")
        elif config.min is not None and found < config.min:
            drops[i] = Drop("perplexity", f"{found:.2f}, at least {config.min:g} asked")
    return drops


def perplexities(texts: list[str], language_model: LanguageModel) -> list[float]:
    """Of each text, 1 or more; infinity for one without a line."""
    file, tokenizer, config = language_model
    model = load_model(on_disk(file), file.sha256)
    pieces = load_tokenizer(on_disk(tokenizer), tokenizer.sha256) if tokenizer is not None else None
    return [_perplexity(text.lower() if config.lower_case else text, model, pieces) for text in texts]


def _perplexity(text: str, model: Any, pieces: Any) -> float:
    log10, num_tokens = 0.0, 0
    for line in filter(str.strip, text.split("\n")):
        words = (word for word in line.split() if word not in MARKS)
        tokens = list(words) if pieces is None else pieces.encode(line, out_type=str)
        log10 += model.score(" ".join(tokens))
        num_tokens += len(tokens) + 1
    exponent = -log10 / num_tokens if num_tokens else float("inf")
    return float(10.0**exponent) if exponent < LARGEST_EXPONENT else float("inf")
