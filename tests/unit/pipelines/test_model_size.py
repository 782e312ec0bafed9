"""How many parameters a model on disk has, also when its files are damaged."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.model_size import gguf_fields, num_parameters


def test_a_folders_safetensors_are_counted_from_their_headers(tmp_path: Path) -> None:
    import numpy
    from safetensors.numpy import save_file

    save_file({"a": numpy.zeros((3, 5)), "b": numpy.zeros(7)}, tmp_path / "one.safetensors", metadata={"format": "pt"})
    save_file({"c": numpy.zeros(())}, tmp_path / "two.safetensors")
    assert num_parameters(str(tmp_path)) == 23


def test_a_gguf_is_counted_from_its_header(tmp_path: Path) -> None:
    import gguf
    import numpy

    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    writer.add_string("general.name", "tiny")
    writer.add_array("tokenizer.ggml.tokens", ["a", "bc", ""])
    writer.add_array("some.scores", [1.5, 2.5])
    writer.add_bool("a.flag", True)
    writer.add_tensor("w", numpy.zeros((4, 6), dtype=numpy.float32))
    writer.add_tensor("q", numpy.zeros((2, 32), dtype=numpy.float32), raw_dtype=None)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert num_parameters(str(tmp_path / "m.gguf")) == 24 + 64
    found = gguf_fields(tmp_path / "m.gguf")
    assert found["general.name"] == "tiny"
    assert found["tokenizer.ggml.tokens"] == 3, "of a list its length"
    assert found["a.flag"] is None


def test_a_header_cut_anywhere_gives_no_size_and_no_error(tmp_path: Path) -> None:
    import gguf
    import numpy

    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    writer.add_array("tokenizer.ggml.tokens", ["a", "bc"])
    writer.add_tensor("w", numpy.zeros((4, 6), dtype=numpy.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    whole = (tmp_path / "m.gguf").read_bytes()
    sizes = []
    for length in range(len(whole) + 1):
        (tmp_path / "cut.gguf").write_bytes(whole[:length])
        sizes.append(num_parameters(str(tmp_path / "cut.gguf")))
    assert set(sizes) == {None, 24}
    assert sizes.index(24) > len(whole) - 64, "the type and offset at its end and padding tell nothing of the size"


@pytest.mark.parametrize("content", [b"", b"GGUF", b"\xff" * 64, b"\x05\0\0\0\0\0\0\0abcde"])
def test_a_damaged_model_has_no_known_size(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.safetensors").write_bytes(content)
    (tmp_path / "x.gguf").write_bytes(content)
    assert num_parameters(str(tmp_path)) is None
    assert num_parameters(str(tmp_path / "x.gguf")) is None


@pytest.mark.parametrize("source", ["hf://organisation/name", "/no/such/folder", "/no/such/file.gguf"])
def test_what_is_not_here_has_no_known_size(source: str) -> None:
    assert num_parameters(source) is None
