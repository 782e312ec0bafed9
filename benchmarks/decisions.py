"""Keep or drop, and why, beside datatrove's filters on the same texts: each difference with the choice of ours that makes it.

    python benchmarks/decisions.py FOLDER_OF_JSONL --datatrove PYTHON [--rules gopher c4 fineweb] [--raw] [--examples 2]

Both judge the same texts, as serinus's default rules leave them (with --raw as they are), words split at white space: by
Gopher's rules but the one on stop words, by C4's, and by FineWeb's, each for itself. Where the two differ by Gopher's,
datatrove's rules in the plain Python below are asked again with some of our choices in place of theirs: the fewest that turn
their answer into ours are the cause. What none of them explain, nor all together, is told as unexplained.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
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
    "line_punct_ratio": "unterminated_lines",
    "short_line_ratio": "short_lines",
    "char_dup_ratio": "duplicate_line_characters",
    "list_ratio": "list_like",
}
"""datatrove's names for what we call otherwise."""

CHOICES = {
    "empty": "a text without words is `empty`, theirs `short_doc`",
    "symbol_words": "marks that stand alone count as words, as the definition by white space has it",
    "empty_lines": "lines of white space alone count neither as repeated lines nor among those",
    "line_breaks": "every line break of Unicode ends a line, not the newline alone",
    "stripped": "lines and paragraphs are compared without the white space around them",
    "single_grams": "an n-gram that stands once is not repeated",
    "overlap": "characters of a most frequent n-gram cannot be more than the text",
    "same_words": "n-grams are the same when their words are, not when their letters are",
}
"""Where the papers leave something open, what serinus does other than datatrove (docs/data.md, Filters)."""

OPEN = {
    "min_words": 0,
    "min_mean_word_length": 0,
    "max_mean_word_length": 1e9,
    "max_symbol_word_ratio": 1e9,
    "max_bullet_line_fraction": 1,
    "max_ellipsis_line_fraction": 1,
    "min_alphabetic_word_fraction": 0,
    "max_duplicate_line_fraction": 1,
    "max_duplicate_line_character_fraction": 1,
    "max_top_2_gram_character_fraction": 1,
    "max_top_3_gram_character_fraction": 1,
    "max_top_4_gram_character_fraction": 1,
    "max_duplicate_paragraph_fraction": 1,
    "max_duplicate_paragraph_character_fraction": 1,
    "max_duplicate_n_gram_character_fractions": (1,) * 6,
    "min_stop_words": 0,
}
"""Gopher's rules out of the way of the others."""

NO_LINE = "too_few_sentences"
"""What a page without a line that stays is called there; here such a document is `empty`."""

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
    lines = [line.strip() for line in text.splitlines()]
    yield "bullet_lines", sum(line.startswith(("•", "-")) for line in lines) / len(lines) > 0.9
    yield "ellipsis_lines", sum(line.endswith(("...", "…")) for line in lines) / len(lines) > 0.3
    yield "few_alphabetic_words", sum(any(map(str.isalpha, word)) for word in words) / len(words) < 0.8
    yield from _duplicate_paragraphs(text, ours)
    yield from _duplicate_lines(text, ours)
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
    return highest * len(gram)


def _all_duplicates(words: Sequence[str], n: int, ours: frozenset[str]) -> int:
    joint, seen, characters, i = " " if "same_words" in ours else "", set[str](), 0, 0
    while i < len(words) - n + 1:
        gram = joint.join(words[i : i + n])
        if gram in seen:
            characters, i = characters + sum(map(len, words[i : i + n])), i + n
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


