"""What the sandbox's process does: gives up all it could do harm by, then runs the program that it reads. A script of its own.

Nothing of serinus is imported: `python -I -S confined.py`, from sandbox.py. In its order:

1. namespaces of its own: a network without an interface that is up; a folder in memory, of a bounded size; process ids, among
   which it is the only one: nothing else can be named, and so neither signalled nor slowed down. The process outside waits for it
2. limits: processor time, memory, size of a file, open files (setrlimit)
3. files: read what Python needs, write below its folder (Landlock, from Linux 5.13)
4. system calls: no process, no signal, no socket, no program, no debugger (seccomp)

Any of them that the kernel refuses ends it before the program is read, with REFUSED and the reason.
"""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import signal
import struct
import sys

REFUSED = 77
"""Exit code: this machine cannot confine, and nothing was run."""
CONFINED = b"confined\n"
"""Told before the program runs."""
CLONE_NEWUSER, CLONE_NEWNET, CLONE_NEWIPC, CLONE_NEWPID, CLONE_NEWNS = (
    0x10000000, 0x40000000, 0x08000000, 0x20000000, 0x00020000,
)  # fmt: skip  # linux/sched.h
MS_NOSUID, MS_NODEV = 2, 4  # linux/mount.h
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP = 1, 4, 38, 22  # linux/prctl.h
SECCOMP_MODE_FILTER = 2  # linux/seccomp.h
NUM_FILES = 16
"""In its folder, each of the largest size."""
# linux/landlock.h: rights of its first version; the calls have these numbers on every architecture.
CREATE_RULESET, ADD_RULE, RESTRICT_SELF, PATH_BENEATH = 444, 445, 446, 1
ALL_RIGHTS, READ_RIGHTS, FILE_ONLY = (1 << 13) - 1, 1 << 2 | 1 << 3, 1 << 0 | 1 << 1 | 1 << 2
# Numbers of calls in asm/unistd_64.h and asm-generic/unistd.h.
DENIED = {
    "x86_64": {
        "socket": 41, "socketpair": 53, "clone": 56, "fork": 57, "vfork": 58, "execve": 59, "kill": 62, "ptrace": 101,
        "setrlimit": 160, "mount": 165, "tkill": 200, "tgkill": 234, "unshare": 272, "prlimit64": 302, "setns": 308,
        "process_vm_readv": 310, "process_vm_writev": 311, "bpf": 321, "execveat": 322,
    },
    "aarch64": {
        "mount": 40, "unshare": 97, "ptrace": 117, "kill": 129, "tkill": 130, "tgkill": 131, "setrlimit": 164,
        "socket": 198, "socketpair": 199, "clone": 220, "execve": 221, "prlimit64": 261, "setns": 268,
        "process_vm_readv": 270, "process_vm_writev": 271, "bpf": 280, "execveat": 281,
    },
}  # fmt: skip
DENIED_EVERYWHERE = {"pidfd_send_signal": 424, "io_uring_setup": 425, "clone3": 435, "pidfd_getfd": 438}
AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}  # linux/audit.h
X32 = 0x40000000
"""Calls by their 32-bit form have other numbers, from here on."""
EPERM = 1

libc = ctypes.CDLL(None, use_errno=True)


class Program(ctypes.Structure):
    """struct sock_fprog."""

    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def must(result: int, what: str) -> int:
    """Or nothing runs."""
    if result < 0:
        print(f"{what}: {os.strerror(ctypes.get_errno())}", file=sys.stderr)
        os._exit(REFUSED)
    return result


def leave(folder: str, file_bytes: int) -> None:
    """Into namespaces of its own, with `folder` in memory; process ids are those of the children from here on."""
    user, group = os.geteuid(), os.getegid()
    apart = CLONE_NEWUSER | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWPID | CLONE_NEWNS
    must(libc.unshare(apart), "no namespaces of its own")
    # So that its own files stay its own; in there it is nobody in particular.
    for name, value in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
        try:
            with open(f"/proc/self/{name}", "w") as file:
                file.write(value)
        except OSError as error:
            print(f"no user namespace of its own: {error}", file=sys.stderr)
            os._exit(REFUSED)
    bounds = f"size={NUM_FILES * file_bytes},nr_inodes={NUM_FILES}".encode()
    must(libc.mount(b"tmpfs", folder.encode(), b"tmpfs", MS_NOSUID | MS_NODEV, bounds), "no folder of its own")
    os.chdir(folder)


