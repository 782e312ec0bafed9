"""What the kept texts are about: words that stand in the same documents, found in a sample, without a model.

Documents of one language are a matrix of TF-IDF weights (Salton and Buckley 1988), taken apart into a few parts by
non-negative matrix factorization (Lee and Seung 1999, Nature 401): each part is a topic, named by its heaviest own words. The
multiplicative updates are those of Lee and Seung 2001, the beginning is NNDSVD (Boutsidis and Gallopoulos 2008), so that the
same sample gives the same topics.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cluster.intervals import wilson
from pipelines.data.report.figures import Topic, Topics

HEAD_CHARACTERS = 5_000
"""Of each document."""
WORD = re.compile(r"[^\W\d_]{3,}")
UNSPACED = frozenset({"zh", "ja", "th", "lo", "km", "my", "dz"})
"""Languages whose words no white space parts."""
MIN_DOCUMENTS = 40
"""Of one language, for topics to be told."""
MAX_LANGUAGES = 3
MAX_TOPICS = 10
DOCUMENTS_PER_TOPIC = 20
MAX_TERMS = 1_500
MIN_DOCUMENTS_OF_TERM = 3
MAX_SHARE_OF_TERM = 0.4
"""Words that more documents have tell nothing apart: among them are those that grammar asks for, in any language."""
NUM_TERMS = 6
NUM_EXAMPLES = 3
NUM_UPDATES = 80
EPSILON = 1e-9

Floats = NDArray[np.float64]


class Sampled(NamedTuple):
    """A kept document of the sample."""

    id: str
    language: str
    words: list[str]


def words_of(text: str) -> list[str]:
    """In lower case, of three letters and more: of the beginning of the text, and without what stands for masked values."""
    return WORD.findall(re.sub(r"\[[A-Z_]+(?:_[0-9a-f]{12})?\]", " ", text[:HEAD_CHARACTERS]).lower())


def topics(sample: Sequence[Sampled]) -> Topics:
    """Of the languages that most of the sample is in."""
    counts = Counter(document.language or "unknown" for document in sample)
    found, not_told = list[Topic](), dict[str, int]()
    for language, num in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        fits = num >= MIN_DOCUMENTS and language not in UNSPACED
        told = len({topic.language for topic in found}) < MAX_LANGUAGES
        of_it = [document for document in sample if (document.language or "unknown") == language]
        here = _of_language(language, of_it) if fits and told else []
        found += here
        not_told |= {} if here else {language: num}
    return Topics(num_sampled=len(sample), found=tuple(found), not_told=not_told)


def _of_language(language: str, sample: Sequence[Sampled]) -> list[Topic]:
    """The largest topic first; none where documents have too few words in common."""
    terms = _terms(sample)
    wanted = min(MAX_TOPICS, max(2, len(sample) // DOCUMENTS_PER_TOPIC))
    if len(terms) < 2 * wanted:
        return []
    weights, parts = factors(_tf_idf(sample, terms), wanted)
    own = parts / parts.sum(axis=0)  # how much of a word is this topic's: pronouns weigh in several
    strength = weights * np.linalg.norm(parts, axis=1)
    best, has_any = strength.argmax(axis=1), strength.max(axis=1) > EPSILON
    told = []
    for topic in range(len(parts)):
        members = np.flatnonzero(has_any & (best == topic))
        order = np.argsort(-strength[members, topic], kind="stable")
        heaviest = np.argsort(-parts[topic] * own[topic], kind="stable")[:NUM_TERMS]
        low, high = wilson(len(members), len(sample))
        told.append(
            Topic(
                language=language,
                terms=tuple(terms[i] for i in heaviest),
                num=len(members),
                of=len(sample),
                low=low,
                high=high,
                examples=tuple(sample[i].id for i in members[order][:NUM_EXAMPLES]),
            )
        )
    return sorted((topic for topic in told if topic.num), key=lambda topic: (-topic.num, topic.terms))


def _terms(sample: Sequence[Sampled]) -> list[str]:
    counts = Counter(word for document in sample for word in set(document.words))
    most = MAX_SHARE_OF_TERM * len(sample)
    fitting = [(word, num) for word, num in counts.items() if MIN_DOCUMENTS_OF_TERM <= num <= most]
    return [word for word, _ in sorted(fitting, key=lambda item: (-item[1], item[0]))[:MAX_TERMS]]


def _tf_idf(sample: Sequence[Sampled], terms: Sequence[str]) -> Any:
    """A row a document, of length 1 (or empty), a column a term."""
    from scipy.sparse import csr_array

    places = {term: i for i, term in enumerate(terms)}
    counted = [Counter(places[word] for word in document.words if word in places) for document in sample]
    rows = np.repeat(np.arange(len(sample)), [len(counts) for counts in counted])
    columns = np.array([place for counts in counted for place in counts], np.int64)
    values = np.log1p(np.array([num for counts in counted for num in counts.values()], np.float64))
    values *= np.log(len(sample) / np.bincount(columns, minlength=len(terms)))[columns]
    lengths = np.sqrt(np.bincount(rows, values**2, minlength=len(sample)))
    return csr_array((values / lengths[rows], (rows, columns)), shape=(len(sample), len(terms)))


def factors(matrix: Any, num: int) -> tuple[Floats, Floats]:
    """Non-negative W (documents x num) and H (num x terms) such that W H is near the matrix."""
    w, h = _beginning(matrix, num)
    for _ in range(NUM_UPDATES):
        h *= np.asarray((matrix.T @ w).T) / (w.T @ w @ h + EPSILON)
        w *= np.asarray(matrix @ h.T) / (w @ (h @ h.T) + EPSILON)
    return w, h


def _beginning(matrix: Any, num: int) -> tuple[Floats, Floats]:
    """NNDSVD: of each pair of singular vectors the part, positive or negative, that weighs more. What is zero there begins at
    the matrix's mean (NNDSVDa), for the updates leave zeros as they are."""
    from scipy.sparse.linalg import svds

    num = min(num, min(matrix.shape) - 1)
    u, s, vt = svds(matrix, k=num, v0=np.ones(min(matrix.shape)))
    w, h = np.empty((matrix.shape[0], num)), np.empty((num, matrix.shape[1]))
    for target, source in enumerate(np.argsort(-s)):
        left, right = u[:, source], vt[source]
        halves = [(np.maximum(sign * left, 0), np.maximum(sign * right, 0)) for sign in (1, -1)]
        a, b = max(halves, key=lambda half: float(np.linalg.norm(half[0]) * np.linalg.norm(half[1])))
        norms = max(float(np.linalg.norm(a)), EPSILON), max(float(np.linalg.norm(b)), EPSILON)
        scale = np.sqrt(s[source] * norms[0] * norms[1])
        w[:, target], h[target] = scale * a / norms[0], scale * b / norms[1]
    mean = matrix.sum() / np.prod(matrix.shape)
    return np.where(w > EPSILON, w, mean), np.where(h > EPSILON, h, mean)
