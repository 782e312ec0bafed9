"""datatrove's own classes over JSONL, one process; run by bench_clean.py and decisions.py where datatrove is installed.

    PYTHON peer_datatrove.py FOLDER [--words shipped|white-space] [--judge-only] [--c4]

Prints one JSON object: CPU seconds of the work, and for each document why it was dropped (empty: kept). `shipped` words are
spaCy's (its English tokenizer, which needs no download): most of the time, and punctuation marks count as words. With --judge-only
texts are not repaired and not signed. With --c4 its C4 filter and its formatter for personal data (e-mail, IP addresses) run as
well; its sentences are spaCy's in either case. Its language filter is left out: it downloads its model.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any


class WhiteSpace:
    def word_tokenize(self, text: str) -> list[str]:
        return text.split()


def split_at_white_space() -> None:
    from datatrove.pipeline.dedup import minhash
    from datatrove.pipeline.filters import gopher_quality_filter, gopher_repetition_filter

    minhash.load_word_tokenizer = lambda language: WhiteSpace()
    for module in (gopher_quality_filter, gopher_repetition_filter):
        module.split_into_words = lambda text, language: text.split()


def filters_of(c4: bool) -> list[Any]:
    from datatrove.pipeline.filters import C4QualityFilter, gopher_quality_filter, gopher_repetition_filter

    return [
        gopher_quality_filter.GopherQualityFilter(min_stop_words=0),
        gopher_repetition_filter.GopherRepetitionFilter(),
        *([C4QualityFilter()] if c4 else []),
    ]


def main(folder: Path, *, judge_only: bool, c4: bool) -> None:
    from datatrove.data import Document
    from datatrove.pipeline.dedup import minhash
    from datatrove.pipeline.formatters import FTFYFormatter, PIIFormatter
    from datatrove.utils.text import PUNCTUATION_SET

    formatters = [] if judge_only else [FTFYFormatter(normalization="NFC"), *([PIIFormatter()] if c4 else [])]
    filters, signer = filters_of(c4), minhash.MinhashDedupSignature(".")
    for check in filters:  # load what they load, before the clock starts
        check.filter(Document(text="Some words, to begin with. " * 20, id=""))
    signer.get_shingles("Some words, to begin with.")
    began, reasons = time.process_time(), []
    for file in sorted(folder.glob("*.jsonl")):
        with file.open(encoding="utf-8") as lines:
            for line in lines:
                document = Document(text=json.loads(line)["text"], id="")
                for formatter in formatters:
                    document.text = formatter.format(document.text)
                answers = (check.filter(document) for check in filters) if document.text else [(False, "empty")]
                reason = next((answer[1] for answer in answers if answer is not True), "")
                reasons.append(reason)
                if not reason and not judge_only and len(shingles := signer.get_shingles(document.text)):
                    signer.get_signature(shingles)
    answer = {"cpu_s": time.process_time() - began, "reasons": reasons, "punctuation": sorted(PUNCTUATION_SET)}
    print(json.dumps(answer))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--words", choices=("shipped", "white-space"), default="white-space")
    parser.add_argument("--judge-only", action="store_true")
    parser.add_argument("--c4", action="store_true")
    args = parser.parse_args()
    if args.words == "white-space":
        split_at_white_space()
    main(args.folder, judge_only=args.judge_only, c4=args.c4)
