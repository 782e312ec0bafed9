"""The rules of the clean stage once more, a document at a time and as plainly as can be: what the kernels are held to."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Container, Iterator, Sequence
from itertools import pairwise

from pipelines.config import FilterConfig, FineWebConfig
from pipelines.data.kernels.characters import BULLETS, terminals
from pipelines.data.protect import DETECTORS, Span

WHITE_SPACE = (
    (r"\r\n?", "\n"),
    (r"([^\s\p{Zs}])[\t\p{Zs}]+", r"\1 "),
    (r"(?m)[\t\p{Zs}]+$", ""),
    (r"\n{3,}", "\n\n"),
    (r"\A\n+|\n+\z", ""),
)
"""What `collapse_white_space` does, as RE2's replacements, one after the other."""

STOP_WORDS = {"the", "be", "to", "of", "and", "that", "have", "with"}
ELLIPSES = ("...", "…")


def first_objection(text: str, config: FilterConfig) -> str | None:
    """The reason for which the cheap filters drop the text."""
    return next((reason for reason, holds in objections(text, config) if holds), None)


def objections(text: str, config: FilterConfig) -> Iterator[tuple[str, bool]]:
    words, lines, paragraphs = text.split(), lines_of(text), paragraphs_of(text)
    with_empty = [line.strip() for line in text.splitlines()]
    yield "empty", not words
    yield "too_few_words", len(words) < config.min_words
    yield "too_many_words", len(words) > config.max_words
    mean = sum(map(len, words)) / len(words)
    yield "mean_word_length", not config.min_mean_word_length <= mean <= config.max_mean_word_length
    yield "symbols", text.count("#") / len(words) > config.max_symbol_word_ratio
    yield "symbols", sum(map(text.count, ELLIPSES)) / len(words) > config.max_symbol_word_ratio
    bullets, ellipses = share(with_empty, begins_with_bullet), share(with_empty, lambda line: line.endswith(ELLIPSES))
    yield "bullet_lines", bullets > config.max_bullet_line_fraction
    yield "ellipsis_lines", ellipses > config.max_ellipsis_line_fraction
    letters = share(words, lambda word: any(map(str.isalpha, word)))
    yield "few_alphabetic_words", letters < config.min_alphabetic_word_fraction
    again = repeats(paragraphs)
    yield "duplicate_paragraphs", len(again) / len(paragraphs) > config.max_duplicate_paragraph_fraction
    share_of_text = sum(map(len, again)) / len(text)
    yield "duplicate_paragraph_characters", share_of_text > config.max_duplicate_paragraph_character_fraction
    again = repeats(lines)
    characters = sum(map(len, again))
    yield "duplicate_lines", len(again) / len(lines) > config.max_duplicate_line_fraction
    yield "duplicate_line_characters", characters / len(text) > config.max_duplicate_line_character_fraction
    if config.c4:
        yield "lorem_ipsum", config.c4.drop_lorem_ipsum and "lorem ipsum" in text.lower()
        yield "curly_bracket", config.c4.drop_curly_brackets and "{" in text
        yield "too_few_sentences", sentences(text) < config.c4.min_sentences
    if config.fineweb:
        yield from fineweb(text, lines, config.fineweb)
    for n in (2, 3, 4):
        bound = getattr(config, f"max_top_{n}_gram_character_fraction")
        yield f"repeated_{n}_grams", min(1, top_n_gram_characters(words, n) / len(text)) > bound
    for n, bound in zip(range(5, 11), config.max_duplicate_n_gram_character_fractions, strict=True):
        yield f"duplicate_{n}_grams", duplicate_n_gram_characters(words, n) / len(text) > bound


def fineweb(text: str, lines: Sequence[str], config: FineWebConfig) -> Iterator[tuple[str, bool]]:
    terminated = share(lines, lambda line: line.endswith(tuple(terminals())))
    yield "unterminated_lines", terminated < config.min_terminated_line_fraction
    short = share(lines, lambda line: len(line) <= config.short_line_characters)
    yield "short_lines", short > config.max_short_line_fraction
    characters = sum(map(len, repeats(lines)))
    found = characters / len(text.replace("\n", ""))
    yield "duplicate_line_characters", found > config.max_duplicate_line_character_fraction
    yield "list_like", text.count("\n") / len(text.split()) > config.max_newlines_per_word


