"""What EC2 tells a spot instance before it takes it back, asked of the machine's metadata service (IMDSv2), and the drain then.

EC2's documentation recommends to ask every five seconds; the notice comes about two minutes before the end.
"""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Final

from cluster import drain
from cluster.drain import NodeHere
from cluster.errors import ClusterError
from cluster.progress import say

SERVICE: Final = "169.254.169.254"
"""Of every EC2 instance. No setting changes it: what is asked here is never an address that someone else chose."""
ANSWER_TIMEOUT_S: Final = 2.0
POLL_S: Final = 5.0
TRIES: Final = 3
"""At the beginning; a machine that has no such service is told from one whose service was busy."""
NOTICE_S: Final = 120.0
TOKEN_LIFE_S: Final = 21_600
MOST_BYTES: Final = 4096


class Silent(Exception):
    """The metadata service does not answer, or not as one does."""


class Metadata:
    """The metadata service of this machine. No redirect is followed and no proxy asked.

    Args:
        host, port: of another one, for tests.
    """

    def __init__(self, host: str = SERVICE, port: int = 80) -> None:
        self._host, self._port, self._token = host, port, ""

    def is_spot(self) -> bool:
        """Whether the instance can be taken back.

        Raises:
            Silent: there is no service.
        """
        return self._read("instance-life-cycle") == "spot"

    def notice(self) -> str | None:
        """EC2's own document that says what is going to happen to the instance, and when; None while nothing is.

        Raises:
            Silent: the service did not answer this time, or with something else, as a login page is: nobody leaves for that.
        """
        text = self._read("spot/instance-action")
        if text is not None and not _names_action(text):
            raise Silent("spot/instance-action: no notice")
        return text

    def _read(self, item: str) -> str | None:
        status, text = self._with_token(item)
        if status == http.client.UNAUTHORIZED:  # the token's life has ended
            self._token = ""
            status, text = self._with_token(item)
        if status == http.client.NOT_FOUND:
            return None
        if status != http.client.OK:
            raise Silent(f"{item}: {status}")
        return text

    def _with_token(self, item: str) -> tuple[int, str]:
        if not self._token:
            wanted = {"X-aws-ec2-metadata-token-ttl-seconds": str(TOKEN_LIFE_S)}
            status, self._token = self._ask("PUT", "/latest/api/token", wanted)
            if status != http.client.OK or not (self._token.isascii() and self._token.isprintable()):
                self._token = ""
                raise Silent(f"token: {status}")
        return self._ask("GET", f"/latest/meta-data/{item}", {"X-aws-ec2-metadata-token": self._token})

    def _ask(self, method: str, path: str, headers: dict[str, str]) -> tuple[int, str]:
        connection = http.client.HTTPConnection(self._host, self._port, timeout=ANSWER_TIMEOUT_S)
        try:
            connection.request(method, path, headers=headers)
            answer = connection.getresponse()
            return answer.status, answer.read(MOST_BYTES).decode("utf-8", errors="replace").strip()
        except (OSError, http.client.HTTPException) as error:
            raise Silent(str(error)) from None
        finally:
            connection.close()


def _names_action(text: str) -> bool:
    try:
        return bool(json.loads(text)["action"])
    except (ValueError, TypeError, KeyError, RecursionError):
        return False


def seconds_left(notice: str, now: datetime) -> float:
    """Until the moment that the notice names; two minutes where none can be read: it is a notice all the same. So where the moment
    has passed: the machine still runs, thus its clock is wrong, and Ray Train would end the ranks at once."""
    try:
        moment = datetime.fromisoformat(json.loads(notice)["time"])
        left_s = (moment.replace(tzinfo=moment.tzinfo or UTC) - now).total_seconds()
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return NOTICE_S
    return left_s if 0 < left_s < NOTICE_S else NOTICE_S


def watch(metadata: Metadata, find: Callable[[], NodeHere], sleep: Callable[[float], None] = time.sleep) -> None:
    """Wait for the notice and drain the node then. Says so and returns where there is no spot instance, and ends with the node.

    Args:
        find: the node, if there is anything to wait for.

    Raises:
        ClusterError: what `find` raises, or the head did not take it before the machine's end.
    """
    if not _is_spot(metadata, sleep):
        return
    node = find()
    say(drain.STAGE, f"waiting for EC2's notice to node {node.id[:12]} ({node.address})")
    if notice := _notice(metadata, node, sleep):
        _leave(node, notice, sleep)


def _is_spot(metadata: Metadata, sleep: Callable[[float], None]) -> bool:
    why = ""
    for _ in range(TRIES):
        try:
            if not (spot := metadata.is_spot()):
                say(drain.STAGE, "this machine is no spot instance: there is no notice to wait for")
            return spot
        except Silent as error:
            why = str(error)
            sleep(1.0)
    say(drain.STAGE, f"no metadata service of EC2 answers here ({why}): no notice will be seen")
    return False


def _notice(metadata: Metadata, node: NodeHere, sleep: Callable[[float], None]) -> str | None:
    while drain.lives(node.raylet):
        with suppress(Silent):  # it was there at the beginning, and is busy
            if notice := metadata.notice():
                return notice
        sleep(POLL_S)
    return None


def _leave(node: NodeHere, notice: str, sleep: Callable[[float], None]) -> None:
    until = time.monotonic() + seconds_left(notice, datetime.now(UTC))
    while True:
        left_s = max(until - time.monotonic(), 0.0)
        try:
            drain.leave(node, left_s, f"EC2 takes its spot instance back: {notice}")
            return
        except ClusterError as error:
            if left_s <= POLL_S or not drain.lives(node.raylet):
                raise
            say(drain.STAGE, f"trying again: {error}")
            sleep(POLL_S)
