"""The gateway's metrics for Prometheus, exported by Ray with the application, deployment and replica as further labels."""

from __future__ import annotations

from services.contract import RequestRecord
from services.serving.openai_errors import ApiError


class Measures:
    """Counters and histograms per revision; made in a Serve replica, whose labels they take on."""

    def __init__(self, name: str) -> None:
        from ray.serve.metrics import Counter, Histogram

        from cluster import telemetry as names

        labels = names.REVISION_LABELS
        self._name = name
        self._requests = Counter(
            names.REQUESTS, "Requests that reached a revision, by what came of them", (*labels, "outcome")
        )
        self._refused = Counter(names.REFUSED, "Requests refused before they reached a revision", ("model", "code"))
        self._tokens = Counter(
            names.TOKENS, "Tokens by vLLM's count: prompt (cached ones too), cached, output", (*labels, "kind")
        )
        self._ttft = Histogram(
            names.TTFT,
            "From a request's arrival at the gateway to its first answer chunk, in seconds",
            list(names.TTFT_BUCKETS_S),
            labels,
        )
        self._tpot = Histogram(
            names.TPOT,
            "Mean time per output token after the first of a stream, in seconds",
            list(names.TPOT_BUCKETS_S),
            labels,
        )

    def record(self, record: RequestRecord, *, refused: bool = False) -> None:
        """`refused`: the client's own fault, so no error of the revision."""
        labels = {"model": self._name, "revision": record.revision, "role": record.role}
        self._requests.inc(1, {**labels, "outcome": "refused" if refused else record.outcome})
        if record.ttft_s is not None:
            self._ttft.observe(record.ttft_s, labels)
        if record.tpot_s is not None:
            self._tpot.observe(record.tpot_s, labels)
        counts = {"prompt": record.prompt_tokens, "cached": record.cached_tokens, "output": record.output_tokens}
        for kind, number in counts.items():
            if number:
                self._tokens.inc(number, {**labels, "kind": kind})

    def refused(self, error: ApiError) -> None:
        self._refused.inc(1, {"model": self._name, "code": str(error.code or error.status)})
