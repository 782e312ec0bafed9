"""What each process would otherwise do for itself on its first start, done once: byte code of the large packages, and the kernels.

Run behind the setup, while something else is done. Nothing depends on it.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


def kernels() -> None:
    """Cleans one document by all rules."""
    from pipelines.config import (
        C4Config,
        DataConfig,
        FilterConfig,
        FineWebConfig,
        ProtectConfig,
        RuleConfig,
        SourceConfig,
    )
    from pipelines.data.batch import Placed, clean_batch
    from pipelines.data.document import Document
    from pipelines.data.rules import BUILT_IN, compile_rules

    rules = tuple(RuleConfig(name=name) for name in BUILT_IN)
    filters = FilterConfig(min_words=1, c4=C4Config(min_sentences=1), fineweb=FineWebConfig())
    config = DataConfig(
        sources=(SourceConfig(path="."),), rules=rules, filters=filters, protect=ProtectConfig(email="mask")
    )
    text = "The weather in Zürich is better than that of last week, they say to me&you at a@b.org.\n" * 3
    clean_batch([Placed(0, 0, Document("a", text, "a", 1))], compile_rules(rules), config)


def byte_code() -> None:
    """In the order in which a lifecycle comes to them."""
    import deepspeed  # noqa: F401
    import transformers.models.llama.modeling_llama  # noqa: F401
    import vllm.entrypoints.llm
    import vllm.v1.engine.core
    import vllm.v1.worker.cpu_worker  # noqa: F401

    import pipelines.training.loop  # noqa: F401
    import services.serving.gateway_app
    import services.serving.model_server  # noqa: F401


def main() -> None:
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    for task in (kernels, byte_code):
        with suppress(Exception):  # whoever needs it will say what is missing
            task()


if __name__ == "__main__":
    main()
