"""Machines of one cluster in network namespaces of this one, each with an address of its own; whoever may make them is root.

    machine (10.77.N.2) -- router -- machine
                             |
                         this machine (10.77.200.2)

A packet between two machines passes the router, which can be told to drop those of a pair without a word, as a broken switch
does. Processes and files are not kept apart: `kill` and storage reach everywhere.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

HERE = 200


def is_possible() -> bool:
    """Whether this process may make network namespaces."""
    return os.geteuid() == 0 and shutil.which("ip") is not None and _ip("netns", "add", probe := "serinus-probe") and _ip(
        "netns", "delete", probe
    )  # fmt: skip


def _ip(*words: str) -> bool:
    return subprocess.run(["ip", *words], capture_output=True, check=False).returncode == 0


def ip(command: str) -> None:
    done = subprocess.run(["ip", *command.split()], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"ip {command}: {done.stderr}"


class Network:
    """The router and what hangs on it. Names of namespaces and links begin with `tag`, which is short: links have 15 letters."""

    def __init__(self, tag: str) -> None:
        self.tag, self.router, self.here = tag, f"{tag}-router", f"10.77.{HERE}.2"
        self._numbers: dict[str, int] = {}
        self.close()  # what a killed run left
        ip(f"netns add {self.router}")
        self._inside(self.router, "sysctl", "-qw", "net.ipv4.ip_forward=1")
        ip(f"link add {tag}host type veth peer name {tag}h netns {self.router}")
        ip(f"addr add {self.here}/24 dev {tag}host")
        ip(f"link set {tag}host up")
        ip(f"-n {self.router} addr add 10.77.{HERE}.1/24 dev {tag}h")
        ip(f"-n {self.router} link set {tag}h up")
        ip(f"route add 10.77.0.0/16 via 10.77.{HERE}.1")

    def add(self, name: str) -> str:
        """A machine of that name; returns its address."""
        number = self._numbers[name] = len(self._numbers) + 1
        space, link = self.space(name), f"{self.tag}{number}"
        ip(f"netns add {space}")
        ip(f"link add eth0 netns {space} type veth peer name {link} netns {self.router}")
        ip(f"-n {self.router} addr add 10.77.{number}.1/24 dev {link}")
        ip(f"-n {self.router} link set {link} up")
        ip(f"-n {space} addr add {self.address(name)}/24 dev eth0")
        for device in ("lo", "eth0"):
            ip(f"-n {space} link set {device} up")
        ip(f"-n {space} route add default via 10.77.{number}.1")
        return self.address(name)

    def address(self, name: str) -> str:
        return f"10.77.{self._numbers[name]}.2"

    def space(self, name: str) -> str:
        return f"{self.tag}-{name}"

    def run(self, name: str, command: list[str], **options: Any) -> subprocess.Popen[str]:
        """Start a program on a machine."""
        return subprocess.Popen(["ip", "netns", "exec", self.space(name), *command], text=True, **options)

    @contextmanager
    def cut(self, one: str, other: str) -> Iterator[None]:
        """Drop what the two send each other, both ways, until the block ends."""
        pairs = [(self.address(one), self.address(other)), (self.address(other), self.address(one))]
        for source, target in pairs:
            ip(f"-n {self.router} rule add from {source} to {target} blackhole")
        try:
            yield
        finally:
            for source, target in pairs:
                ip(f"-n {self.router} rule delete from {source} to {target} blackhole")

    def close(self) -> None:
        listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
        for space in (line.split()[0] for line in listed.splitlines() if line.startswith(f"{self.tag}-")):
            _ip("netns", "delete", space)
        _ip("link", "delete", f"{self.tag}host")

    @staticmethod
    def _inside(space: str, *command: str) -> None:
        subprocess.run(["ip", "netns", "exec", space, *command], check=True)
