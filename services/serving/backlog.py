"""A listening socket's way out: nobody who has connected to it is reset when it closes.

The kernel completes connections by itself and queues them until they are accepted, for each socket that shares a port
(SO_REUSEPORT) in a queue of its own; closing the socket resets who is in it, or about to be (LWN 837506, "Socket migration for
SO_REUSEPORT", whose `net.ipv4.tcp_migrate_req` is off by default). So first let nobody new in, then accept all, then close.
"""

from __future__ import annotations

import asyncio
import ctypes
import select
import socket
import struct
import sys
from typing import Final

from cluster.telemetry import logger

log = logger("gateway")

HANDSHAKE_S: Final = 0.5
"""For handshakes under way to be completed: round trips of so long. Under the second after which TCP says hello again (RFC 6298,
section 2), so that who was not heard meets another replica the next time."""
SO_ATTACH_FILTER: Final = 26
"""Of Linux (asm-generic/socket.h)."""
DROP_HELLOS: Final = (
    (0x30, 0, 0, 13),  # load the byte of flags: a socket's filter sees a segment from its TCP header on
    (0x54, 0, 0, 0x02),  # SYN?
    (0x15, 0, 1, 0),
    (0x06, 0, 0, 0xFFFFFFFF),  # no: keep it whole
    (0x06, 0, 0, 0),  # yes: drop it
)
"""A classic BPF program (linux/filter.h): code, jump if true, jump if false, operand."""
MAX_ROUNDS: Final = 1000
"""Of the event loop: without the filter a flood of connections has no end."""


async def empty(listening: socket.socket) -> None:
    """Return when the running event loop has accepted all who have connected; close `listening` then, before anything else is
    awaited. Whose first segment comes meanwhile is not heard, and says it again after a second."""
    if drop_hellos(listening):
        await asyncio.sleep(HANDSHAKE_S)
    poll = select.poll()
    poll.register(listening.fileno(), select.POLLIN)
    num_quiet = 0
    for _ in range(MAX_ROUNDS):
        num_quiet = 0 if poll.poll(0) else num_quiet + 1
        if num_quiet == 3:  # what was accepted gets its protocol in the round after
            return
        await asyncio.sleep(0)


def drop_hellos(listening: socket.socket) -> bool:
    """Let the kernel ignore new connections to this socket alone; False where it has no way to."""
    if sys.platform != "linux":
        return False
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *instruction) for instruction in DROP_HELLOS))
    try:
        listening.setsockopt(
            socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("HL", len(DROP_HELLOS), ctypes.addressof(code))
        )
    except OSError as error:  # a sandbox without it: connections may then come between the last look and the close
        log.warning("new connections cannot be held off while a replica drains: %s", error)
        return False
    return True
