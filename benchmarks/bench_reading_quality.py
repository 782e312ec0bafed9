"""How good the parts of cleaning that have no exact answer are, on public data with known answers.

    python benchmarks/bench_reading_quality.py [--data ../shared/data] [--json FILE]

- personal data: spans by kind on presidio-research's synthetic texts, beside what it planted;
- languages: lingua's 75 languages, 200 sentences each, one at a time and eight joined;
- articles: scrapinghub's article-extraction-benchmark, by its own measure, beside the outputs of other extractors it has;
- archives: Common Crawl's, warcio's and AUT's files, some broken on purpose, beside warcio's own reader.

What is missing below the folder is left out and said.
"""

from __future__ import annotations

import argparse
import gzip
import json
import re
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

# --- personal data ----------------------------------------------------------------------------------------------------

PLANTED = {
    "EMAIL_ADDRESS": "email",
    "IBAN_CODE": "iban",
    "IP_ADDRESS": "ip_address",
    "CREDIT_CARD": "credit_card",
    "PHONE_NUMBER": "phone",
    "US_SSN": "national_id",
}
"""presidio's kinds that serinus has too."""


class Spans(NamedTuple):
    planted: int
    found: int
    """Covered whole, under the right kind."""
    told: int
    right: int
    """Of what was told: with characters in common with a planted value of that kind."""


def personal_data(folder: Path) -> dict[str, Spans]:
    """By presidio's kind; of those that serinus has no detector for, what it found there of any kind."""
    import pyarrow as pa

    from pipelines.data.protect import DETECTORS, find

    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for file in sorted(folder.rglob("*.json")):
        records = json.loads(file.read_text(encoding="utf-8"))
        found = find(pa.array([record["full_text"] for record in records], pa.large_string()), tuple(DETECTORS))
        for i, record in enumerate(records):
            spans = found[i][1] if i in found else []
            planted = [(v["entity_type"], v["start_position"], v["end_position"]) for v in record["spans"]]
            for kind, start, end in planted:
                ours = PLANTED.get(kind)
                counts[kind]["planted"] += 1
                counts[kind]["found"] += any(
                    (span.kind == ours or ours is None) and span.start <= start and span.end >= end for span in spans
                )
            for span in spans:
                counts[span.kind]["told"] += 1
                counts[span.kind]["right"] += any(
                    PLANTED.get(kind) == span.kind and span.start < end and start < span.end
                    for kind, start, end in planted
                )
    for kind, ours in PLANTED.items():
        counts[kind] += counts.pop(ours, Counter())
    return {kind: Spans(*(found[name] for name in Spans._fields)) for kind, found in sorted(counts.items())}


# --- languages --------------------------------------------------------------------------------------------------------


CALLED = {"nb": "no"}
"""Languages that the model has under another code of ISO 639-1."""


class Language(NamedTuple):
    code: str
    one: float
    """Share of sentences that are told right."""
    eight: float
    """Share of groups of eight sentences."""
    mistaken_for: str


