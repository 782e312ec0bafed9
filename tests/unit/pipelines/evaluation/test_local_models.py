"""What is read out of a model's folder: rows of its input embeddings, and a classifier's probabilities. Tiny real files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from cluster.errors import InputError
from pipelines.evaluation import embeddings
from pipelines.evaluation.safety.scorers import score_texts
from pipelines.task_config import ClassifierScorer


def test_vectors_are_the_mean_of_a_word_s_tokens(tmp_path: Path) -> None:
    matrix = torch.arange(12, dtype=torch.bfloat16).reshape(4, 3)
    save_file({"lm_head.weight": torch.zeros(4, 3)}, tmp_path / "model-1.safetensors")
    save_file({"model.embed_tokens.weight": matrix}, tmp_path / "model-2.safetensors")
    found = embeddings.vectors(tmp_path, {"one": [2], "two": [0, 3], "none": []})
    assert found == {"one": [6, 7, 8], "two": [4.5, 5.5, 6.5]}


def test_a_folder_without_embeddings(tmp_path: Path) -> None:
    save_file({"model.embed_tokens.weight_packed": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match="no input embeddings"):
        embeddings.vectors(tmp_path, {"a": [0]})


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("classifier")
    words = Tokenizer(WordLevel({"[PAD]": 0, "[UNK]": 1, "good": 2, "bad": 3}, unk_token="[UNK]"))
    words.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {
        "vocab_size": 4,
        "hidden_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "intermediate_size": 8,
    }
    config = BertConfig(**sizes, id2label={0: "fine", 1: "toxic"}, label2id={"fine": 0, "toxic": 1})
    BertForSequenceClassification(config).save_pretrained(folder)
    return folder


def test_a_classifier_s_label(classifier: Path) -> None:
    texts = ["good", "bad bad", "good bad"] * 20
    toxic = score_texts(ClassifierScorer(kind="classifier", path=str(classifier)), texts)
    fine = score_texts(ClassifierScorer(kind="classifier", path=str(classifier), label="fine"), texts)
    assert [a + b for a, b in zip(toxic, fine, strict=True)] == pytest.approx([1] * 60)
    assert toxic[:3] == toxic[3:6]
    assert len(set(toxic)) == 3
    with pytest.raises(InputError, match=r"has no label 'rude'.*\n.*fine, toxic"):
        score_texts(ClassifierScorer(kind="classifier", path=str(classifier), label="rude"), texts)


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InputError, match="cannot be loaded as a classifier"):
        score_texts(ClassifierScorer(kind="classifier", path=str(tmp_path)), ["a"])
