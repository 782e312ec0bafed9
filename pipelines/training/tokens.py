"""The training documents as token files: one flat file a shard, made once for each (dataset, tokenizer).

They are kept under `runs/tokens/<key>/`; `index.json` is written last. Ray Data tokenises the shards in parallel on the
data pool. Its fixed cost of about ten CPU seconds is not worth it for a small dataset, which is tokenised in one task.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from cluster import pools
from cluster.artifacts import Dataset, digest
from cluster.config import StrictModel
from cluster.disk_errors import writing
from cluster.errors import InputError
from cluster.node_cache import local_copy
from cluster.storage import LocalStorage, Storage, filesystem_to_write, open_storage, staging_in
from cluster.waiting import watched
from pipelines.config import TrainConfig
from pipelines.training.batches import Packed
from pipelines.training.failure import meant_for_people
from pipelines.training.packing import Stream
from pipelines.vocabulary import check_known_in

SMALL_CHARACTERS = 20_000_000
"""Below this one core tokenises everything in less time than a Ray Data job takes to start (about 2 MB/s)."""

DOCUMENTS_AT_ONCE = 1_000

FORMAT = 2
"""Of the files and the index: another one gives them another folder."""


class Shard(StrictModel):
    path: str
    """Relative to the index's folder."""
    num_tokens: int
    num_documents: int


class TokenIndex(StrictModel):
    dtype: str
    """Little-endian numpy type: <u2 where the vocabulary allows, else <u4."""
    end: int
    """The token that closes each document."""
    shards: tuple[Shard, ...]
    folder: str = Field(exclude=True, default="")
    """In storage."""

    @property
    def num_tokens(self) -> int:
        return sum(shard.num_tokens for shard in self.shards)


def make_tokens(
    dataset: Dataset,
    model_folder: str,
    tokenizer: str,
    storage: Storage,
    *,
    small: int = SMALL_CHARACTERS,
    part: Literal["train", "heldout"] = "train",
) -> TokenIndex:
    """Tokenise `train/*.parquet` of the dataset, or the held-out documents, or find that it has been done.

    Args:
        model_folder: storage folder with the tokenizer.
        tokenizer: digest of the tokenizer's files; with the dataset's it names the result.
        small: datasets of fewer characters are tokenised in one task, without Ray Data.

    Raises:
        InputError: there is nothing to train on, a shard is damaged, or the tokenizer has no end-of-text token or makes tokens
            that the model does not know.
    """
    named = [FORMAT, dataset.digest, tokenizer] + ([part] if part != "train" else [])
    folder = f"runs/tokens/{digest(named)[:16]}"
    if blob := storage.read(f"{folder}/index.json"):
        return TokenIndex.model_validate_json(blob.content).replace(folder=folder)
    paths = [key for key in storage.list(f"{dataset.location}/{part}") if key.endswith(".parquet")]
    if not paths:
        raise InputError(
            f"{storage.uri}/{dataset.location}/{part}", "no documents", "give sources that keep some documents"
        )
    hashes = {f"{dataset.location}/{entry.path}": entry.sha256 for entry in dataset.files}
    jobs = [
        _job(storage, model_folder, path, f"{folder}/{n:06d}.bin", hashes.get(path, "")) for n, path in enumerate(paths)
    ]
    rows = _tokenized(jobs, in_one_task=dataset.num_characters_kept < small)
    shards = [Shard(path=row["path"], num_tokens=row["num_tokens"], num_documents=row["num_documents"]) for row in rows]
    index = TokenIndex(
        dtype=rows[0]["dtype"],
        end=rows[0]["end"],
        shards=tuple(sorted(shards, key=lambda shard: shard.path)),
        folder=folder,
    )
    storage.write(f"{folder}/index.json", index.model_dump_json().encode())
    return index


def open_stream(storage: Storage, index: TokenIndex) -> Stream:
    """The tokens, memory-mapped; from S3 every node keeps one local copy.

    Raises:
        InputError: a file is missing or cut short.
    """
    import numpy as np

    folder, width = local_copy(storage, index.folder), np.dtype(index.dtype).itemsize
    for shard in index.shards:
        path, num_bytes = folder / shard.path, width * shard.num_tokens
        if not path.exists() or path.stat().st_size != num_bytes:
            found = f"is missing or cut short ({num_bytes} bytes were written)"
            raise InputError(str(path), found, "remove its folder and run again; the documents are tokenised anew")
    return Stream([np.memmap(folder / s.path, dtype=index.dtype, mode="r") for s in index.shards if s.num_tokens])


def packed(config: TrainConfig, storage: Storage, tokens: dict[str, Any]) -> Packed:
    """The sequences of those token files (a TokenIndex as a dictionary)."""
    index = TokenIndex(**tokens)
    end = None if config.attend_across_documents else index.end
    return Packed(open_stream(storage, index), config.sequence_length, end)


def _job(storage: Storage, model_folder: str, source: str, target: str, sha256: str) -> dict[str, str]:
    return {"storage": storage.location, "model": model_folder, "source": source, "target": target, "sha256": sha256}


