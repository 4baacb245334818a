"""System calls that a program in the sandbox is refused, by a filter in the kernel (seccomp).

It may make no socket: neither to the network nor by a path to another program of this machine. It
may neither look into other processes nor mount, load or make what outlives or escapes its limits.
"""

import ctypes
import errno
import os
import platform
import struct

# Of each machine: its audit architecture (linux/audit.h), and where its number stands below.
_MACHINES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
# name: number on x86_64, on aarch64 (asm/unistd.h)
_DENIED = {
    "socket": (41, 198),
    "bind": (49, 200),
    "listen": (50, 201),
    "connect": (42, 203),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "pidfd_getfd": (438, 438),
    "kcmp": (312, 272),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "unshare": (272, 97),
    "setns": (308, 268),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "reboot": (169, 142),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    # memory that no limit counts
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "shmget": (29, 194),
    "semget": (64, 190),
    "msgget": (68, 186),
    "mq_open": (240, 180),
}
# where there is no namespace of processes, all that a program starts is found by its session
_LEAVE_THE_SESSION = {"setsid": (112, 157), "setpgid": (109, 154)}
_SOCKETPAIR, _CLONE, _CLONE3 = (53, 199), (56, 220), (435, 435)
_AF_UNIX, _SOCK_STREAM, _SOCK_TYPES = 1, 1, 0xF
_NEW_NAMESPACES = 0x7E020000
_X32 = 0x40000000  # bit of the numbers of x86_64's second set of system calls

# instructions of classic BPF (linux/filter.h) and results (linux/seccomp.h)
_LOAD, _AND, _EQUALS, _AT_LEAST, _HAS_BITS, _RETURN = 0x20, 0x54, 0x15, 0x35, 0x45, 0x06
_ALLOW, _KILL = 0x7FFF0000, 0x80000000
_REFUSE, _UNKNOWN = 0x00050000 | errno.EPERM, 0x00050000 | errno.ENOSYS
# offsets in struct seccomp_data; of an argument its low 32 bits, on little-endian machines
_NUMBER, _ARCHITECTURE, _FIRST, _SECOND = 0, 4, 16, 24
_PR_SET_SECCOMP, _MODE_FILTER = 22, 2


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def refuse_system_calls(libc: ctypes.CDLL, *, may_leave_session: bool) -> None:
    """Install the filter for this process and all that it starts. Raise OSError.

    PR_SET_NO_NEW_PRIVS must be set.
    """
    instructions = _filter(platform.machine(), may_leave_session)
    program = _Program(len(instructions) // 8, instructions)
    if libc.prctl(_PR_SET_SECCOMP, _MODE_FILTER, ctypes.byref(program), 0, 0) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _filter(machine: str, may_leave_session: bool) -> bytes:
    """Return the filter for a machine. Raise OSError for one whose numbers are not known."""
    if machine not in _MACHINES:
        raise OSError(errno.ENOSYS, f"no filter is known for {machine}")
    architecture, column = _MACHINES[machine]
    steps = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_EQUALS, 1, 0, architecture),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER),
        (_AT_LEAST, 0, 1, _X32),
        (_RETURN, 0, 0, _REFUSE),
    ]
    denied = _DENIED if may_leave_session else _DENIED | _LEAVE_THE_SESSION
    for numbers in denied.values():
        steps += [(_EQUALS, 0, 1, numbers[column]), (_RETURN, 0, 0, _REFUSE)]
    # the C library then takes `clone`, whose flags can be read here
    steps += [(_EQUALS, 0, 1, _CLONE3[column]), (_RETURN, 0, 0, _UNKNOWN)]
    steps += _clone(_CLONE[column]) + _socketpair(_SOCKETPAIR[column])
    steps.append((_RETURN, 0, 0, _ALLOW))
    return b"".join(struct.pack("=HBBI", *step) for step in steps)


def _clone(number: int) -> list[tuple[int, int, int, int]]:
    """Refuse new namespaces."""
    return [
        (_EQUALS, 0, 4, number),
        (_LOAD, 0, 0, _FIRST),
        (_HAS_BITS, 0, 1, _NEW_NAMESPACES),
        (_RETURN, 0, 0, _REFUSE),
        (_LOAD, 0, 0, _NUMBER),
    ]


def _socketpair(number: int) -> list[tuple[int, int, int, int]]:
    """Allow a pair of connected streams, which asyncio needs: they reach nothing else."""
    return [
        (_EQUALS, 0, 7, number),
        (_LOAD, 0, 0, _FIRST),
        (_EQUALS, 0, 4, _AF_UNIX),
        (_LOAD, 0, 0, _SECOND),
        (_AND, 0, 0, _SOCK_TYPES),
        (_EQUALS, 0, 1, _SOCK_STREAM),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _REFUSE),
    ]