def languages(folder: Path) -> list[Language]:
    import pyarrow as pa

    from pipelines.data.language import identify

    found = []
    for file in sorted(folder.glob("sentences*/*.txt")):
        lines = [line for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
        groups = [" ".join(lines[i : i + 8]) for i in range(0, len(lines) - 7, 8)]
        told = [[code for code, _ in identify(pa.array(texts, pa.large_string()))] for texts in (lines, groups)]
        right = CALLED.get(file.stem, file.stem)
        one, eight = (codes.count(right) / len(codes) for codes in told)
        others = Counter(code for code in told[1] if code != right)
        found.append(Language(right, one, eight, others.most_common(1)[0][0] if others else ""))
    return found


def known_languages() -> set[str]:
    """Codes that the model can tell at all."""
    from pipelines.data.kernels import languages as model

    return set(model.model().labels)


# --- articles ---------------------------------------------------------------------------------------------------------

WORD = re.compile(r"\w+")
SHINGLE = 4


class Extraction(NamedTuple):
    f1: float
    precision: float
    recall: float


def shingles(text: str) -> Counter[tuple[str, ...]]:
    words = WORD.findall(text)
    return Counter(tuple(words[i : i + SHINGLE]) for i in range(max(len(words) - SHINGLE + 1, 1)))


def extraction(truth: Mapping[str, str], told: Mapping[str, str]) -> Extraction:
    """The benchmark's measure: precision and recall of shingles of four words on each page, averaged over pages; F1 of the two."""
    precisions, recalls = [], []
    for name, text in truth.items():
        right, ours = shingles(text), shingles(told.get(name) or "")
        common = (right & ours).total()
        precisions.append(common / ours.total())
        recalls.append(common / right.total())
    precision, recall = (sum(values) / len(values) for values in (precisions, recalls))
    return Extraction(2 * precision * recall / (precision + recall), precision, recall)


def articles(folder: Path) -> dict[str, Extraction]:
    """Ours first, then those of the outputs that came with the benchmark."""
    from pipelines.data.pages import declared_charset, decode, main_text

    truth = {name: page["articleBody"] for name, page in json.loads((folder / "ground-truth.json").read_text()).items()}
    ours = {}
    for name in truth:
        content = gzip.decompress((folder / "html" / f"{name}.html.gz").read_bytes())
        ours[name] = main_text(decode(content, declared_charset(content)) or "") or ""
    found = {"serinus": extraction(truth, ours)}
    for file in sorted((folder / "output").glob("*.json")):
        said = json.loads(file.read_text())
        told = {name: page["articleBody"] or "" for name, page in said["output"].items()}
        found[f"{file.stem} {said['version']}, its published output"] = extraction(truth, told)
    return found


# --- archives ---------------------------------------------------------------------------------------------------------


class Archive(NamedTuple):
    documents: int
    excluded: dict[str, int]
    records: int
    """For documents (response, resource, conversion) that warcio's reader comes to before it ends or fails."""
    warcio: str
    """How that one ended."""


def archives(folder: Path) -> dict[str, Archive]:
    from pyarrow.fs import LocalFileSystem

    from pipelines.data.archive import read_archive
    from pipelines.data.inventory import SourceFile

    found = {}
    for file in sorted(path for path in folder.glob("*/*") if path.is_file()):
        source = SourceFile(file.name, str(file), LocalFileSystem(), "warc", file.suffix == ".gz", "text", None)
        reasons = Counter(document.reason or "" for document in read_archive(source, 10_000_000))
        kept = reasons.pop("", 0)
        found[f"{file.parent.name}/{file.name}"] = Archive(kept, dict(reasons), *by_warcio(file))
    return found


def by_warcio(file: Path) -> tuple[int, str]:
    from warcio.archiveiterator import ArchiveIterator

    num = 0
    try:
        with file.open("rb") as stream:
            for record in ArchiveIterator(stream):
                num += record.rec_type in ("response", "resource", "conversion")
                record.content_stream().read()
    except Exception as error:
        return num, type(error).__name__
    return num, "whole"


# --- tables -----------------------------------------------------------------------------------------------------------


def table(names: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    print("| " + " | ".join(names) + " |\n" + "|---" * len(names) + "|")
    for row in rows:
        print("| " + " | ".join(f"{cell:.3f}" if isinstance(cell, float) else str(cell) for cell in row) + " |")
    print()


def show_personal_data(found: Mapping[str, Spans]) -> None:
    def share(part: int, whole: int) -> str:
        return f"{part / whole:.3f}" if whole else "-"

    rows = [
        (
            kind,
            PLANTED.get(kind, "-"),
            s.planted,
            s.found,
            share(s.found, s.planted),
            s.told or "-",
            share(s.right, s.told),
        )
        for kind, s in found.items()
    ]
    table(("planted kind", "serinus's", "planted", "found whole", "recall", "told", "precision"), rows)


def show_languages(found: Sequence[Language]) -> None:
    known = known_languages()
    table(("language", "a sentence", "eight sentences", "else mostly"), found)
    for name, group in (("all", found), ("those the model knows", [one for one in found if one.code in known])):
        means = [sum(getattr(one, part) for one in group) / len(group) for part in ("one", "eight")]
        print(f"{name}, {len(group)}: a sentence {means[0]:.3f}, eight {means[1]:.3f}")
    print()


def show_articles(found: Mapping[str, Extraction]) -> None:
    table(("extractor", "F1", "precision", "recall"), [(name, *values) for name, values in found.items()])


def show_archives(found: Mapping[str, Archive]) -> None:
    rows = [
        (
            name,
            one.documents,
            ", ".join(f"{reason} {num}" for reason, num in one.excluded.items()) or "-",
            one.records,
            one.warcio,
        )
        for name, one in found.items()
    ]
    table(("file", "documents", "excluded", "records warcio came to", "warcio's reader"), rows)


PARTS: dict[str, tuple[str, Callable[[Path], Any], Callable[[Any], None]]] = {
    "personal data": ("pii_presidio", personal_data, show_personal_data),
    "languages": ("langid_lingua", languages, show_languages),
    "articles": ("web_article_benchmark", articles, show_articles),
    "archives": ("warc", archives, show_archives),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--json", type=Path, help="write the figures there, too")
    parser.add_argument("--only", choices=PARTS, help="one part")
    asked = parser.parse_args()
    figures = {}
    for name, (folder, measure, show) in PARTS.items():
        if asked.only in (None, name):
            if not (asked.data / folder).is_dir():
                print(f"## {name}: {asked.data / folder} is not there\n")
                continue
            began = time.process_time()
            figures[name] = measure(asked.data / folder)
            print(f"## {name} ({time.process_time() - began:.1f} CPU-s)\n")
            show(figures[name])
    if asked.json:
        asked.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
