"""Keep or drop, and why, beside datatrove's filters on the same texts: each difference with the choice of ours that makes it.

    python benchmarks/decisions.py FOLDER_OF_JSONL --datatrove PYTHON [--examples 2]

Both judge texts as they are (nothing rewritten), words split at white space, by Gopher's rules but the one on stop words.
Where the two differ, datatrove's rules in the plain Python below are asked again with some of our choices in place of theirs: the
fewest that turn their answer into ours are the cause. What none of them explain, nor all together, is told as unexplained.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from itertools import combinations
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

REASONS = {
    "gopher_short_doc": "too_few_words",
    "gopher_long_doc": "too_many_words",
    "gopher_below_avg_threshold": "mean_word_length",
    "gopher_above_avg_threshold": "mean_word_length",
    "gopher_too_many_hashes": "symbols",
    "gopher_too_many_ellipsis": "symbols",
    "gopher_too_many_bullets": "bullet_lines",
    "gopher_too_many_end_ellipsis": "ellipsis_lines",
    "gopher_below_alpha_threshold": "few_alphabetic_words",
    "dup_line_frac": "duplicate_lines",
    "dup_line_char_frac": "duplicate_line_characters",
    "dup_para_frac": "duplicate_paragraphs",
    "dup_para_char_frac": "duplicate_paragraph_characters",
    **{f"top_{n}_gram": f"repeated_{n}_grams" for n in (2, 3, 4)},
    **{f"duplicated_{n}_n_grams": f"duplicate_{n}_grams" for n in range(5, 11)},
}
"""datatrove's names for what we call otherwise."""

CHOICES = {
    "empty": "a text without words is `empty`, theirs `short_doc`",
    "symbol_words": "marks that stand alone count as words, as the definition by white space has it",
    "bullets": "more bullets than `•` and `-`, and a dash is one only with a space behind it",
    "empty_lines": "empty lines do not count as lines",
    "line_breaks": "every line break of Unicode ends a line, not the newline alone",
    "stripped": "lines and paragraphs are compared without the white space around them",
    "single_grams": "an n-gram that stands once is not repeated",
    "longest_gram": "of n-grams as frequent the longest counts, not the first",
    "overlap": "characters of a most frequent n-gram cannot be more than the text",
    "spaces_in_grams": "the spaces inside duplicate n-grams count as characters",
    "order": "lines are asked before paragraphs",
}
"""Where the papers leave something open, what serinus does other than datatrove (docs/data.md, Filters)."""

TOP, DUPLICATE = ((2, 0.2), (3, 0.18), (4, 0.16)), ((5, 0.15), (6, 0.14), (7, 0.13), (8, 0.12), (9, 0.11), (10, 0.10))


def judged_by_datatrove(text: str, ours: frozenset[str], punctuation: frozenset[str]) -> str:
    """In our names why datatrove drops the text (empty: kept), with these choices made as we make them."""
    if not text.split() and "empty" in ours:
        return "empty"
    if not text:
        return "too_few_words"
    return next((reason for reason, holds in _objections(text, ours, punctuation) if holds), "")


def _objections(text: str, ours: frozenset[str], punctuation: frozenset[str]) -> Iterator[tuple[str, bool]]:
    words = text.split()
    counted = words if "symbol_words" in ours else [w for w in words if not punctuation.issuperset(w)]
    yield "too_few_words", len(counted) < 50
    yield "too_many_words", len(counted) > 100_000
    yield "mean_word_length", not 3 <= sum(map(len, counted)) / len(counted) <= 10
    yield "symbols", text.count("#") / len(words) > 0.1
    yield "symbols", (text.count("...") + text.count("…")) / len(words) > 0.1
    lines = [line.strip() for line in text.splitlines() if line.strip() or "empty_lines" not in ours]
    bullets = (*"•‣◦⁃∙●▪", "- ", "* ") if "bullets" in ours else ("•", "-")
    yield "bullet_lines", sum(line.startswith(bullets) for line in lines) / len(lines) > 0.9
    yield "ellipsis_lines", sum(line.endswith(("...", "…")) for line in lines) / len(lines) > 0.3
    yield "few_alphabetic_words", sum(any(map(str.isalpha, word)) for word in words) / len(words) < 0.8
    duplicates = [list(_duplicate_lines(text, ours)), list(_duplicate_paragraphs(text, ours))]
    yield from (answer for answers in (duplicates if "order" in ours else duplicates[::-1]) for answer in answers)
    for n, bound in TOP:
        share = _top(words, n, ours) / len(text)
        yield f"repeated_{n}_grams", (min(1.0, share) if "overlap" in ours else share) > bound
    for n, bound in DUPLICATE:
        yield f"duplicate_{n}_grams", _all_duplicates(words, n, ours) / len(text) > bound


def _duplicate_lines(text: str, ours: frozenset[str]) -> Iterator[tuple[str, bool]]:
    lines = text.splitlines() if "line_breaks" in ours else re.split("\n+", text)
    lines = [line for line in lines if line or "line_breaks" not in ours]
    number, characters, among = _repeats(lines, ours)
    yield "duplicate_lines", number / among > 0.3
    yield "duplicate_line_characters", characters / len(text) > 0.2


