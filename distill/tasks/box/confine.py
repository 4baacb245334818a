"""Take from a process what a program that a model wrote must not have.

The network, other processes and the disk (namespaces), all files but its folder and Python's own
(Landlock), dangerous system calls (seccomp), and everything beyond the limits (rlimits).
"""

import contextlib
import ctypes
import os
import struct
import sys
from pathlib import Path

from .seccomp import refuse_system_calls

CPU_SECONDS = 8
MEMORY = 512 << 20  # bytes of address space of each process
PROCESSES = 8  # and threads
OURS = 1  # processes of ours beside it, the tests'
FILE_BYTES = 1 << 20
DISK_BYTES, DISK_FILES = 16 << 20, 1024  # of all its files together
OPEN_FILES = 128

# flags of unshare (sched.h), of mount (mount.h), and options of prctl (prctl.h)
NEWNS, NEWUSER, NEWPID, NEWNET, NEWIPC = 0x20000, 0x10000000, 0x20000000, 0x40000000, 0x08000000
MS_NOSUID_NODEV = 2 | 4
PR_SET_NO_NEW_PRIVS = 38
# system calls, the same on every architecture
LANDLOCK_CREATE, LANDLOCK_ADD, LANDLOCK_RESTRICT = 444, 445, 446
LANDLOCK_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15}  # ABI: bits of rights to files; from 5 on 16
# execute, read file, list; read file; and write
READ_FOLDER, READ_FILE, READ_WRITE_FILE = 0b1101, 0b0100, 0b0110
READABLE = (
    "/usr",
    "/lib",
    "/lib64",
    "/lib32",
    "/nix/store",
    "/etc/ld.so.cache",
    "/etc/localtime",
    "/dev/urandom",
)


def confine(libc: ctypes.CDLL, folder: str) -> tuple[list[str], bool]:
    """Confine this process and all that it starts to `folder`, as far as the system allows.

    Return (what it refuses, whether the next child is the first of a namespace of processes).
    """
    is_root = os.geteuid() == 0
    num_others = 0 if is_root else _num_tasks()
    if is_root:
        with contextlib.suppress(OSError):  # only in a container whose root is somebody else's user
            os.setresuid(65534, 0, 0)  # nobody's count: the kernel never limits root's processes
    refused: list[str] = []
    has_namespaces = _try(refused, "namespaces for network and processes", _unshare, libc)
    if has_namespaces:
        _try(refused, "a disk of the program's own", _mount_disk, libc, folder)
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    _try(refused, "Landlock for files", _close_files, libc, folder)
    # a namespace of users counts its own processes only
    _limit_resources((0 if has_namespaces else num_others) + PROCESSES + OURS)
    _try(refused, "a filter of system calls (seccomp)", _refuse_calls, libc, has_namespaces)
    return refused, has_namespaces


def _try(refused: list[str], what: str, action, *arguments: object) -> bool:
    try:
        action(*arguments)
    except OSError as error:
        refused.append(f"{what} ({error.strerror})")
        return False
    return True


def _refuse_calls(libc: ctypes.CDLL, has_namespaces: bool) -> None:
    refuse_system_calls(libc, may_leave_session=has_namespaces)


def _unshare(libc: ctypes.CDLL) -> None:
    user, group = os.geteuid(), os.getegid()
    _checked(libc.unshare(NEWUSER | NEWNS | NEWNET | NEWPID | NEWIPC))
    # without a map of its users the namespace's disk could not be written
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
    Path("/proc/self/gid_map").write_text(f"{group} {group} 1")


def _mount_disk(libc: ctypes.CDLL, folder: str) -> None:
    """Put a small disk in memory over `folder`, with the files that are there; it ends with us."""
    files = {path: path.read_bytes() for path in Path(folder).iterdir()}
    options = f"size={DISK_BYTES},nr_inodes={DISK_FILES},mode=700".encode()
    _checked(libc.mount(b"tmpfs", os.fsencode(folder), b"tmpfs", MS_NOSUID_NODEV, options))
    for path, content in files.items():
        path.write_bytes(content)
    os.chdir(folder)


def _limit_resources(num_processes: int) -> None:
    import resource

    limits = {
        resource.RLIMIT_CPU: CPU_SECONDS,
        resource.RLIMIT_AS: MEMORY,
        resource.RLIMIT_FSIZE: FILE_BYTES,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NPROC: num_processes,
        resource.RLIMIT_NOFILE: OPEN_FILES,
    }
    for name, limit in limits.items():
        resource.setrlimit(name, (limit, limit))


def _num_tasks() -> int:
    """Return the number of processes and threads of this user."""
    count = 0
    for process in Path("/proc").iterdir():
        with contextlib.suppress(OSError):  # it has ended
            if process.name.isdecimal() and process.stat().st_uid == os.getuid():
                count += len(os.listdir(process / "task"))
    return count


def _checked(result: int) -> int:
    """Return the result of a call. Raise OSError."""
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def _close_files(libc: ctypes.CDLL, folder: str) -> None:
    """Leave by Landlock `folder`, and reading Python and the system's libraries. Raise OSError."""
    abi = _checked(libc.syscall(LANDLOCK_CREATE, None, 0, 1))
    everything = (1 << LANDLOCK_RIGHTS.get(abi, 16)) - 1
    # from ABI 6 on also: no signals and no abstract sockets to processes outside
    rules = struct.pack("=QQQ", everything, 0, 3) if abi >= 6 else struct.pack("=Q", everything)
    ruleset = _checked(libc.syscall(LANDLOCK_CREATE, rules, len(rules), 0))
    for path, rights in _rights_by_path(folder, everything).items():
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
        rule = struct.pack("=Qi", rights, descriptor)
        _checked(libc.syscall(LANDLOCK_ADD, ruleset, 1, rule, 0))
        os.close(descriptor)
    _checked(libc.syscall(LANDLOCK_RESTRICT, ruleset, 0))
    os.close(ruleset)


def _rights_by_path(folder: str, everything: int) -> dict[str, int]:
    python = {
        sys.prefix,
        sys.base_prefix,
        os.path.realpath(sys.executable),
        *filter(os.path.isabs, sys.path),
    }
    rights = {
        path: READ_FOLDER if os.path.isdir(path) else READ_FILE
        for path in (*python, *READABLE)
        if os.path.exists(path)
    }
    return rights | {"/dev/null": READ_WRITE_FILE, folder: everything}