def lines_of(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


def paragraphs_of(text: str) -> list[str]:
    return [paragraph.strip() for paragraph in re.split(r"\n{2,}", text) if paragraph.strip()]


def begins_with_bullet(line: str) -> bool:
    return line.startswith(tuple(BULLETS))


def share(items: Sequence[str], holds: Callable[[str], bool]) -> float:
    return sum(map(holds, items)) / len(items)


def repeats(items: Sequence[str]) -> list[str]:
    """Every item that stood before."""
    return [item for i, item in enumerate(items) if item in items[:i]]


def top_n_gram_characters(words: Sequence[str], n: int) -> int:
    counts = Counter(zip(*(words[i:] for i in range(n)), strict=False))
    gram, highest = counts.most_common(1)[0] if counts else ((), 0)  # of equally frequent ones the first
    return highest * len(" ".join(gram)) if highest > 1 else 0


def duplicate_n_gram_characters(words: Sequence[str], n: int) -> int:
    seen, characters, i = set[str](), 0, 0
    while i + n <= len(words):
        gram = " ".join(words[i : i + n])
        if gram in seen:
            characters, i = characters + len(gram) - (n - 1), i + n
        else:
            seen.add(gram)
            i += 1
    return characters


def plain_words(text: str) -> list[str]:
    """Lower case, one character for one; what is no letter or number separates, but marks go on with a word."""
    words, inside = list[str](), False
    for character in text:
        if character.isalnum() or (inside and unicodedata.category(character).startswith("M")):
            folded = character.lower()[0].replace("ς", "σ")
            words[-1:] = [words[-1] + folded] if inside else [*words[-1:], folded]
            inside = True
        else:
            inside = False
    return words


def stop_words(text: str) -> set[str]:
    lower = "".join(character.lower()[0] for character in text)
    return STOP_WORDS.intersection(re.findall("[a-z]+", lower))


def sentences(text: str) -> int:
    return len(re.findall(r"[.?!]+[\"')\]”’]*(?:[ \t\n\f\r]|$)|\"$", text, re.MULTILINE))


POLICIES = ("terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies", "use cookies")


def c4_page(text: str) -> tuple[str | None, str]:
    """As the published code goes through a page (without its citations and bad words): why it is dropped, and what is left."""
    kept = []
    for line in map(str.strip, text.splitlines()):
        words, lower = line.split(), line.encode().lower().decode()
        if any(len(word) > 1_000 for word in words):
            continue
        if not line.endswith((".", "?", "!", '"', "'")) or line.endswith("...") or len(words) < 5:
            continue
        if "lorem ipsum" in lower:
            return "lorem_ipsum", ""
        if "javascript" in lower:
            continue
        if "{" in line:
            return "curly_bracket", ""
        if any(policy in lower for policy in POLICIES):
            continue
        kept.append(line)
    left = "\n".join(kept)
    return ("too_few_sentences" if sentences(left) < 3 else None), left


def first_overlap(text: str, items: list[str], ngram: int, min_words: int) -> tuple[int, int, int] | None:
    """The item that shares the first run of words with the text, the run's first word, and its length; the shortest run first."""
    runs: dict[tuple[str, ...], int] = {}
    for number, item in enumerate(items):
        words = plain_words(item)
        n = min(ngram, len(words))
        for i in range(len(words) - n + 1 if len(words) >= min_words else 0):
            runs.setdefault(tuple(words[i : i + n]), number)
    words = plain_words(text)
    for i in range(len(words)):
        for n in range(min_words, ngram + 1):
            if tuple(words[i : i + n]) in runs and i + n <= len(words):
                return runs[tuple(words[i : i + n])], i, n
    return None


def personal(text: str, kinds: Container[str]) -> list[Span]:
    """What the expressions find, each in the whole text; an earlier kind goes before a later one."""
    spans: list[Span] = []
    for kind, (pattern, holds) in DETECTORS.items():
        found = [Span(kind, *match.span()) for match in pattern.finditer(text) if kind in kinds and holds(match[0])]
        spans += [span for span in found if all(span.end <= b or e <= span.start for _, b, e in spans)]
    return sorted(spans, key=lambda span: span.start)


def lines_with_places(text: str) -> list[tuple[int, int]]:
    """Of each line that is not blank where it begins, with its indentation, and the place behind its last ink."""
    found, place = list[tuple[int, int]](), 0
    for line in text.splitlines(keepends=True):
        if line.strip():
            found.append((place, place + len(line.rstrip())))
        place += len(line)
    return found


def without_lines(text: str, gone: Container[int]) -> str:
    """Between two lines that stay the longest of what stood there between lines, in bytes; the first of several."""
    places = lines_with_places(text)
    if not places:
        return text
    gaps = [text[end:start] for (_, end), (start, _) in pairwise(places)]
    parts, last = [text[: places[0][0]]], -1
    for number, (start, end) in enumerate(places):
        if number not in gone:
            between = gaps[last:number] if last >= 0 else [""]
            parts += [max(between, key=lambda gap: len(gap.encode())), text[start:end]]
            last = number
    if last < 0:
        parts = []
    return "".join([*parts, text[places[-1][1] :]])


def repeated(texts: Sequence[str], split: Callable[[str], list[str]], min_words: int, most: int) -> list[list[int]]:
    """Of each text the numbers of the lines (or paragraphs) that stood before, where they stand more often than `most`."""
    spelt = [[" ".join(plain_words(item)) for item in split(text)] for text in texts]
    counts, seen = Counter(item for items in spelt for item in items), set[str]()
    found: list[list[int]] = []
    for items in spelt:
        found.append([])
        for number, item in enumerate(items):
            if len(item.split()) >= min_words and counts[item] > most:
                found[-1] += [number] * (item in seen)
                seen.add(item)
    return found
