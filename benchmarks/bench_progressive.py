"""Does a law of two small sizes foretell the third? `python benchmarks/bench_progressive.py [--text FOLDER] [--folder KEPT]`

A byte-level tokenizer of 512 tokens and Llamas of 0.04 M, 0.18 M and 0.5 M parameters, trained from random weights by `serinus
run --until train` on two CPU ranks. The first two sizes are trained on three sizes of data each, the third on the largest. The text
is novels of Project Gutenberg beside the repository (../shared/data/corpus_gutenberg_md) or the folder given, cut into
documents of about 6,000 characters, of which 15 % are held out.

Compared: the loss of the third size on held-out text, and what was predicted of it before it started. Beside it two plain ways to
predict: as good as the size before, and the straight line through the logarithms of the two smaller sizes' parameters and losses.

With --folder the same command goes on where it was ended.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
GUTENBERG = ROOT.parent / "shared" / "data" / "corpus_gutenberg_md"
DOCUMENT_CHARACTERS = 6_000
VOCABULARY = 512
TOKENS = [250_000, 500_000, 1_000_000]
SIZES = [
    {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 88},
    {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 176},
    {"hidden_size": 96, "num_hidden_layers": 4, "num_attention_heads": 6, "intermediate_size": 256},
]


def documents(folder: Path) -> Iterator[str]:
    """Pieces of the folder's texts, cut between paragraphs."""
    for path in sorted(p for p in folder.rglob("*") if p.suffix in (".md", ".txt") and p.name != "SOURCE.txt"):
        piece, size = list[str](), 0
        for paragraph in path.read_text(encoding="utf-8", errors="replace").split("\n\n"):
            piece, size = [*piece, paragraph], size + len(paragraph)
            if size >= DOCUMENT_CHARACTERS:
                yield "\n\n".join(piece)
                piece, size = [], 0
        if piece:
            yield "\n\n".join(piece)


def save_model(texts: list[str], folder: Path) -> None:
    """A tokenizer of the texts and a random Llama of the largest size: what a recipe takes its architecture from."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>").save_pretrained(folder)
    shape = {"vocab_size": VOCABULARY, "max_position_embeddings": 512, "tie_word_embeddings": True, "eos_token_id": 0}
    LlamaForCausalLM(LlamaConfig(**shape, **SIZES[-1])).to(torch.bfloat16).save_pretrained(folder)


def write_recipe(folder: Path) -> Path:
    stages = [
        {"model": SIZES[0], "num_tokens": TOKENS},
        {"model": SIZES[1], "num_tokens": TOKENS},
        {"model": SIZES[2], "num_tokens": TOKENS[-1]},
    ]
    recipe = {
        "name": "novels",
        "storage": "store",
        "data": {"sources": [{"path": "documents.jsonl"}], "heldout_fraction": 0.15},
        "model": {"source": "base"},
        "train": {
            "gpus_per_worker": 0, "num_workers": 2, "zero": {"stage": 1}, "precision": "float32", "warmup_steps": 50,
            "learning_rate": 3e-3, "sequence_length": 128, "sequences_per_worker": 4, "attend_across_documents": True,
            "checkpoint_every_steps": 500,
        },
        "progressive": {"stages": stages},
        "evaluate": {"tasks": [{"name": "heldout_perplexity", "kind": "perplexity"}]},
    }  # fmt: skip
    path = folder / "novels.yaml"
    path.write_text(yaml.safe_dump(recipe, sort_keys=False))
    return path


def report(store: Path) -> None:
    """What was predicted beside what came, and beside the two plain ways."""
    from pipelines.progressive import table

    sys.stdout.flush()
    runs = sorted(_runs(store), key=lambda run: (run.stage, run.num_tokens))
    for line in table(runs):
        print(line)
    small, middle, large = (next(run for run in reversed(runs) if run.stage == stage) for stage in (1, 2, 3))
    slope = math.log(middle.loss / small.loss) / math.log(middle.num_parameters / small.num_parameters)
    line = middle.loss * (large.num_parameters / middle.num_parameters) ** slope
    for name, loss in (("as the size before", middle.loss), ("line in logarithms", line)):
        print(f"{name}: {loss:.4f}, off by {100 * (loss / large.loss - 1):+.2f} %")
    assert large.prediction is not None, "the third stage is foretold"
    off = 100 * (large.prediction.loss / large.loss - 1)
    print(f"the law: {large.prediction.text}, off by {off:+.2f} %; inside its interval: {large.is_as_predicted}")


def _runs(store: Path) -> Iterator[object]:
    from cluster.artifacts import StageRun

    for path in store.glob("artifacts/stage_run/*/manifest.json"):
        yield StageRun.model_validate(json.loads(path.read_text()))


def bench(text: Path, folder: Path) -> None:
    begun, texts = time.monotonic(), list(documents(text))
    if not (folder / "novels.yaml").exists():
        lines = (json.dumps({"id": f"{n:05d}", "text": piece}) for n, piece in enumerate(texts))
        (folder / "documents.jsonl").write_text("\n".join(lines))
        save_model(texts, folder / "base")
        write_recipe(folder)
    print(f"{len(texts)} documents, {sum(map(len, texts)) / 1e6:.1f} M characters of {text}", flush=True)
    command = [sys.executable, "-m", "serinus", "run", str(folder / "novels.yaml"), "--until", "train"]
    home = {"SERINUS_HOME": str(folder / "home")}  # a cluster of its own
    subprocess.run(command, cwd=ROOT, env={**os.environ, **home}, check=True)
    report(folder / "store")
    print(f"took {time.monotonic() - begun:.0f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--text", type=Path, default=GUTENBERG, help="folder of .md or .txt files")
    parser.add_argument("--folder", type=Path, help="keep everything there")
    given = parser.parse_args()
    if not given.text.is_dir():
        sys.exit(f"{given.text}: no such folder; give one with --text")
    sys.path.insert(0, str(ROOT))
    if given.folder:
        given.folder.mkdir(parents=True, exist_ok=True)
        bench(given.text.resolve(), given.folder.resolve())
        return
    with tempfile.TemporaryDirectory() as temporary:
        bench(given.text.resolve(), Path(temporary))


if __name__ == "__main__":
    main()
