"""What is kept of each request at the gateway: told to Prometheus and its trace, and to the rollout where it is evidence. Requests
that are copied to a canary go there from here, answered as they are. Nothing here imports Ray.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from services.config import ServingConfig
from services.contract import HARMFUL, RequestRecord
from services.serving.asking import excused
from services.serving.attempt import Attempt
from services.serving.call import Call
from services.serving.measures import Measures
from services.serving.outbox import Outbox
from services.serving.shadow import Comparison, Lot, Shadow, says_nothing
from services.serving.watch import TrafficWatch

REFUSALS = frozenset({400, 413, 422})
"""Statuses that find fault with the request itself."""


class Notes:
    """Of one gateway replica."""

    def __init__(
        self,
        name: str,
        serving: ServingConfig,
        *,
        watch: TrafficWatch,
        measures: Measures,
        outbox: Outbox,
        chunks: Callable[[str, Call], Any],
    ) -> None:
        """`chunks` puts a call to a revision: copies ask by it, untraced."""
        self._serving, self._watch, self._measures = serving, watch, measures
        self._outbox, self._chunks = outbox, chunks
        self.shadow = Shadow(serving.shadow, name, self._shadow_ended)

    def note(self, call: Call) -> None:
        """Put on record what came of the request at each revision it reached. Once it has ended, also by the client's leave."""
        now_s, at = time.monotonic(), datetime.now(UTC)
        last = call.attempts[-1]
        call.ticket.settle(call.num_tokens(), now_s)
        # A prompt too long, say: when stable refuses it too, that tells nothing about any revision. Nor does a request
        # that both fail on: at 1 % of the traffic it would weigh a hundred times more on the canary's side.
        refused = last.role == "stable" and last.watch.status in REFUSALS
        failed_over = len({attempt.role for attempt in call.attempts}) > 1
        both_failed = failed_over and last.watch.outcome in HARMFUL
        absence_s = self._serving.admission.canary_absence_s
        for attempt in call.attempts:
            record = attempt.record(
                now_s, at, call.request_id, call.place, num_body_bytes=call.num_body_bytes, failed_over=failed_over
            )
            if self._watch.was_asleep(attempt.revision, call.started_s):
                record = record.replace(cold=True)
            self._measures.record(record, refused=refused, role="tester" if call.wanted else None)
            if call.trace is not None:
                call.trace.answered(attempt, record)
            if call.wanted is None and not (
                refused or both_failed or excused(attempt, self._watch.situation, now_s, absence_s)
            ):
                beside = call.lot is not None and not call.lot.copied and self._in_time(record)
                told = {"owner": call.owner, "rollout": call.rollout, "shadow": "beside" if beside else None}
                self._outbox.add(record.model_copy(update=told))
        if call.lot is not None and call.lot.copied:
            self._copy(call, call.lot, record)

    def _in_time(self, record: RequestRecord) -> bool:
        """Whether it was answered in the time that a copy would have."""
        return record.duration_s <= self._serving.shadow.timeout_s

    def _copy(self, call: Call, lot: Lot, answered: RequestRecord) -> None:
        """What stable itself failed on is not copied: what both fail on tells nothing of their difference."""
        if answered.outcome != "ok" or not self._in_time(answered):
            self.shadow.give_back(lot)
            return
        chunks, note = lambda: self._chunks(lot.canary, call), lambda attempt: self._note_copy(call, attempt)
        self.shadow.offer(lot, call.attempts[-1].watch, chunks, note)

    def _note_copy(self, call: Call, attempt: Attempt) -> None:
        now_s, admission = time.monotonic(), self._serving.admission
        streamed = bool(getattr(call.body, "stream", False))
        woken = attempt.watch.timed_out and self._watch.was_asleep(attempt.revision, attempt.watch.started_s)
        if woken or says_nothing(attempt, streamed, self._serving.shadow, admission):
            return
        if excused(attempt, self._watch.situation, now_s, admission.canary_absence_s):
            return
        record = attempt.record(now_s, datetime.now(UTC), call.request_id, call.place,
                                num_body_bytes=call.num_body_bytes, failed_over=False)  # fmt: skip
        self._outbox.add(record.model_copy(update={"rollout": call.rollout, "shadow": "copy"}))

    def _shadow_ended(self, attempt: Attempt | None, comparison: Comparison) -> None:
        record = None
        if attempt is not None:
            record = attempt.record(time.monotonic(), datetime.now(UTC), "", 0.0, failed_over=False)
        self._measures.shadow(record, comparison)
