"""Annotating a dataset: what annotators give, checked, merged and kept with all that is for review.

    documents -> [rules | model | people's export] -> merged -> checked -> accepted | review queue -> conversations

Thin: one process does it, with the texts of at most `max_documents` documents in memory. A model's answers are kept under
`runs/annotate/<key>/` until the work is done, so that an interrupted run asks only for what is missing.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from typing import Any, NamedTuple

from cluster.artifacts import Annotations, Dataset, load, save, stage_key
from cluster.errors import InputError
from cluster.storage import Storage, remove_folder
from cluster.versions import chosen, every, write_file
from pipelines.data.annotation.agreement import Seen, agreements
from pipelines.data.annotation.checks import check
from pipelines.data.annotation.config import AnnotationConfig, LabelStudioAnnotator, ModelAnnotator, RulesAnnotator
from pipelines.data.annotation.instruct import conversations
from pipelines.data.annotation.label_studio import read_export
from pipelines.data.annotation.layers import Annotated, Given, Layers, Review, for_review
from pipelines.data.annotation.merge import merge
from pipelines.data.annotation.model import ask_all, headers
from pipelines.data.annotation.rules import Rules, read_terms
from pipelines.data.decide import TRAIN
from pipelines.data.record import read_table
from pipelines.progress import bar, say

VERSION = 1
"""Raise it when the same configuration gives other annotations."""
DOCUMENTS, REVIEW, INSTRUCT = "documents.jsonl", "review.jsonl", "instruct.jsonl"


class Work(NamedTuple):
    """What is to be annotated, and under which key the result is kept."""

    config: AnnotationConfig
    dataset: Dataset
    storage: Storage
    files: Mapping[str, bytes]
    """Path -> content of what the configuration names: exports and lists of terms."""
    key: str

    @property
    def folder(self) -> str:
        """Of answers kept while the work is under way."""
        return f"runs/annotate/{self.key}"


def annotate(config: AnnotationConfig, dataset: Dataset, storage: Storage) -> Annotations:
    """Annotate documents of the dataset's training split, or find that it has been done.

    Raises:
        ConfigError: a pattern that RE2 does not take, or a key that is not set.
        InputError: a file that is missing or not what it should be, or a model that refuses or does not answer.
    """
    began_at = time.monotonic()
    work = prepare(config, dataset, storage)
    if made := load(storage, Annotations, work.key):
        say("annotate", f"already made: {made.summary} ({made.location})")
        return made
    texts = read_texts(storage, dataset, config.max_documents)
    say("annotate", f"{len(texts)} of {dataset.num_train} documents of version {dataset.key}")
    given, unknown = _given(work, texts)
    documents, reviews = _checked(config, texts, given)
    made = _saved(work, documents, [*reviews, *unknown], given, round(time.monotonic() - began_at, 2))
    if "no_answer" not in made.num_review_by_reason:
        remove_folder(storage, work.folder)
    say("annotate", f"{made.summary} ({made.location})")
    return made


def prepare(config: AnnotationConfig, dataset: Dataset, storage: Storage) -> Work:
    """Read what the configuration names; wrong patterns and missing keys are told before anything is asked.

    Raises:
        ConfigError, InputError: see annotate.
    """
    paths = list[str]()
    for annotator in config.annotators:
        match annotator:
            case RulesAnnotator():
                Rules(annotator)
                paths += [rule.path for rule in annotator.entities if rule.path]
            case LabelStudioAnnotator():
                paths.append(annotator.path)
            case ModelAnnotator():
                headers(annotator)
    files = {path: read_terms(path) for path in paths}
    inputs = {
        "dataset": dataset.digest,
        **{
            f"file {i}": sha256(files[path]).hexdigest() for i, path in enumerate(paths)
        },  # each as often as it is named
    }
    return Work(config, dataset, storage, files, stage_key("annotate", recorded(config), inputs))


def recorded(config: AnnotationConfig) -> dict[str, Any]:
    """What decides over the result: no paths of this machine, and nothing of how fast a model is asked or with which key."""
    asking = {"max_concurrent", "timeout_s", "key_env", "attempts"}
    annotators = [
        annotator.model_dump(
            mode="json", exclude={"path", *asking} if not isinstance(annotator, RulesAnnotator) else None
        )
        for annotator in config.annotators
    ]
    for annotator in annotators:
        for rule in annotator.get("entities", ()):
            rule["path"] = rule["path"] is not None
    return {**config.model_dump(mode="json", exclude={"annotators"}), "annotators": annotators, "version": VERSION}


def read_texts(storage: Storage, dataset: Dataset, most: int) -> dict[str, str]:
    """Id -> text of training documents, in the order of the hashes of their ids: any number of them is a fair sample."""
    found: dict[str, str] = {}
    for batch in dataset.batches:
        if batch.path.startswith(f"{TRAIN}/"):
            table = read_table(storage, f"{dataset.location}/{batch.path}", ("id", "text"))
            found |= zip(table["id"].to_pylist(), table["text"].to_pylist(), strict=True)
            found = dict(sorted(found.items(), key=lambda pair: sha256(pair[0].encode()).digest())[:most])
    return found


GivenBy = dict[str, dict[str, Given]]
"""Annotator -> document -> what they gave."""


def _given(work: Work, texts: Mapping[str, str]) -> tuple[GivenBy, list[Review]]:
    """What all annotators give, and what of people's work belongs to no document."""
    found, unknown = GivenBy(), list[Review]()
    for annotator in work.config.annotators:
        match annotator:
            case RulesAnnotator():
                layers = Rules(annotator).annotate(list(texts.values()))
                found[annotator.name] = {name: Given(layers=of) for name, of in zip(texts, layers, strict=True)}
            case ModelAnnotator():
                found[annotator.name] = _asked(work, annotator, texts)
            case LabelStudioAnnotator():
                people, lost = read_export(annotator.name, annotator.path, work.files[annotator.path], texts)
                found |= people
                unknown += lost
    return found, unknown


