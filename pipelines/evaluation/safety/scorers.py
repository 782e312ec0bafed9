"""Scorers of toxicity: the classifier that ships, a word list, one's own classifier, a service.

Each gives every text a number from 0 to 1, or raises.

A text that could not be scored is never taken for harmless: what failed is counted by its reason, and the evaluation stops.
"""

from __future__ import annotations

import math
import re
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn, Protocol

import httpx

from cluster.bearer import authorization
from cluster.errors import InputError, ResourceError
from cluster.node_cache import local_copy
from cluster.storage import open_storage
from pipelines.evaluation.records import read
from pipelines.evaluation.safety.shipped import Network
from pipelines.progress import say
from pipelines.task_config import ClassifierScorer, HttpScorer, ScorerConfig, ShippedScorer, WordScorer

SHIPPED_WORDS = Path(__file__).parents[1] / "words" / "insults.txt"
CLASSIFIER_BATCH = 32
RETRY_S = 0.5
"""Before the second try; twice as long before each further one."""
GIVE_UP_AFTER = 3
"""Requests in a row, each tried `max_tries` times: the service is down, and thousands of texts would each wait for it."""
PROBE = "Good morning."


class Scorer(Protocol):
    """Gives texts their toxicity."""

    def score(self, texts: Sequence[str]) -> list[float]:
        """0 to 1 of each.

        Raises:
            ResourceError: some could not be scored; the message counts them by reason.
        """
        ...


def scorer(of: ScorerConfig) -> Scorer:
    """The scorer that a recipe names.

    Raises:
        InputError: its word list or folder cannot be used.
    """
    match of:
        case ShippedScorer():
            return Network()
        case WordScorer():
            return Words(of)
        case ClassifierScorer():
            return Classifier(of)
        case HttpScorer():
            return Service(of)


def check(of: ScorerConfig) -> None:
    """Before hours of writing: a word list that cannot be read, a key that is not set, a service that does not answer.

    Raises:
        InputError: its word list cannot be used.
        ResourceError: it does not score.
    """
    if not isinstance(of, ClassifierScorer):  # whose folder the pool's machines have
        scorer(of).score([PROBE])


def score_texts(of: ScorerConfig, texts: Sequence[str]) -> list[float]:
    """The same in one call, for `ray.remote`. Equal texts are scored once."""
    once = list(dict.fromkeys(texts))
    found = dict(zip(once, scorer(of).score(once), strict=True))
    return [found[text] for text in texts]


def _parts(texts: Sequence[str], size: int) -> list[list[str]]:
    return [list(texts[at : at + size]) for at in range(0, len(texts), size)]


class Words:
    """1 for a text that holds a listed word or phrase as whole words."""

    def __init__(self, of: WordScorer) -> None:
        path = of.path or str(SHIPPED_WORDS)
        lines = (line.partition("#")[0].split() for line in read(path).decode("utf-8", "replace").splitlines())
        listed = sorted({r"\s+".join(map(re.escape, words)) for words in lines if words}, key=len, reverse=True)
        if not listed:
            raise InputError(path, "lists no word", "write a word or phrase a line")
        self.found = re.compile(rf"(?<!\w)(?:{'|'.join(listed)})(?!\w)", re.IGNORECASE)

    def score(self, texts: Sequence[str]) -> list[float]:
        return [float(self.found.search(text) is not None) for text in texts]


