"""One of two publishers: publishes other content under each revision id that it reads, points `candidate` at it, and says whether
it won."""

from __future__ import annotations

import sys

from cluster import registry
from cluster.artifacts import Revision
from cluster.errors import InputError
from cluster.storage import open_storage

NAME = "raced"


def main(uri: str, who: str) -> None:
    storage = open_storage(uri)
    print("ready", flush=True)
    for key in map(str.strip, sys.stdin):
        revision = Revision(key=key, name=NAME, revision=f"{NAME}-{key}", weights=f"artifacts/quantized/{who}/model")
        try:
            registry.publish_revision(storage, revision)
            registry.move_alias(storage, NAME, "candidate", revision.revision, who=who)
            print("won", flush=True)
        except InputError as error:
            print("lost" if "published with other content" in error.found else error, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
