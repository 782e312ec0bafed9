"""Data-Juicer's own executor over JSONL, in one process; run where py-data-juicer 1.6 is installed.

    PYTHON peer_data_juicer.py FOLDER

What of the recipe of bench_clean.py it has: ftfy, white space, links, e-mail and IP addresses, words, special characters,
repetition of words and characters (one length each), exact duplicates, MinHash, Parquet. Left out: Gopher's other rules and
n-grams, C4's, other kinds of personal data; its language filter (it downloads its model).
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

PROCESS = [
    {"fix_unicode_mapper": {}},
    {"whitespace_normalization_mapper": {}},
    {"clean_links_mapper": {}},
    {"clean_email_mapper": {"repl": "[EMAIL]"}},
    {"clean_ip_mapper": {"repl": "[IP_ADDRESS]"}},
    {"words_num_filter": {"min_num": 50, "max_num": 100_000}},
    {"special_characters_filter": {"max_ratio": 0.25}},
    {"maximum_line_length_filter": {"min_len": 10}},
    {"character_repetition_filter": {"rep_len": 10, "max_ratio": 0.2}},
    {"word_repetition_filter": {"rep_len": 5, "max_ratio": 0.15}},
    {"document_deduplicator": {}},
    {
        "document_minhash_deduplicator": {
            "tokenization": "space",
            "window_size": 5,
            "num_permutations": 112,
            "num_bands": 14,
            "num_rows_per_band": 8,
        }
    },
]


def main(folder: Path) -> None:
    from data_juicer.config import init_configs
    from data_juicer.core import DefaultExecutor

    with tempfile.TemporaryDirectory() as made:
        settings = {"project_name": "bench", "dataset_path": str(folder), "export_path": f"{made}/out/kept.parquet",
                    "export_type": "parquet", "np": 1, "use_cache": False, "open_tracer": False, "process": PROCESS}  # fmt: skip
        config = Path(made) / "config.yaml"
        config.write_text(json.dumps(settings))  # JSON is YAML
        kept = DefaultExecutor(init_configs(["--config", str(config)])).run()
    documents = sum(sum(1 for _ in file.open(encoding="utf-8")) for file in sorted(folder.glob("*.jsonl")))
    print(json.dumps({"documents": documents, "kept": len(kept)}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