def _duplicate_paragraphs(text: str, ours: frozenset[str]) -> Iterator[tuple[str, bool]]:
    number, characters, among = _repeats(re.split(r"\n{2,}", text.strip()), ours)
    yield "duplicate_paragraphs", number / among > 0.3
    yield "duplicate_paragraph_characters", characters / len(text) > 0.2


def _repeats(items: Sequence[str], ours: frozenset[str]) -> tuple[int, int, int]:
    if "stripped" in ours:
        items = [item.strip() for item in items]
    if "empty_lines" in ours:
        items = [item for item in items if item.strip()]
    seen, number, characters = set[str](), 0, 0
    for item in items:
        if item in seen:
            number, characters = number + 1, characters + len(item)
        seen.add(item)
    return number, characters, max(1, len(items))


def _top(words: Sequence[str], n: int, ours: frozenset[str]) -> int:
    counts = Counter(" ".join(words[i : i + n]) for i in range(len(words) - n + 1))
    if not counts:
        return 0
    gram, highest = counts.most_common(1)[0]
    if highest == 1 and "single_grams" in ours:
        return 0
    longest = max(len(gram) for gram, count in counts.items() if count == highest)
    return highest * (longest if "longest_gram" in ours else len(gram))


def _all_duplicates(words: Sequence[str], n: int, ours: frozenset[str]) -> int:
    joint, seen, characters, i = " " if "spaces_in_grams" in ours else "", set[str](), 0, 0
    while i < len(words) - n + 1:
        gram = joint.join(words[i : i + n])
        if gram in seen:
            characters, i = characters + len(gram), i + n
        else:
            seen.add(gram)
            i += 1
    return characters


def cause(text: str, theirs: str, ours: str, punctuation: frozenset[str]) -> str:
    """The fewest choices that turn their answer into ours; `unexplained` where none do."""
    if judged_by_datatrove(text, frozenset(), punctuation) != theirs:
        return "unexplained: the plain rules do not answer as datatrove does"
    for number in (1, 2, len(CHOICES)):
        for some in combinations(CHOICES, number):
            if judged_by_datatrove(text, frozenset(some), punctuation) == ours:
                return " + ".join(some) if number < len(CHOICES) else "several"
    return "unexplained"


def judged_by_serinus(folder: Path) -> tuple[list[str], list[str]]:
    """The texts, and why each is dropped."""
    import pyarrow as pa

    from benchmarks.bench_clean import texts_of
    from pipelines.config import FilterConfig
    from pipelines.data.filters import cheap_drops

    texts, reasons = list(texts_of(folder)), list[str]()
    for start in range(0, len(texts), 2_048):
        some = texts[start : start + 2_048]
        drops = cheap_drops(pa.array(some, pa.large_string()), FilterConfig(min_stop_words=0))
        reasons += [drops[i].reason if i in drops else "" for i in range(len(some))]
    return texts, reasons


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument(
        "--datatrove", metavar="PYTHON", help="interpreter of an environment with datatrove 0.10 and ftfy"
    )
    parser.add_argument(
        "--answers", type=Path, help="what peer_datatrove.py --judge-only printed for this folder before"
    )
    parser.add_argument("--examples", type=int, default=0, help="texts to show of each cause")
    args = parser.parse_args()
    if args.answers:
        printed = args.answers.read_text(encoding="utf-8")
    else:
        command = [args.datatrove, str(Path(__file__).with_name("peer_datatrove.py")), str(args.folder), "--judge-only"]
        printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    answer = json.loads(printed.splitlines()[-1])
    theirs = [REASONS.get(reason, reason) for reason in answer["reasons"]]
    report(*judged_by_serinus(args.folder), theirs, frozenset(answer["punctuation"]), args.examples)


def report(texts: list[str], ours: list[str], theirs: list[str], punctuation: frozenset[str], examples: int) -> None:
    num = len(texts)
    other = [i for i in range(num) if ours[i] != theirs[i]]
    turned = [i for i in other if bool(ours[i]) != bool(theirs[i])]
    print(f"{num} documents, {sum(map(bool, theirs))} dropped by datatrove, {sum(map(bool, ours))} by serinus")
    print(
        f"keep or drop the same: {100 * (1 - len(turned) / num):.3f} %; and the reason: {100 * (1 - len(other) / num):.3f} %"
    )
    causes = defaultdict[str, list[int]](list)
    for i in other:
        causes[cause(texts[i], theirs[i], ours[i], punctuation)].append(i)
    for name, places in sorted(causes.items(), key=lambda item: -len(item[1])):
        flips = sum(bool(ours[i]) != bool(theirs[i]) for i in places)
        print(
            f"| {name} | {len(places)} | {flips} | {'; '.join(CHOICES.get(part, '') for part in name.split(' + '))} |"
        )
        for i in places[:examples]:
            print(f"    {i}: theirs {theirs[i] or 'kept'}, ours {ours[i] or 'kept'}: {texts[i][:200]!r}")


if __name__ == "__main__":
    main()
