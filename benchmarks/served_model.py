"""A model behind serinus' gateway, until this is ended: python benchmarks/served_model.py STORAGE MODEL [--dtype bfloat16]

Prints the address of the gateway once it answers. A private Ray, nothing but this model on it.
"""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

NAME = "model"


def serve(storage_folder: Path, model: Path, dtype: str) -> str:
    """Deploys it; the address to ask. In a joined cluster."""
    from cluster import registry
    from cluster.artifacts import Revision
    from cluster.ports import free_port
    from cluster.storage import LocalStorage
    from pipelines.base_model import import_model
    from pipelines.config import ModelConfig
    from services.config import ServingConfig
    from services.rollout import controller
    from services.serving import app

    storage = LocalStorage(storage_folder)
    base = import_model(ModelConfig(source=str(model)), storage)
    revision = Revision(key="1" * 16, name=NAME, revision=f"{NAME}-11111111", weights=base.folder)
    registry.publish_revision(storage, revision)
    controller.ensure_traffic(storage, NAME, revision.revision)
    engine = {"max_model_len": 1024, "max_num_seqs": 32, "kv_cache_gib": 1.0, "dtype": dtype}
    serving = ServingConfig.model_validate({"port": free_port(8100), "engine": engine, "ready_timeout_s": 300})
    app.deploy(NAME, revision, serving, storage)
    app.wait_gateway(NAME, serving, storage.uri)
    return app.gateway_url(serving)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("storage", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("--dtype", default="bfloat16")
    given = parser.parse_args()
    from cluster.session import joined

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with joined():
        print(serve(given.storage, given.model, given.dtype), flush=True)
        signal.pause()


if __name__ == "__main__":
    main()
