"""What measuring contamination costs, and whether planted items come out and no others do.

    python benchmarks/bench_contamination.py [--data ../shared/data] [--documents 30000] [--planted 200]

Documents are those of corpus.py. Items: GSM8K's problems with their solutions, MedQA's questions. `--planted` of them are put
into a document each, in capitals and with other punctuation: all of them must be contaminated, and what else is, is listed.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
from corpus import documents

from pipelines.data.contamination import Asked, of_texts, overlaps, sought, together

BATCH = 2000


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--documents", type=int, default=30_000)
    parser.add_argument("--planted", type=int, default=200)
    asked = parser.parse_args()
    items = list(questions(asked.data))
    texts = list(documents(asked.data, asked.documents))
    planted = plant(items, texts, asked.planted)
    report(items, texts, planted)


def report(items: list[Asked], texts: list[str], planted: set[int]) -> None:
    began = time.process_time()
    wanted, prompts, answers = sought(items)
    tables = [one.table for one in wanted]
    size = sum(part.nbytes for one in wanted for part in (one.table.keys, one.table.values, one.slots))
    print(f"{len(items)} items, {size / 1e6:.0f} MB of tables, made in {time.process_time() - began:.2f} CPU seconds")
    batches = [pa.array(texts[at : at + BATCH], pa.large_string()) for at in range(0, len(texts), BATCH)]
    of_texts(batches[0][:10], pa.array(["x"] * 10), tables)  # compiled
    num_bytes, began = sum(len(text.encode()) for text in texts), time.process_time()
    ids = (pa.array([str(BATCH * number + at) for at in range(len(batch))]) for number, batch in enumerate(batches))
    found = together(tables, (of_texts(*one, tables) for one in zip(batches, ids, strict=True)))
    took = time.process_time() - began
    told = list(overlaps(wanted, found, prompts, answers))
    print(f"{num_bytes / 1e6:.1f} MB in {took:.2f} CPU seconds: {num_bytes / 1e6 / took:.0f} MB/s on one core")
    for name, by in (("most_8_grams", [one.has_most for one in told]), ("any_13_gram", [one.has_any for one in told])):
        hit = {at for at, one in enumerate(by) if one}
        short = sum(one is None for one in by)
        print(f"{name}: {len(hit & planted)} of {len(planted)} planted, {len(hit - planted)} others, {short} too short")
        for at in sorted(hit - planted)[:10]:
            print(f"  {items[at].task} {items[at].id}: document {told[at].document}: {items[at].prompt[:90]!r}")


def plant(items: list[Asked], texts: list[str], num: int) -> set[int]:
    """Indices of the items that are put into texts."""
    rng = random.Random(0)
    chosen = rng.sample([at for at, item in enumerate(items) if len(item.prompt.split()) >= 20], num)
    for at, where in zip(chosen, rng.sample(range(len(texts)), num), strict=True):
        spelt = items[at].prompt.upper().replace(" ", "  ").replace(".", " !")
        texts[where] += f"\n\n{spelt}\n\n{items[at].answer}"
    return set(chosen)


def questions(data: Path) -> Iterator[Asked]:
    for row in lines(data / "gsm8k" / "test.jsonl"):
        yield Asked("gsm8k", str(row.get("id", row["question"][:20])), row["question"], row["answer"])
    for number, row in enumerate(lines(data / "medqa" / "medqa_us_4opt_test.jsonl")):
        yield Asked("medqa", str(number), row["question"], row.get("answer", ""))


def lines(file: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]


if __name__ == "__main__":
    main()
