"""Machines for Ray's cluster launcher, made of namespaces of this one: processes, network, /tmp and home are each one's own,
so that the very `ray stop` of the shipped files ends what is on that machine and nothing else. Whoever makes them is root.

The machine's disk is seen by all of them, the environment that the tests run in and the repository read-only. `ssh` and
`rsync` are stand-ins (remote_machine.py, remote_copy.py) that know no other machines than these. All ends with this process.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path
from typing import Self

import psutil
import pytest

from tests.integration.local_cluster import REPOSITORY
from tests.integration.remote_machine import ask

NAMESPACES = ["unshare", "--mount", "--pid", "--net", "--fork", "--kill-child", "--mount-proc"]
BOOT_S = 20.0
BOOT = """
set -e
mount --make-rprivate /
mount -t tmpfs kept /mnt
number=0
for kept in $KEPT; do
  mkdir /mnt/$((++number)); mount --rbind $kept /mnt/$number
done
mkdir -p $FOLDER/tmp; mount --bind $FOLDER/tmp /tmp
number=0
for kept in $KEPT; do
  mkdir -p $kept; mount --rbind /mnt/$((++number)) $kept
done
for kept in $READ_ONLY; do mount -o remount,ro,bind $kept; done
umount --lazy --recursive /mnt
ip link set lo up
cd $HOME
$PYTHON $SERVER $SOCKET
true
"""
"""The last word keeps bash as the machine's first process, which buries whoever nobody waits for."""


def is_possible() -> bool:
    """Whether this process may make such machines."""
    probe = [*NAMESPACES, "mount", "-t", "tmpfs", "probe", "/mnt"]
    tools = all(map(shutil.which, ("unshare", "ip", "tar")))
    return os.geteuid() == 0 and tools and subprocess.run(probe, capture_output=True, check=False).returncode == 0


class Machine:
    """One of them, switched on."""

    def __init__(self, folder: Path, address: str, socket: Path) -> None:
        self.address, self.home, self._socket = address, folder / "home", socket
        self._furnish(folder)
        log = open(folder / "console.log", "ab")  # noqa: SIM115  # the machine's
        command = [*NAMESPACES, "bash", "-c", BOOT]
        self.process = subprocess.Popen(
            command, env=self._environment(folder), stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
        self._wait(folder / "console.log")

    def _furnish(self, folder: Path) -> None:
        """What an image for the cluster has: a shell, Python, the packages that the project depends on."""
        self.home.mkdir(parents=True)
        self._write("bin/ssh", f"#!{sys.executable}\n{SSH.format(repository=REPOSITORY, folder=self._socket.parent)}")
        self._write(
            "bin/rsync", f'#!/bin/sh\nexec {sys.executable} {REPOSITORY}/tests/integration/remote_copy.py "$@"\n'
        )
        (self.home / ".bashrc").write_text(f"export PATH={self.home}/bin:$PATH PYTHONPATH=\n", encoding="utf-8")
        environment = self.home / "venv"
        venv.create(environment, with_pip=False, symlinks=True)
        site = f"lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"
        (environment / site / "packages.pth").write_text(f"{sys.prefix}/{site}\n", encoding="utf-8")
        for name, module in (("pip", "pip._internal.cli.main"), ("ray", "ray.scripts.scripts")):
            start = f"import sys\nfrom {module} import main\nsys.exit(main())\n"
            self._write(f"venv/bin/{name}", f"#!{environment}/bin/python\n{start}")

    def _write(self, name: str, text: str) -> None:
        path = self.home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        path.chmod(0o755)

    def _environment(self, folder: Path) -> dict[str, str]:
        fixed = {sys.prefix, str(REPOSITORY)}
        ours = {
            "FOLDER": str(folder),
            "KEPT": " ".join(sorted({str(folder.parent), *fixed}, key=len)),
            "READ_ONLY": " ".join(sorted(fixed)),
            "PYTHON": sys.executable,
            "SERVER": str(REPOSITORY / "tests/integration/remote_machine.py"),
            "SOCKET": str(self._socket),
        }
        # Of the project alone something is installed; there is no index to ask for anything else.
        pip = {
            "PIP_NO_DEPS": "1",
            "PIP_NO_INDEX": "1",
            "PIP_NO_BUILD_ISOLATION": "0",
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        }
        path = f"{self.home}/bin:{os.defpath}:/usr/sbin:/sbin"
        return {**ours, **pip, "HOME": str(self.home), "PATH": path, "LANG": "C.UTF-8", "TERM": "dumb"}

    def _wait(self, log: Path) -> None:
        deadline = time.monotonic() + BOOT_S
        while not self._socket.exists():
            assert self.process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)

    def run(self, command: str) -> tuple[int, str]:
        """Exit code and output of `command` in a login shell there."""
        with tempfile.TemporaryFile() as output:
            code = ask(str(self._socket), f"source ~/.bashrc; {command}", (0, output.fileno(), output.fileno()))
            output.seek(0)
            return code, output.read().decode(errors="replace")

    def processes(self) -> list[psutil.Process]:
        """What runs there beside the two that make it a machine."""
        first, *_ = inside = psutil.Process(self.process.pid).children(recursive=True)
        server = min(first.children(), key=lambda process: process.create_time())
        return [process for process in inside if process not in (first, server)]


