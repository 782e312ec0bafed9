"""datatrove's own classes over JSONL, one process, words split at white space; run by bench_clean.py where datatrove is installed.

Prints one JSON object: CPU seconds of the work, and for each document why it was dropped (empty: kept). datatrove splits words
with spaCy as it comes, which takes two thirds of its time and counts punctuation as words.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path


class WhiteSpace:
    def word_tokenize(self, text: str) -> list[str]:
        return text.split()


def main(folder: Path) -> None:
    from datatrove.data import Document
    from datatrove.pipeline.dedup import minhash
    from datatrove.pipeline.filters import gopher_quality_filter, gopher_repetition_filter
    from datatrove.pipeline.formatters import FTFYFormatter

    minhash.load_word_tokenizer = lambda language: WhiteSpace()
    for module in (gopher_quality_filter, gopher_repetition_filter):
        module.split_into_words = lambda text, language: text.split()
    formatter = FTFYFormatter(normalization="NFC")
    filters = (
        gopher_quality_filter.GopherQualityFilter(min_stop_words=0),
        gopher_repetition_filter.GopherRepetitionFilter(),
    )
    signer = minhash.MinhashDedupSignature(".")
    began, reasons = time.process_time(), []
    for file in sorted(folder.glob("*.jsonl")):
        with file.open(encoding="utf-8") as lines:
            for line in lines:
                text = formatter.format(json.loads(line)["text"])
                answers = (check.filter(Document(text=text, id="")) for check in filters)
                reason = next((answer[1] for answer in answers if answer is not True), "")
                reasons.append(reason)
                if not reason and len(shingles := signer.get_shingles(text)):
                    signer.get_signature(shingles)
    print(json.dumps({"cpu_s": time.process_time() - began, "reasons": reasons}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
