"""For requests that carry a key: it must not go along to wherever an answer points."""

from __future__ import annotations

import urllib.request
from typing import Any


class Straight(urllib.request.HTTPRedirectHandler):
    """Follows no redirect: it is an answer like another, of status 3xx."""

    def redirect_request(self, *_: Any) -> None:
        return None