def go_on_as_the_only_process() -> None:
    """Returns in a child; the process that it leaves outside ends as the child does, and ends it when asked to (SIGTERM)."""
    awaited = {signal.SIGCHLD, signal.SIGTERM}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, awaited)
    child = os.fork()
    if not child:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return
    must(libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0), "no end with who runs it")
    ended, status = 0, 0
    while not ended:
        if signal.sigwait(awaited) == signal.SIGTERM:
            os.kill(child, signal.SIGKILL)
        ended, status = os.waitpid(child, os.WNOHANG)
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.kill(os.getpid(), -code)
    os._exit(code)


def limit(cpu_s: int, memory_bytes: int, file_bytes: int) -> None:
    for what, most in (
        (resource.RLIMIT_CPU, cpu_s),
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_FSIZE, file_bytes),
        (resource.RLIMIT_NOFILE, 64),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(what, (most, most))


def close_files(folder: str) -> None:
    handled = struct.pack("<Q", ALL_RIGHTS)
    ruleset = must(libc.syscall(CREATE_RULESET, handled, len(handled), 0), "no Landlock")
    readable = {sys.prefix, sys.base_prefix, *(path for path in sys.path if path), "/usr/lib", "/lib", "/lib64"}
    for path, rights in (*((path, READ_RIGHTS) for path in sorted(readable)), (folder, ALL_RIGHTS & ~1)):
        if not os.path.exists(path):
            continue
        handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
        allowed = rights if os.path.isdir(path) else rights & FILE_ONLY
        rule = struct.pack("<Qi", allowed, handle)
        must(libc.syscall(ADD_RULE, ruleset, PATH_BENEATH, rule, 0), f"no Landlock on {path}")
        os.close(handle)
    must(libc.syscall(RESTRICT_SELF, ruleset, 0), "no Landlock")
    os.close(ruleset)


def close_calls() -> None:
    """A filter of classic BPF: the architecture, then each number that is denied."""
    machine = platform.machine()
    if machine not in DENIED:
        print(f"no list of system calls for {machine}", file=sys.stderr)
        os._exit(REFUSED)
    denied = [*DENIED[machine].values(), *DENIED_EVERYWHERE.values()]
    load, equal, at_least, give = 0x20, 0x15, 0x35, 0x06  # BPF_LD|W|ABS, BPF_JMP|JEQ|K, BPF_JMP|JGE|K, BPF_RET|K
    allow, refuse, kill = 0x7FFF0000, 0x00050000 | EPERM, 0x80000000  # SECCOMP_RET_*
    steps = [(load, 0, 0, 4), (equal, 1, 0, AUDIT_ARCH[machine]), (give, 0, 0, kill), (load, 0, 0, 0)]
    steps.append((at_least, len(denied) + 1, 0, X32))
    steps += [(equal, len(denied) - at, 0, number) for at, number in enumerate(denied)]
    steps += [(give, 0, 0, allow), (give, 0, 0, refuse)]
    code = b"".join(struct.pack("<HBBI", *step) for step in steps)
    program = Program(len(steps), code)
    must(libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0), "no seccomp")


def main() -> None:
    """Arguments: folder, seconds, bytes of memory, bytes of a file. Reads a token's line and the program; writes the token when
    the program has come to its end: leaving early, by whatever exit code, is no pass."""
    folder, *limits = sys.argv[1:]
    leave(folder, int(limits[2]))
    go_on_as_the_only_process()
    must(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
    must(libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0), "not dumpable")
    limit(*map(int, limits))
    close_files(folder)
    close_calls()
    token, _, program = sys.stdin.read().partition("\n")
    told = os.dup(1)
    os.write(told, CONFINED)
    os.dup2(2, 1)  # what it prints is no word of ours
    exec(compile(program, "program", "exec"), {"__name__": "__main__"})  # noqa: S102  # all it could do harm by is gone
    os.write(told, token.encode())


if __name__ == "__main__":
    main()
