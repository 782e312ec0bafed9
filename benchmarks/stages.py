"""What each stage of cleaning costs by the recipe of bench_clean.py: CPU seconds and MB/s of one core.

    python benchmarks/stages.py FOLDER_OF_JSONL [--repeats]

Stages are the functions that the workers call, on batches as the workers make them. What it takes to hand arrays from one to the
next is in the last row.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

Seconds = dict[str, float]

PLACES = (
    ("read JSONL", "pipelines.data.batch", "read_documents"),
    ("repair of Unicode", "pipelines.data.batch", "repair_column"),
    ("personal data: found, masked", "pipelines.data.batch", "protect_column"),
    ("personal data: shown by repair", "pipelines.data.batch", "showing_more"),
    ("words", "pipelines.data.kernels.tokens", "words"),
    ("lines, paragraphs", "pipelines.data.kernels.tokens", "lines"),
    ("repeated lines, paragraphs", "pipelines.data.kernels.repetition", "repeats"),
    ("repeated n-grams", "pipelines.data.kernels.repetition", "n_grams"),
    ("language", "pipelines.data.language", "identify"),
    ("stop words", "pipelines.data.filters", "stop_word_drops"),
    ("exact fingerprints", "pipelines.data.dedup", "fingerprints"),
    ("MinHash bands", "pipelines.data.dedup", "band_keys"),
    ("hashes of lines and paragraphs", "pipelines.data.dedup", "span_hashes"),
)
"""Stage, and the function that does it, by the module in which its callers find it."""


@contextmanager
def measured(seconds: Seconds) -> Iterator[None]:
    """Every call of the stages' functions is timed meanwhile."""
    from importlib import import_module

    before = []
    for stage, module, name in PLACES:
        place = import_module(module)
        before.append((place, name, getattr(place, name)))
        setattr(place, name, timed(getattr(place, name), stage, seconds))
    try:
        yield
    finally:
        for place, name, function in before:
            setattr(place, name, function)


def timed(function: Callable[..., Any], stage: str, seconds: Seconds) -> Callable[..., Any]:
    def called(*args: Any, **kwargs: Any) -> Any:
        began = time.process_time()
        result = function(*args, **kwargs)
        if stage == "read JSONL":
            result = iter(list(result))  # a generator: read here, not between other stages
        seconds[stage] += time.process_time() - began
        return result

    return called


def stages(folder: Path, *, repeats: bool) -> tuple[Seconds, float]:
    """CPU seconds of each stage, and megabytes of text. `repeats`: repeated lines and paragraphs are asked for."""
    from benchmarks.clean_serinus import recipe
    from pipelines.data import batch
    from pipelines.data.inventory import inventory
    from pipelines.data.rules import compile_rules

    config = recipe(folder)
    if repeats:
        config = config.replace(dedup=config.dedup.replace(lines={}, paragraphs={}))
    files = tuple(inventory(config.sources))
    seconds: Seconds = defaultdict(float)
    with measured(seconds):
        rules = [
            rule
            if rule.name == "repair_unicode"
            else batch.Rule(rule.name, timed(rule.apply, f"rule {rule.name}", seconds))
            for rule in compile_rules(config.rules)
        ]
        cleaner = batch.BatchCleaner(files, config)
        began, size = time.process_time(), 0
        for documents in cleaner._batches([(index, None) for index in range(len(files))]):
            size += sum(len(placed.document.text.encode()) for placed in documents)
            batch.clean_batch(documents, rules, config)
        total = time.process_time() - began
    seconds["everything else"] = total - sum(seconds.values())
    seconds["all"] = total
    return seconds, size / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--repeats", action="store_true", help="with repeated lines and paragraphs")
    args = parser.parse_args()
    stages(args.folder, repeats=args.repeats)  # compiles, loads models
    seconds, megabytes = stages(args.folder, repeats=args.repeats)
    print(f"{megabytes:.1f} MB of text")
    for stage, cpu_s in seconds.items():
        print(f"{stage:<34} {cpu_s:7.3f} CPU-s {megabytes / cpu_s:8.1f} MB/s")


if __name__ == "__main__":
    main()