def judged_by_serinus(folder: Path, rules: str) -> tuple[list[str], list[str]]:
    """The texts, and why each is dropped."""
    import pyarrow as pa

    from benchmarks.bench_clean import texts_of
    from pipelines.config import FilterConfig, RuleConfig
    from pipelines.data.filters import cheap_drops
    from pipelines.data.rules import compile_rules

    config = FilterConfig(min_stop_words=0) if rules == "gopher" else FilterConfig.model_validate({**OPEN, rules: {}})
    lines = compile_rules((RuleConfig(name="c4_lines"),))[0]
    texts, reasons = list(texts_of(folder)), list[str]()
    for start in range(0, len(texts), 2_048):
        some = pa.array(texts[start : start + 2_048], pa.large_string())
        drops = cheap_drops(lines.apply(some) if rules == "c4" else some, config)
        told = [str(drops[i].reason) if i in drops else "" for i in range(len(some))]
        lost = [rules == "c4" and bool(text.strip()) for text in texts[start : start + 2_048]]
        reasons += [NO_LINE if gone and why == "empty" else why for gone, why in zip(lost, told, strict=True)]
    return texts, reasons


def judged_by_datatrove_itself(python: str, folder: Path, rules: str) -> tuple[list[str], frozenset[str]]:
    """Why each text is dropped, in our names, and what datatrove takes for punctuation."""
    command = [python, str(Path(__file__).with_name("peer_datatrove.py")), "judge", str(folder), "--rules", rules]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    answer = json.loads(printed.splitlines()[-1])
    return [REASONS.get(reason, reason) for reason in answer["reasons"]], frozenset(answer["punctuation"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument(
        "--datatrove",
        metavar="PYTHON",
        required=True,
        help="interpreter of an environment with datatrove 0.10, ftfy and spaCy",
    )
    parser.add_argument("--rules", nargs="+", choices=("gopher", "c4", "fineweb"), default=["gopher", "c4", "fineweb"])
    parser.add_argument("--examples", type=int, default=0, help="texts to show of each cause")
    parser.add_argument("--raw", action="store_true", help="judge texts as they are")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        folder = args.folder
        if not args.raw:
            folder = Path(made)
            rewrite(args.folder, folder)
        for rules in args.rules:
            texts, ours = judged_by_serinus(folder, rules)
            theirs, punctuation = judged_by_datatrove_itself(args.datatrove, folder, rules)
            print(f"{rules}: ", end="")
            report(texts, ours, theirs, punctuation if rules == "gopher" else None, args.examples)


def rewrite(folder: Path, out: Path) -> None:
    """The texts of the folder after the default rules, as JSON lines."""
    import pyarrow as pa

    from benchmarks.bench_clean import texts_of
    from pipelines.config import DEFAULT_RULES
    from pipelines.data.rules import compile_rules

    texts = pa.array(texts_of(folder), pa.large_string())
    for rule in compile_rules(DEFAULT_RULES):
        texts = rule.apply(texts)
    lines = (json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts.to_pylist())
    (out / "rewritten.jsonl").write_text("".join(lines), encoding="utf-8")


def report(
    texts: list[str], ours: list[str], theirs: list[str], punctuation: frozenset[str] | None, examples: int
) -> None:
    """Without `punctuation` causes are not looked for: the two reasons stand in their place."""
    num = len(texts)
    other = [i for i in range(num) if ours[i] != theirs[i]]
    turned = [i for i in other if bool(ours[i]) != bool(theirs[i])]
    print(f"{num} documents, {sum(map(bool, theirs))} dropped by datatrove, {sum(map(bool, ours))} by serinus")
    print(
        f"keep or drop the same: {100 * (1 - len(turned) / num):.3f} %; and the reason: {100 * (1 - len(other) / num):.3f} %"
    )
    causes = defaultdict[str, list[int]](list)
    for i in other:
        name = f"theirs {theirs[i] or 'kept'}, ours {ours[i] or 'kept'}"
        causes[name if punctuation is None else cause(texts[i], theirs[i], ours[i], punctuation)].append(i)
    for name, places in sorted(causes.items(), key=lambda item: -len(item[1])):
        flips = sum(bool(ours[i]) != bool(theirs[i]) for i in places)
        print(
            f"| {name} | {len(places)} | {flips} | {'; '.join(CHOICES.get(part, '') for part in name.split(' + '))} |"
        )
        for i in places[:examples]:
            print(f"    {i}: theirs {theirs[i] or 'kept'}, ours {ours[i] or 'kept'}: {texts[i][:200]!r}")


if __name__ == "__main__":
    main()