def _asked(work: Work, annotator: ModelAnnotator, texts: Mapping[str, str]) -> dict[str, Given]:
    """A model's answers: those kept from an earlier start, and the others asked for now."""
    found = dict[str, Given]()
    names = {
        document: f"{work.folder}/{annotator.name}/{sha256(document.encode()).hexdigest()}.json" for document in texts
    }
    for document, name in names.items():
        if blob := work.storage.read(name):
            found[document] = Given.model_validate_json(blob.content)
    missing = [(document, text) for document, text in texts.items() if document not in found]
    if len(missing) < len(texts):
        say("annotate", f"{annotator.name}: {len(found)} answered before, {len(missing)} to ask")
    with bar("annotate", len(missing), "documents") as progress:

        def done(place: int, given: Given) -> None:
            document = missing[place][0]
            found[document] = given
            if all(failure.reason != "no_answer" for failure in given.failures):
                work.storage.write(names[document], given.model_dump_json().encode())
            progress.update(len(found) - (len(texts) - len(missing)))

        asyncio.run(ask_all(annotator, work.config.labels, missing, done))
    return {document: found[document] for document in texts}


def _checked(
    config: AnnotationConfig, texts: Mapping[str, str], given: GivenBy
) -> tuple[list[Annotated], list[Review]]:
    documents, reviews = list[Annotated](), list[Review]()
    for name, text in texts.items():
        seen = {annotator: of[name] for annotator, of in given.items() if name in of}
        merged, failures = merge({annotator: one.layers for annotator, one in seen.items()})
        num_saw = sum(map(_saw, seen.values()))
        accepted, failed = check(text, merged, config.labels, min(config.min_annotators, num_saw))
        documents.append(Annotated(id=name, text=text, layers=accepted))
        reviews += [review for one in seen.values() for review in one.failures]
        reviews += [for_review(name, failure) for failure in (*failures, *failed)]
    return documents, reviews


def _saw(given: Given) -> bool:
    """Whether the annotator has answered for all of the document: silence is no statement that nothing is there."""
    return all(failure.layer != "document" for failure in given.failures)


def _saved(
    work: Work, documents: Sequence[Annotated], reviews: Sequence[Review], given: GivenBy, took_s: float
) -> Annotations:
    config, storage, key = work.config, work.storage, work.key
    lines = [line for document in documents for line in conversations(document, config.labels, config.instruct)]
    location = Annotations(key=key).location
    files = {
        DOCUMENTS: (document.model_dump_json() for document in documents),
        REVIEW: (review.model_dump_json() for review in reviews),
        INSTRUCT: (json.dumps(line, ensure_ascii=False) for line in lines),
    }
    entries = [
        write_file(storage, location, name, "".join(f"{line}\n" for line in lines).encode())
        for name, lines in files.items()
    ]
    accepted = _counts(document.layers for document in documents)
    failed = Counter[str](review.layer for review in reviews)
    seen = [
        Seen(
            document.text,
            {name: one.layers for name, of in given.items() if (one := of.get(document.id)) and _saw(one)},
        )
        for document in documents
    ]
    made = Annotations(
        key=key,
        inputs={"dataset": work.dataset.digest},
        config={**recorded(config), "files": [sha256(content).hexdigest() for content in work.files.values()]},
        files=tuple(entries),
        took_s=took_s,
        dataset=work.dataset.key,
        annotators=tuple(given),
        num_documents=len(documents),
        num_given_by_layer={layer: num + failed[layer] for layer, num in accepted.items()},
        num_accepted_by_layer=accepted,
        num_review_by_reason=dict(sorted(Counter(review.reason for review in reviews).items())),
        num_conversations=len(lines),
        agreement=agreements(seen, config.labels),
    )
    return save(storage, made)


def _counts(layers: Iterable[Layers]) -> dict[str, int]:
    every = list(layers)
    return {
        "entity": sum(len(of.entities) for of in every),
        "relation": sum(len(of.relations) for of in every),
        "reasoning": sum(len(of.reasonings) for of in every),
    }


# --- what was made ----------------------------------------------------------------------------------------------------


def holding(storage: Storage, document: str) -> tuple[str, ...]:
    """Keys of those that have that document."""
    return tuple(
        made.key
        for made in every(storage, Annotations)[0]
        if any(one.id == document for one in read_documents(storage, made))
    )


def find(storage: Storage, wanted: str | None = None) -> Annotations:
    """Raises InputError: there are none that fit, or several (`chosen`)."""
    return chosen(storage, Annotations, wanted, "serinus data annotate")


def read_documents(storage: Storage, made: Annotations) -> list[Annotated]:
    return [Annotated.model_validate_json(line) for line in _lines(storage, made, DOCUMENTS)]


def read_reviews(storage: Storage, made: Annotations) -> list[Review]:
    return [Review.model_validate_json(line) for line in _lines(storage, made, REVIEW)]


def _lines(storage: Storage, made: Annotations, name: str) -> list[bytes]:
    blob = storage.read(f"{made.location}/{name}")
    if blob is None:
        found = "is gone, though the manifest tells of it"
        raise InputError(f"{storage.uri}/{made.location}/{name}", found, "remove that folder and annotate again")
    return [line for line in blob.content.split(b"\n") if line]
