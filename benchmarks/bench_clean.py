"""Cleaning by kernels on Arrow buffers, beside the same recipe a document at a time: CPU seconds on one core, in one run.

    python benchmarks/bench_clean.py [--input FOLDER_OF_JSONL] [--megabytes 8] [--datatrove PYTHON [--words shipped white-space]]
                                     [--c4]

Sides read the same JSONL and do: repair of Unicode, Gopher's quality and repetition rules, MinHash signatures; with --c4 also
C4's rules and e-mail and IP addresses masked. Ours also rewrites (addresses, references, white space), tells the language and takes
fingerprints. The other side is datatrove's own classes, run by PYTHON, an interpreter that has datatrove (and ftfy, spacy,
xxhash<4), with its words as shipped (spaCy) and split at white space; without PYTHON the plain rules of
tests/unit/pipelines/data/reference.py, which leave MinHash out and have py3langid for the language. Start-up (imports, models,
compiled code from disk) is told apart for ours and not counted for either.
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
from typing import Any

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


def by_kernels(folder: Path, *, c4: bool) -> tuple[float, float, list[str]]:
    """CPU seconds of start-up and of the work, and the reason for each document (empty: kept, duplicates aside)."""
    from pipelines.config import (
        DEFAULT_RULES,
        C4Config,
        DataConfig,
        FilterConfig,
        ProtectConfig,
        RuleConfig,
        SourceConfig,
    )
    from pipelines.data.batch import BatchCleaner
    from pipelines.data.inventory import inventory

    began = time.process_time()
    filters = FilterConfig(min_stop_words=0, c4=C4Config() if c4 else None)  # stop words are English ones
    asked: dict[str, Any] = {"filters": filters}
    if c4:
        asked["rules"] = (*DEFAULT_RULES, RuleConfig(name="c4_lines"))
        asked["protect"] = ProtectConfig(email="mask", ip_address="mask")
    with tempfile.TemporaryDirectory() as warm:
        generate(Path(warm), 0.05)
        config = DataConfig(sources=(SourceConfig(path=warm),), **asked)
        list(BatchCleaner(tuple(inventory(config.sources)), config)({"file": [0]}))
    started = time.process_time()
    config = DataConfig(sources=(SourceConfig(path=str(folder)),), **asked)
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


def by_datatrove(python: str, folder: Path, words: str, *, c4: bool) -> tuple[float, list[str]]:
    peer = str(Path(__file__).with_name("peer_datatrove.py"))
    command = [python, peer, str(folder), "--words", words, *(["--c4"] if c4 else [])]
    answer = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
    return answer["cpu_s"], answer["reasons"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", type=Path, help="folder of JSONL files with a field `text`")
    parser.add_argument("--megabytes", type=float, default=8, help="of documents to make when there is no --input")
    parser.add_argument("--datatrove", metavar="PYTHON", help="interpreter of an environment with datatrove and ftfy")
    parser.add_argument("--words", nargs="+", choices=("shipped", "white-space"), default=["white-space"])
    parser.add_argument("--c4", action="store_true", help="with C4's rules, e-mail and IP addresses")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        folder = args.input or Path(made)
        if args.input is None:
            generate(folder, args.megabytes)
        megabytes = sum(len(text.encode()) for text in texts_of(folder)) / 1e6
        start_s, ours_s, ours = by_kernels(folder, c4=args.c4)
        print(f"{len(ours)} documents, {megabytes:.1f} MB of text; start-up of ours {start_s:.1f} CPU-s")
        tell("serinus", megabytes, ours_s)
        for name, (cpu_s, reasons) in others(folder, args).items():
            assert len(ours) == len(reasons)
            same = sum(bool(one) == bool(two) for one, two in zip(ours, reasons, strict=True)) / len(ours)
            tell(name, megabytes, cpu_s, f"{cpu_s / ours_s:.1f} times ours, same decision {100 * same:.2f} %")


def others(folder: Path, args: argparse.Namespace) -> dict[str, tuple[float, list[str]]]:
    if not args.datatrove:
        return {"the plain rules": by_reference(folder)}
    return {
        f"datatrove, words {words}": by_datatrove(args.datatrove, folder, words, c4=args.c4) for words in args.words
    }


def tell(who: str, megabytes: float, cpu_s: float, more: str = "") -> None:
    print(f"{who:<34} {cpu_s:8.2f} CPU-s {megabytes / cpu_s:8.2f} MB/s per core  {more}", flush=True)


if __name__ == "__main__":
    main()