def _tokenized(jobs: list[dict[str, str]], in_one_task: bool) -> list[dict[str, Any]]:
    """Raises what is meant for people as it was raised, not with Ray's traceback around it."""
    import ray

    try:
        with watched("train", "data", num_tasks=1 if in_one_task else len(jobs)):
            return _in_one_task(jobs) if in_one_task else _with_ray_data(jobs)
    except ray.exceptions.RayTaskError as error:
        raise (meant_for_people(str(error)) or error) from None


def _in_one_task(jobs: list[dict[str, str]]) -> list[dict[str, Any]]:
    import ray

    task = ray.remote(lambda: [tokenize_shard(job) for job in jobs])
    done: list[dict[str, Any]] = ray.get(task.options(num_cpus=1, label_selector=pools.on_pool("data")).remote())
    return done


def _with_ray_data(jobs: list[dict[str, str]]) -> list[dict[str, Any]]:
    import ray

    shards = ray.data.from_items(jobs, override_num_blocks=len(jobs))
    return shards.map(tokenize_shard, num_cpus=1, label_selector=pools.on_pool("data")).take_all()


def tokenize_shard(job: dict[str, str]) -> dict[str, Any]:
    """Write one shard's documents as tokens, each followed by the end-of-text token. Runs in a Ray worker."""
    storage = open_storage(job["storage"])
    _check_hash(storage, job["source"], job["sha256"])
    encode, dtype, end = _encoder(local_copy(storage, job["model"]))
    num_tokens = num_documents = 0
    with _written_whole(storage, job["target"]) as file:
        for texts in texts_of(storage, job["source"]):
            tokens = encode(texts)
            file.write(tokens.tobytes())
            num_tokens, num_documents = num_tokens + len(tokens), num_documents + len(texts)
    name = job["target"].rsplit("/", 1)[1]
    return {"path": name, "num_tokens": num_tokens, "num_documents": num_documents, "dtype": dtype, "end": end}


@contextmanager
def _written_whole(storage: Storage, key: str) -> Iterator[Any]:
    """A file that is there once the block has ended, as an object of a bucket is: another run may make the same tokens at this
    moment, or have made them and read them."""
    filesystem, path = filesystem_to_write(storage, key)
    folder = path.rsplit("/", 1)[0]
    # What becomes an object grows in the temporary folder first.
    place = folder if isinstance(storage, LocalStorage) else tempfile.gettempdir()
    with writing(Path(place)), ExitStack() as stack:
        filesystem.create_dir(folder, recursive=True)
        part = f"{stack.enter_context(staging_in(storage.root))}/tokens" if isinstance(storage, LocalStorage) else path
        with filesystem.open_output_stream(part) as file:
            yield file
        if part != path:
            filesystem.move(part, path)


def _check_hash(storage: Storage, key: str, expected: str) -> None:
    """Raises InputError where that file is not the one with the hash; empty: it is not known."""
    if not expected:
        return
    filesystem, path = storage.filesystem(key)
    with filesystem.open_input_stream(path) as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != expected:
            raise _damaged(storage, key, "is not what was written (its SHA-256 differs)")


def _damaged(storage: Storage, key: str, found: str) -> InputError:
    remedy = "remove the dataset's folder (artifacts/dataset/...) and run again"
    return InputError(f"{storage.uri}/{key}", found, remedy)


def texts_of(storage: Storage, key: str) -> Iterator[list[str]]:
    """Of a Parquet file's documents, some at a time.

    Raises:
        InputError: it is damaged.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    filesystem, path = storage.filesystem(key)
    try:
        with filesystem.open_input_file(path) as file:
            for batch in pq.ParquetFile(file).iter_batches(batch_size=DOCUMENTS_AT_ONCE, columns=["text"]):
                yield batch.column("text").to_pylist()
    except pa.ArrowInvalid as error:
        raise _damaged(storage, key, f"cannot be read as Parquet ({str(error).splitlines()[0]})") from None


def _encoder(folder: Path) -> tuple[Any, str, int]:
    """The function from texts to one flat array, the array's type, and the token that closes a text."""
    import numpy as np
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    end = end_of_text(tokenizer, folder)
    dtype = "<u2" if len(tokenizer) <= 2**16 else "<u4"

    def encode(texts: list[str]) -> Any:
        lists = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
        tokens = np.fromiter((token for tokens in lists for token in (*tokens, end)), dtype=dtype)
        check_known_in(folder, int(tokens.max(initial=0)))
        return tokens

    return encode, dtype, end


def end_of_text(tokenizer: Any, folder: Path) -> int:
    """The token that closes a document.

    A chat model's own end token closes a turn, not a text: where the vocabulary has <|endoftext|>, that one is taken.

    Raises:
        InputError: the tokenizer has neither.
    """
    known = tokenizer.get_vocab()
    if "<|endoftext|>" in known:
        return int(known["<|endoftext|>"])
    if tokenizer.eos_token_id is None:
        raise InputError(
            str(folder), "the tokenizer has no end-of-text token", "set eos_token in tokenizer_config.json"
        )
    return int(tokenizer.eos_token_id)


def tokenizer_digest(files: dict[str, str]) -> str:
    """Of the tokenizer's files among `files` (path in the model folder -> sha256)."""
    names = ("tokenizer", "vocab", "merges", "special_tokens", "added_tokens")
    return digest(json.dumps({path: sha for path, sha in sorted(files.items()) if Path(path).name.startswith(names)}))
