"""Cleaning by kernels on Arrow buffers, beside the same recipe a document at a time: CPU seconds on one core, in one run.

    python benchmarks/bench_clean.py [--input FOLDER_OF_JSONL] [--megabytes 8] [--datatrove PYTHON]

Both sides read the same JSONL and do: repair of Unicode, Gopher's quality and repetition rules, MinHash signatures. Ours also
rewrites (addresses, references, white space), tells the language and takes fingerprints. The other side is datatrove's own
classes with words split at white space, run by PYTHON, an interpreter that has datatrove (and ftfy), where one is given; else
the plain rules of tests/unit/pipelines/data/reference.py, which leave MinHash out and have py3langid for the language. Start-up
(imports, models, compiled code from disk) is told apart for ours and not counted for either.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from pydoc_data.topics import topics

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))


def generate(folder: Path, megabytes: float) -> None:
    """Documents of paragraphs drawn from CPython's language reference: English with code, some broken, some repetitive."""
    rng = random.Random(0)
    paragraphs = [part for text in topics.values() for part in text.split("\n\n") if len(part) > 80]
    size = 0
    with (folder / "made.jsonl").open("w", encoding="utf-8") as out:
        while size < megabytes * 1e6:
            text = "\n\n".join(rng.choices(paragraphs, k=rng.randint(2, 20)))
            if rng.random() < 0.05:
                text = text.replace("e", "é", 5).encode().decode("latin-1")
            size += out.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")


def texts_of(folder: Path) -> Iterator[str]:
    for file in sorted(folder.glob("*.jsonl")):
        with file.open(encoding="utf-8") as lines:
            for line in lines:
                yield json.loads(line)["text"]


def by_kernels(folder: Path) -> tuple[float, float, list[str]]:
    """CPU seconds of start-up and of the work, and the reason for each document (empty: kept, duplicates aside)."""
    from pipelines.config import DataConfig, FilterConfig, SourceConfig
    from pipelines.data.batch import BatchCleaner
    from pipelines.data.inventory import inventory

    began = time.process_time()
    with tempfile.TemporaryDirectory() as warm:
        generate(Path(warm), 0.05)
        config = DataConfig(sources=(SourceConfig(path=warm),))
        list(BatchCleaner(tuple(inventory(config.sources)), config)({"file": [0]}))
    started = time.process_time()
    filters = FilterConfig(min_stop_words=0)  # English ones, which datatrove asks of every language
    config = DataConfig(sources=(SourceConfig(path=str(folder)),), filters=filters)
    files = tuple(inventory(config.sources))
    reasons: list[str] = []
    for table in BatchCleaner(files, config)({"file": range(len(files))}):
        reasons += table["reason"].to_pylist()
    return started - began, time.process_time() - started, reasons


def by_reference(folder: Path) -> tuple[float, list[str]]:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    from pipelines.config import FilterConfig
    from pipelines.data.repair import repair_unicode
    from tests.unit.pipelines.data.reference import first_objection

    identifier, config = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True), FilterConfig()
    began, reasons = time.process_time(), []
    for text in texts_of(folder):
        repaired = repair_unicode(text)
        reasons.append(first_objection(repaired, config) or "")
        identifier.classify(repaired[:1_000])
    return time.process_time() - began, reasons


def by_datatrove(python: str, folder: Path) -> tuple[float, list[str]]:
    command = [python, str(Path(__file__).with_name("peer_datatrove.py")), str(folder)]
    answer = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
    return answer["cpu_s"], answer["reasons"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", type=Path, help="folder of JSONL files with a field `text`")
    parser.add_argument("--megabytes", type=float, default=8, help="of documents to make when there is no --input")
    parser.add_argument("--datatrove", metavar="PYTHON", help="interpreter of an environment with datatrove and ftfy")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        folder = args.input or Path(made)
        if args.input is None:
            generate(folder, args.megabytes)
        report(folder, args.datatrove)


def report(folder: Path, datatrove: str | None) -> None:
    megabytes = sum(len(text.encode()) for text in texts_of(folder)) / 1e6
    start_s, ours_s, ours = by_kernels(folder)
    name = "datatrove, words at white space" if datatrove else "the plain rules"
    other_s, other = by_datatrove(datatrove, folder) if datatrove else by_reference(folder)
    assert len(ours) == len(other)
    same = sum(bool(one) == bool(two) for one, two in zip(ours, other, strict=True)) / len(ours)
    print(f"{len(ours)} documents, {megabytes:.1f} MB of text")
    for who, cpu_s in (("serinus", ours_s), (name, other_s)):
        print(f"{who:<34} {cpu_s:8.2f} CPU-s {megabytes / cpu_s:8.2f} MB/s per core")
    print(f"ratio {other_s / ours_s:.1f}; start-up of ours {start_s:.1f} CPU-s; same decision {100 * same:.2f} %")


if __name__ == "__main__":
    main()
