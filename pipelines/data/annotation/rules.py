"""Annotations by rules: regular expressions, lists of terms, what stands between two entities, and questions by templates."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice, pairwise
from typing import NamedTuple

from cluster.errors import ConfigError, InputError
from cluster.storage import open_storage
from pipelines.data.annotation.config import EntityRule, QuestionRule, RelationRule, RulesAnnotator
from pipelines.data.annotation.layers import Entity, Layers, Reasoning, Relation

Span = tuple[int, int]

TOKEN = re.compile(r"\w+|[^\w\s]")
BYTE = re.compile(r"(?<!\\)(?:\\\\)*\\C")
MARKS = (*range(0xE000, 0xF900), *range(0xF0000, 0xFFFFE))
"""Private use characters (Unicode 16, section 23.5): two that no text has are put around matches."""


class Rules:
    """Compiled once, for all documents.

    Raises:
        ConfigError: an expression that RE2 does not take.
        InputError: a file of terms that cannot be read.
    """

    def __init__(self, config: RulesAnnotator) -> None:
        self._config = config
        where = f"annotators: {config.name}"
        for rule in config.entities:
            if rule.pattern is not None:
                _check(f"{where}.entities.pattern", rule.pattern)
        for relation in config.relations:
            _check(f"{where}.relations.between", relation.between)
        self._terms = [None if rule.pattern is not None else _Terms(rule) for rule in config.entities]

    def annotate(self, texts: Sequence[str]) -> list[Layers]:
        """The layers of each text."""
        found: list[list[tuple[Span, str]]] = [[] for _ in texts]
        for rule, terms in zip(self._config.entities, self._terms, strict=True):
            spans = [terms.spans(text) for text in texts] if terms else _matches(rule, texts)
            for here, of_text in zip(found, spans, strict=True):
                here += [(span, rule.label) for span in of_text]
        return [self._layers(text, here) for text, here in zip(texts, found, strict=True)]

    def _layers(self, text: str, found: Iterable[tuple[Span, str]]) -> Layers:
        entities = tuple(
            Entity(id=f"e{number}", label=label, start=start, end=end, text=text[start:end])
            for number, ((start, end), label) in enumerate(sorted(set(found)), 1)
        )
        pairs = [pair for rule in self._config.relations for pair in _related(rule, text, entities)]
        relations = tuple(
            Relation(id=f"r{number}", name=name, subject=subject.id, object=other.id)
            for number, (name, subject, other) in enumerate(dict.fromkeys(pairs), 1)
        )
        reasonings = tuple(_asked(self._config.questions, relations, {entity.id: entity for entity in entities}))
        return Layers(entities=entities, relations=relations, reasonings=reasonings)


def _check(where: str, pattern: str) -> None:
    import pyarrow as pa
    import pyarrow.compute as pc

    if BYTE.search(pattern):
        raise ConfigError(where, f"{pattern!r} has \\C, a single byte of a character", "write `.`, or (?s:.)")
    try:
        pc.match_substring_regex(pa.array([""]), f"(?:{pattern})")  # as it is used: `\\Qa` alone would be whole
    except pa.ArrowInvalid as error:
        found = f"{pattern!r} is no RE2 expression: {str(error).splitlines()[0]}"
        raise ConfigError(where, found, "RE2 has no look-around and no back-references") from None


def _matches(rule: EntityRule, texts: Sequence[str]) -> list[list[Span]]:
    """Arrow finds the first match of a text; RE2 replaces all of them, so each is put between two marks."""
    import pyarrow as pa
    import pyarrow.compute as pc

    used = set[str]().union(*texts)
    opening, closing = islice((mark for mark in map(chr, MARKS) if mark not in used), 2)
    flag = "(?i)" if rule.ignore_case else ""
    marked = pc.replace_substring_regex(
        pa.array(texts, pa.large_string()), f"{flag}(?:{rule.pattern})", rf"{opening}\0{closing}"
    )
    return [list(_between_marks(text, opening, closing)) for text in marked.to_pylist()]


def _between_marks(text: str, opening: str, closing: str) -> Iterator[Span]:
    """Where the marks stood, in characters of the text without them."""
    place = 0
    before, *parts = text.split(opening)
    place = len(before)
    for part in parts:
        match, _, rest = part.partition(closing)
        if match:
            yield place, place + len(match)
        place += len(match) + len(rest)


class _Word(NamedTuple):
    start: int
    end: int
    said: str
    joined: bool
    """To the one before, without white space."""


class _Terms:
    """Terms as sequences of words, by their first one."""

    def __init__(self, rule: EntityRule) -> None:
        self._fold = rule.ignore_case
        self._by_first: dict[str, list[tuple[tuple[str, bool], ...]]] = {}
        for term in (*rule.terms, *(_lines(rule.path) if rule.path else ())):
            if words := self._words(term):
                shape = tuple((word.said, word.joined) for word in words[1:])
                self._by_first.setdefault(words[0].said, []).append(shape)
        for shapes in self._by_first.values():
            shapes.sort(key=len, reverse=True)

    def _words(self, text: str) -> list[_Word]:
        found, end = list[_Word](), -1
        for match in TOKEN.finditer(text):
            said = match[0].casefold() if self._fold else match[0]
            found.append(_Word(match.start(), match.end(), said, match.start() == end))
            end = match.end()
        return found

    def spans(self, text: str) -> list[Span]:
        words, found, i = self._words(text), list[Span](), 0
        while i < len(words):
            length = self._longest(words, i)
            if length:
                found.append((words[i].start, words[i + length - 1].end))
            i += max(length, 1)
        return found

    def _longest(self, words: Sequence[_Word], i: int) -> int:
        """How many words the longest term that begins there has."""
        for shape in self._by_first.get(words[i].said, ()):
            behind = words[i + 1 : i + 1 + len(shape)]
            if tuple((word.said, word.joined) for word in behind) == shape:
                return 1 + len(shape)
        return 0


def read_terms(path: str) -> bytes:
    """Raises InputError: there is no such file."""
    folder, slash, name = path.rpartition("/")
    blob = open_storage(folder or slash or ".").read(name)
    if blob is None:
        raise InputError(path, "no such file", "correct that `path` of an annotator")
    return blob.content


def _lines(path: str) -> list[str]:
    try:
        return read_terms(path).decode("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise InputError(path, "is not UTF-8 text", "save it in UTF-8, one term a line") from None


def _related(rule: RelationRule, text: str, entities: Sequence[Entity]) -> Iterator[tuple[str, Entity, Entity]]:
    import pyarrow as pa
    import pyarrow.compute as pc

    following = [
        (a, b)
        for a, b in pairwise(entities)
        if 0 <= b.start - a.end <= rule.max_characters and "\n\n" not in text[a.end : b.start]
    ]
    gaps = pa.array([text[a.end : b.start] for a, b in following], pa.string())
    fits = pc.match_substring_regex(gaps, rf"\A(?:{rule.between})\z").to_pylist()
    for (a, b), fit in zip(following, fits, strict=True):
        if fit:
            yield (rule.relation, b, a) if rule.object_first else (rule.relation, a, b)


def _asked(
    rules: Sequence[QuestionRule], relations: Sequence[Relation], entities: dict[str, Entity]
) -> Iterator[Reasoning]:
    number = 0
    for relation in relations:
        subject, other = entities[relation.subject], entities[relation.object]
        for rule in rules:
            if rule.relation == relation.name:
                number += 1
                yield Reasoning(
                    id=f"q{number}",
                    question=_filled(rule.question, subject.text, other.text),
                    evidence=(subject.id, other.id, relation.id),
                    rationale=_filled(rule.rationale, _cited(subject), _cited(other)),
                    answer=_filled(rule.answer, subject.text, other.text),
                )


def _cited(entity: Entity) -> str:
    return f"{entity.text} [{entity.id}]"


def _filled(template: str, subject: str, other: str) -> str:
    """In one pass: a text that spells `{object}` stays as it is."""
    return re.sub(r"\{(subject|object)\}", lambda name: subject if name[1] == "subject" else other, template)
