"""The gateway's metrics for Prometheus, exported by Ray with the application, deployment and replica as further labels."""

from __future__ import annotations

from collections.abc import Mapping

from services.contract import RequestRecord
from services.serving.openai_errors import ApiError
from services.serving.shadow import Comparison


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

        self._feedback = Counter(names.FEEDBACK, "Users' votes on answers", (*labels, "thumb"))
        self._evidence_lost = Counter(names.EVIDENCE_LOST, "Records of requests that nobody took in time", ("model",))
        self._shadow = Counter(
            names.SHADOW_REPLIES, "Replies to copied requests, beside the user's", ("model", "result", "same_finish")
        )
        self._length = Histogram(
            names.SHADOW_LENGTH,
            "Characters of the canary's reply for each of stable's",
            list(names.LENGTH_RATIO_BUCKETS),
            ("model",),
        )

    def shadow(self, record: RequestRecord | None, comparison: Comparison) -> None:
        """A copied request; its figures have the role `shadow`. `record` is None when the copy was dropped."""
        if record is not None:
            self.record(record, role="shadow")
        same_finish = str(comparison.same_finish).lower()
        self._shadow.inc(1, {"model": self._name, "result": comparison.result, "same_finish": same_finish})
        if comparison.length_ratio is not None:
            self._length.observe(comparison.length_ratio, {"model": self._name})

    def record(self, record: RequestRecord, *, refused: bool = False, role: str | None = None) -> None:
        """`refused`: the client's own fault, so no error of the revision."""
        labels = {"model": self._name, "revision": record.revision, "role": role or record.role}
        self._requests.inc(1, {**labels, "outcome": "refused" if refused else record.outcome})
        if record.ttft_s is not None:
            self._ttft.observe(record.ttft_s, labels)
        if record.tpot_s is not None:
            self._tpot.observe(record.tpot_s, labels)
        counts = {"prompt": record.prompt_tokens, "cached": record.cached_tokens, "output": record.output_tokens}
        for kind, number in counts.items():
            if number:
                self._tokens.inc(number, {**labels, "kind": kind})

    def feedback(self, vote: Mapping[str, str | None], thumb: str) -> None:
        """A user's vote. One that replaces another is counted as such, since counters cannot take back."""
        kind = thumb if vote["before"] is None else "changed"
        labels = {"model": self._name, "revision": vote["revision"], "role": vote["role"]}
        self._feedback.inc(1, {**labels, "thumb": kind})

    def evidence_lost(self, number: int) -> None:
        """Records of requests that the rollout's controller will never see."""
        self._evidence_lost.inc(number, {"model": self._name})

    def refused(self, error: ApiError) -> None:
        self._refused.inc(1, {"model": self._name, "code": str(error.code or error.status)})