SSH = """
import sys
sys.path.insert(0, "{repository}")
from tests.integration.remote_machine import ask
words = iter(sys.argv[1:])
for word in words:
    if word in ("-o", "-i", "-L"):
        next(words)
    elif not word.startswith("-"):
        break
sys.exit(ask("{folder}/" + word.partition("@")[2], " ".join(words)))
"""
"""As ssh does it, the words of a command are joined and left to a shell over there."""


class Machines:
    """Some of them and the switch between them. Use as a context manager."""

    def __init__(self, names: list[str]) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="sm-", dir="/tmp"))  # sockets in it end at 107 characters
        self._switch = subprocess.Popen(["unshare", "--net", "sleep", "infinity"])
        self.named: dict[str, Machine] = {}
        try:
            self._until_apart()
            self._ip("link add name switch type bridge")
            self._ip("link set switch up")
            for number, name in enumerate(names, start=1):
                self.named[name] = self._add(name, number)
        except BaseException:
            self.close()
            raise

    def _until_apart(self) -> None:
        """The switch has its network as soon as `unshare` has become `sleep`."""
        deadline = time.monotonic() + BOOT_S
        while os.readlink(f"/proc/{self._switch.pid}/ns/net") == os.readlink("/proc/self/ns/net"):
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def _add(self, name: str, number: int) -> Machine:
        address = f"10.77.0.{number}"
        made = Machine(self.folder / name, address, self.folder / address)
        first = psutil.Process(made.process.pid).children()[0].pid
        self._ip(f"link add m{number} type veth peer name eth0 netns {first}")
        self._ip(f"link set m{number} master switch up")
        # Nobody is at the gateway, but by the way out a machine knows its own address.
        code, said = made.run(
            f"ip addr add {address}/24 dev eth0 && ip link set eth0 up && ip route add default via 10.77.0.254"
        )
        assert code == 0, said
        return made

    def _ip(self, command: str) -> None:
        words = ["nsenter", f"--net=/proc/{self._switch.pid}/ns/net", "ip", *command.split()]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"ip {command}: {done.stderr}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Switch all off: a machine's processes end with its first."""
        for process in (*(machine.process for machine in self.named.values()), self._switch):
            process.kill()
            process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


MACHINES = [
    pytest.mark.integration,
    pytest.mark.long,
    pytest.mark.timeout(600),
    pytest.mark.skipif(
        not is_possible(), reason="needs to be root, `ip` and `unshare`, to make machines of namespaces"
    ),
]
"""Marks of the tests that want them."""
