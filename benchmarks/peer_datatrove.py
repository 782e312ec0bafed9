"""datatrove's own classes over JSONL, in one process; run where datatrove 0.10, ftfy, spaCy and pyarrow are installed.

    PYTHON peer_datatrove.py clean FOLDER --words shipped|white-space
    PYTHON peer_datatrove.py judge FOLDER --rules gopher|c4|fineweb
    PYTHON peer_datatrove.py clusters FOLDER [--seed 1 | --alike]
    PYTHON peer_datatrove.py personal FOLDER

`clean` is the recipe of bench_clean.py: ftfy, e-mail and IP addresses masked, Gopher's rules and C4's, MinHash signatures, Parquet.
Left out are its language filter (it downloads its model), the search for duplicates by the signatures, exact duplicates, and all
other kinds of personal data (it has none). `shipped` words are spaCy's (its English tokenizer, which needs no download): most of
the time, and punctuation marks count as words. Sentences are spaCy's in either case.

`judge` prints for each document why it is dropped (empty: kept), texts as they are, words split at white space and sentences as
ours are; `clusters` which documents hang together by MinHash, texts normalised as ours are; `personal` where its formatter finds
e-mail and IP addresses. Each prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import re
import struct
import tempfile
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SENTENCE_END = re.compile(r"[.?!]+[\"')\]”’]*(?:[ \t\n\f\r]|$)|\"$")


class WhiteSpace:
    def word_tokenize(self, text: str) -> list[str]:
        return text.split()


def split_at_white_space() -> None:
    from datatrove.pipeline.dedup import minhash
    from datatrove.pipeline.filters import fineweb_quality_filter, gopher_quality_filter, gopher_repetition_filter

    minhash.load_word_tokenizer = lambda language: WhiteSpace()
    for module in (gopher_quality_filter, gopher_repetition_filter, fineweb_quality_filter):
        module.split_into_words = lambda text, language: text.split()


def texts_of(folder: Path) -> Iterator[str]:
    for file in sorted(folder.glob("*.jsonl")):
        with file.open(encoding="utf-8") as lines:
            for line in lines:
                yield json.loads(line)["text"]


def reason_of(document: Any, filters: list[Any]) -> str:
    answers = (check.filter(document) for check in filters) if document.text else [(False, "empty")]
    return next((answer[1] for answer in answers if answer is not True), "")


def clean(folder: Path) -> dict[str, Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq
    from datatrove.data import Document
    from datatrove.pipeline.dedup import minhash
    from datatrove.pipeline.filters import C4QualityFilter, gopher_quality_filter, gopher_repetition_filter
    from datatrove.pipeline.formatters import FTFYFormatter, PIIFormatter

    formatters = [FTFYFormatter(normalization="NFC"), PIIFormatter()]
    filters = [
        gopher_quality_filter.GopherQualityFilter(min_stop_words=0),
        gopher_repetition_filter.GopherRepetitionFilter(),
        C4QualityFilter(),
    ]
    signer, kept, num = minhash.MinhashDedupSignature("."), list[str](), 0
    for text in texts_of(folder):
        num += 1
        document = Document(text=text, id="")
        for formatter in formatters:
            document.text = formatter.format(document.text)
        if not reason_of(document, filters):
            kept.append(document.text)
            if len(shingles := signer.get_shingles(document.text)):
                signer.get_signature(shingles)
    with tempfile.TemporaryDirectory() as out:
        pq.write_table(pa.table({"text": kept}), f"{out}/kept.parquet", compression="zstd")
    return {"documents": num, "kept": len(kept)}


def judge(folder: Path, rules: str) -> dict[str, Any]:
    from datatrove.data import Document
    from datatrove.pipeline.filters import (
        c4_filters,
        fineweb_quality_filter,
        gopher_quality_filter,
        gopher_repetition_filter,
    )
    from datatrove.utils.text import PUNCTUATION_SET

    c4_filters.split_into_sentences = lambda text, language: SENTENCE_END.findall(text)
    filters: dict[str, list[Any]] = {
        "gopher": [
            gopher_quality_filter.GopherQualityFilter(min_stop_words=0),
            gopher_repetition_filter.GopherRepetitionFilter(),
        ],
        # the numbers of the code that made C4, and our rule's on references left out
        "c4": [c4_filters.C4QualityFilter(min_num_sentences=3, min_words_per_line=5, remove_citations=False)],
        "fineweb": [fineweb_quality_filter.FineWebQualityFilter(char_duplicates_ratio=0.1)],
    }
    reasons = [reason_of(Document(text=text, id=""), filters[rules]) for text in texts_of(folder)]
    return {"reasons": reasons, "punctuation": sorted(PUNCTUATION_SET)}


def words_of(text: str) -> list[str]:
    """Those that serinus compares by: runs of letters and numbers, marks with them, in lower case, one character for one."""
    words, inside = list[str](), False
    for character in text:
        goes_on = character.isalnum() or (inside and unicodedata.category(character).startswith("M"))
        if goes_on:
            folded = character.lower()[0].replace("ς", "σ")
            words[-1:] = [words[-1] + folded] if inside else [*words[-1:], folded]
        inside = goes_on
    return words


def like_serinus(step: Any) -> Any:
    """`step` with the words and the hash functions of pipelines/data/kernels (tokens.py, signatures.py), written down a second
    time: the same pairs should be found then, whatever their similarity."""
    import numpy as np

    u64 = np.uint64
    hashes: dict[str, Any] = {}
    random = np.random.default_rng(20_211)
    a = random.integers(0, 2**32, step.num_hashes, np.uint32) | np.uint32(1)
    b = random.integers(0, 2**32, step.num_hashes, np.uint32)

    def mix(x: Any) -> Any:
        x = (x ^ (x >> u64(30))) * u64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> u64(27))) * u64(0x94D049BB133111EB)
        return x ^ (x >> u64(31))

    def hash_of(word: str) -> Any:
        if word not in hashes:
            h = 0xCBF29CE484222325
            for character in word:
                h = (h ^ ord(character)) * 0x9E3779B97F4A7C15 % 2**64
            hashes[word] = mix(np.array([h], u64))[0]
        return hashes[word]

    def shingles(text: str) -> Any:
        words = words_of(text)
        hashed = np.array([hash_of(word) for word in words], u64)
        n = min(step.config.n_grams, len(words))  # a shorter text is one n-gram
        grams = np.zeros(len(words) - n + 1 if n else 0, u64)
        for i in range(n):
            grams = mix(grams + hashed[i : i + len(grams)])
        return (grams >> u64(32)).astype(np.uint32).reshape(-1, 1)

    def signature(found: Any) -> list[list[int]]:
        return [part.tolist() for part in np.split((found * a + b).min(axis=0), step.config.num_buckets)]

    step.get_shingles, step.get_signature = shingles, signature
    return step


def clusters(folder: Path, seed: int, alike: bool) -> dict[str, Any]:
    """For each document the number of its cluster, -1 for one that is like no other. `seed`: of datatrove's hash functions;
    `alike` takes serinus's, and its words, instead."""
    from datatrove.data import Document
    from datatrove.pipeline.dedup import minhash
    from datatrove.utils.text import TextNormConfig

    norm = TextNormConfig(norm_unicode_diacritics=False, norm_numbers=False)
    config = minhash.MinhashConfig(norm_config=norm, seed=seed)
    documents = [Document(text=text, id=str(i)) for i, text in enumerate(texts_of(folder))]
    found = [-1] * len(documents)
    with tempfile.TemporaryDirectory() as made:
        signed, pairs, out = (str(Path(made) / name) for name in ("signed", "pairs", "out"))
        step = minhash.MinhashDedupSignature(signed, config)
        (like_serinus(step) if alike else step).run(iter(documents))
        for bucket in range(config.num_buckets):
            minhash.MinhashDedupBuckets(signed, pairs, config=config).run(None, bucket, config.num_buckets)
        minhash.MinhashDedupCluster(pairs, out, config, save_cluster_id=True).run(None, 0, 1)
        for file in Path(out).glob("*.clusters"):
            for number, cluster in struct.iter_unpack("<II", file.read_bytes()):
                found[number] = cluster
    return {"clusters": found}


