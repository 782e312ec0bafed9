"""What Serve starts for a canary that can be told to go wrong."""

from __future__ import annotations

from typing import Any

from services.serving.model_app import ModelReplica


class FaultyReplica(ModelReplica):
    """Its server spoils its answers on command."""

    def server_class(self) -> Any:
        from tests.e2e.faulty_server import FaultyServer

        return FaultyServer
