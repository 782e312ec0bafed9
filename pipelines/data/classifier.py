"""Documents that a fastText classifier of the user's own scores too low, or too high (Joulin et al. 2017, arXiv 1607.01759).

The score is the probability of one label. fastText takes a line: line breaks become spaces, and nothing else is changed, so the
model should have been trained on texts as the rules leave them.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from cluster.errors import InputError, StageFailed
from pipelines.config import ClassifierConfig
from pipelines.data.fasttext_file import Described, NotModel, describe
from pipelines.data.filters import Drop
from pipelines.data.inventory import SourceFile
from pipelines.data.model_file import check_package, find, on_disk

if TYPE_CHECKING:
    import pyarrow as pa

WHERE = "data.filters.classifier"
END = "</s>"
"""fastText takes this word for the end of the line: what stands behind it in a text would not be looked at."""
KIND = "a classifier that fastText saved (.bin or .ftz)"


class Classifier(NamedTuple):
    """What workers load: the file goes to no worker but by its path."""

    file: SourceFile
    config: ClassifierConfig


def recorded(config: ClassifierConfig) -> dict[str, Any]:
    """The model by name and hash, without this machine's path."""
    file = find(WHERE, config.path, KIND)
    return {**config.model_dump(exclude={"path"}), "file": file.name, "sha256": file.sha256}


def read_classifier(config: ClassifierConfig) -> Classifier:
    """Raises InputError: the model is missing, damaged or no classifier, or has no such label; ResourceError: no fastText here."""
    check_package(WHERE, "fasttext", "fasttext-numpy2-wheel")
    file = find(WHERE, config.path, KIND)
    found = _described(file)
    if config.label not in found.labels:
        known = ", ".join(found.labels[:8]) + (f" and {len(found.labels) - 8} more" if len(found.labels) > 8 else "")
        raise InputError(f"{WHERE}.label: {config.label}", f"no label of {file.name}", f"name one of them: {known}")
    return Classifier(file, config)


def _described(file: SourceFile) -> Described:
    try:
        return describe(on_disk(file))
    except NotModel as error:
        raise InputError(f"{WHERE}: {file.name}", str(error), f"name {KIND}, and copy it once more") from None


def score_drops(texts: pa.Array, classifier: Classifier) -> dict[int, Drop]:
    """By index, the texts whose score is outside the bounds."""
    config = classifier.config
    drops = dict[int, Drop]()
    for i, score in enumerate(scores(texts.to_pylist(), classifier)):
        if score < config.min_score:
            drops[i] = _drop(config, score, f"at least {config.min_score:g} asked")
        elif score > config.max_score:
            drops[i] = _drop(config, score, f"at most {config.max_score:g} allowed")
    return drops


def _drop(config: ClassifierConfig, score: float, asked: str) -> Drop:
    return Drop("classifier_score", f"{score:.4f} for {config.label}, {asked}")


def scores(texts: list[str], classifier: Classifier) -> list[float]:
    """The probability of the label for each text, 0 to 1; one without a word that the model knows has one too.

    Raises:
        StageFailed: the model's numbers are broken.
    """
    model = _loaded(on_disk(classifier.file), classifier.file.sha256)
    wanted = classifier.config.label
    lines = [_line(text) for text in texts]
    if not lines:
        return []
    try:
        labels, probabilities = model.predict(lines, k=-1, on_unicode_error="replace")
    except RuntimeError as error:  # of a matrix with what is no number, say
        raise StageFailed(f"{WHERE}: {classifier.file.name} gives no scores ({error}): train it anew") from None
    found = (dict(zip(names, each, strict=True)) for names, each in zip(labels, probabilities, strict=True))
    return [min(max(float(of.get(wanted, 0.0)), 0.0), 1.0) for of in found]  # fastText rounds up to 1.00001


def _line(text: str) -> str:
    line = text.replace("\n", " ")
    return " ".join("" if word == END else word for word in line.split(" ")) if END in line else line


@cache
def _loaded(path: Path, sha256: str) -> Any:
    """Once a process."""
    import fasttext

    fasttext.FastText.eprint = lambda *args, **kwargs: None  # a warning for those who knew version 0.8
    return fasttext.load_model(os.fspath(path))