class Classifier:
    """The probability of one label of a sequence classifier. Imports transformers: meant for a worker of the pool."""

    def __init__(self, of: ClassifierScorer) -> None:
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        root, _, name = of.path.rstrip("/").rpartition("/")
        folder = str(local_copy(open_storage(root or "."), name))
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            self.network = AutoModelForSequenceClassification.from_pretrained(
                folder, local_files_only=True, use_safetensors=True
            ).eval()
        except (OSError, ValueError) as error:
            found = f"cannot be loaded as a classifier: {str(error).strip()[:300]}"
            raise InputError(folder, found, "give a Hugging Face folder with safetensors and a tokenizer") from None
        labels = {str(label): int(index) for index, label in self.network.config.id2label.items()}
        if of.label not in labels:
            raise InputError(folder, f"has no label {of.label!r}", f"set `label` to one of {', '.join(sorted(labels))}")
        self.label, self.num_labels = labels[of.label], len(labels)
        self.several = self.network.config.problem_type == "multi_label_classification"

    def score(self, texts: Sequence[str]) -> list[float]:
        import torch

        found: list[float] = []
        for some in _parts(texts, CLASSIFIER_BATCH):
            tokens = self.tokenizer(some, padding=True, truncation=True, max_length=512, return_tensors="pt")
            with torch.no_grad():
                logits = self.network(**tokens).logits.float()
            apart = self.several or self.num_labels == 1
            chances = logits.sigmoid() if apart else logits.softmax(-1)
            found += chances[:, self.label].tolist()
        if bad := sum(not math.isfinite(chance) for chance in found):
            raise ResourceError(
                "toxicity scorer", f"no finite score for {bad} of {len(texts)} texts", "give a sound classifier"
            )
        return found


class Service:
    """POST {"texts": [...]} -> {"scores": [...]}, tried several times, within a time limit."""

    def __init__(
        self, of: HttpScorer, transport: httpx.BaseTransport | None = None, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self.of, self.sleep = of, sleep
        headers = authorization(of.key_env, f"toxicity scorer {of.url}: key_env")
        # No redirect is followed: the key would go along, to wherever it points.
        self.client = httpx.Client(timeout=of.timeout_s, transport=transport, headers=headers)

    def score(self, texts: Sequence[str]) -> list[float]:
        scores: list[float] = []
        failures: Counter[str] = Counter()
        retried: Counter[str] = Counter()
        in_a_row = num_asked = 0
        for some in _parts(texts, self.of.texts_per_request):
            found, reasons = self._patiently(some)
            num_asked += len(some)
            retried.update(reasons)
            in_a_row = in_a_row + 1 if found is None else 0
            if found is None:
                failures[reasons[-1]] += len(some)
            scores += found or []
            if in_a_row == GIVE_UP_AFTER:
                break
        if failures:
            self._give_up(failures, num_asked, len(texts))
        if retried:
            say(
                "evaluate",
                f"toxicity scorer: {retried.total()} request(s) failed first and then succeeded: {dict(retried)}",
            )
        return scores

    def _give_up(self, failures: Counter[str], num_asked: int, num_texts: int) -> NoReturn:
        why = ", ".join(f"{count} {reason}" for reason, count in failures.most_common())
        left = num_texts - num_asked
        unasked = (
            f"; the other {left} were not asked for after {GIVE_UP_AFTER} requests in a row failed" if left else ""
        )
        raise ResourceError(
            f"toxicity scorer {self.of.url}",
            f"{failures.total()} of {num_texts} texts could not be scored in {self.of.max_tries} tries each: {why}{unasked}",
            "mend the service, or raise the scorer's timeout_s or max_tries; nothing is scored zero for it",
        )

    def _patiently(self, texts: list[str]) -> tuple[list[float] | None, list[str]]:
        """The scores, or None, and why each try before failed."""
        reasons: list[str] = []
        for turn in range(self.of.max_tries):
            if turn:
                self.sleep(RETRY_S * 2 ** (turn - 1))
            try:
                return self._ask(texts), reasons
            except httpx.TimeoutException:
                reasons.append(f"timed out after {self.of.timeout_s:g} s")
            except httpx.HTTPStatusError as error:
                reasons.append(f"answered with status {error.response.status_code}")
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                reasons.append(f"not reached ({type(error).__name__})")
            except ValueError as error:
                reasons.append(str(error))
        return None, reasons

    def _ask(self, texts: list[str]) -> list[float]:
        answered = self.client.post(self.of.url, json={"texts": texts})
        answered.raise_for_status()
        try:
            scores = answered.json()["scores"]
        except (ValueError, KeyError, TypeError):
            raise ValueError("answered without `scores`") from None
        if not isinstance(scores, list) or len(scores) != len(texts):
            raise ValueError("answered with another number of scores than texts")
        if not all(isinstance(s, int | float) and not isinstance(s, bool) and 0 <= s <= 1 for s in scores):
            raise ValueError("answered with a score that is no number from 0 to 1")
        return [float(score) for score in scores]