def personal(folder: Path) -> dict[str, Any]:
    from datatrove.pipeline.formatters import PIIFormatter

    formatter = PIIFormatter()
    kinds = {"email": formatter.emails_replacer, "ip_address": formatter.ip_replacer}
    return {
        "spans": [
            [
                (kind, *match.span())
                for kind, replacer in kinds.items()
                for match in replacer.regex.finditer(text)
                if replacer.validator is None or replacer.validator(match[0])
            ]
            for text in texts_of(folder)
        ]
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("clean", "judge", "clusters", "personal"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--words", choices=("shipped", "white-space"), default="white-space")
    parser.add_argument("--rules", choices=("gopher", "c4", "fineweb"), default="gopher")
    parser.add_argument("--seed", type=int, default=1, help="of datatrove's hash functions")
    parser.add_argument("--alike", action="store_true", help="take serinus's words and hash functions")
    args = parser.parse_args()
    if args.words == "white-space" or args.what != "clean":
        split_at_white_space()
    todo: dict[str, Any] = {
        "clean": lambda: clean(args.folder),
        "judge": lambda: judge(args.folder, args.rules),
        "clusters": lambda: clusters(args.folder, args.seed, args.alike),
        "personal": lambda: personal(args.folder),
    }
    print(json.dumps(todo[args.what]()))


if __name__ == "__main__":
    main()
