"""The filter of system calls, instruction by instruction, as the kernel runs it."""

import errno
import struct

import pytest

from distill.tasks.box import seccomp

ALLOWED, KILLED = 0x7FFF0000, 0x80000000
REFUSED = 0x50000 | errno.EPERM
ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
# read, write, openat, execve, wait4, futex, mmap
NEEDED = {"x86_64": (0, 1, 257, 59, 61, 202, 9), "aarch64": (63, 64, 56, 221, 260, 98, 222)}


def result(machine, number, *arguments, architecture=None, may_leave_session=True):
    """Interpret the filter on a system call."""
    code = seccomp._filter(machine, may_leave_session)
    steps = list(struct.iter_unpack("=HBBI", code))
    values = [*arguments, *[0] * (6 - len(arguments))]
    kind = ARCHITECTURES[machine] if architecture is None else architecture
    data = struct.pack("=iIQ6Q", number, kind, 0, *values)
    place = accumulator = 0
    while True:
        operation, if_true, if_false, constant = steps[place]
        place += 1
        if operation == 0x06:
            return constant
        if operation == 0x20:
            accumulator = struct.unpack_from("=I", data, constant)[0]
        elif operation == 0x54:
            accumulator &= constant
        else:
            holds = {
                0x15: accumulator == constant,
                0x35: accumulator >= constant,
                0x45: bool(accumulator & constant),
            }[operation]
            place += if_true if holds else if_false


@pytest.mark.parametrize("machine", ARCHITECTURES)
def test_each_machine_refuses_what_is_denied_and_allows_the_rest(machine):
    column = list(ARCHITECTURES).index(machine)
    for name, numbers in seccomp._DENIED.items():
        assert result(machine, numbers[column]) == REFUSED, name
    for number in NEEDED[machine]:
        assert result(machine, number) == ALLOWED
    others = set(range(450)) - {numbers[column] for numbers in seccomp._DENIED.values()}
    others -= {seccomp._SOCKETPAIR[column], seccomp._CLONE3[column]}
    assert {result(machine, number) for number in others} == {ALLOWED}


@pytest.mark.parametrize("machine", ARCHITECTURES)
def test_pairs_of_streams_and_plain_children_are_allowed(machine):
    column = list(ARCHITECTURES).index(machine)
    pair, clone = seccomp._SOCKETPAIR[column], seccomp._CLONE[column]
    assert result(machine, pair, 1, 1) == result(machine, pair, 1, 1 | 0o2000000) == ALLOWED
    for arguments in ((1, 2), (1, 5), (2, 1), (40, 1), (1 << 32 | 1, 2)):
        assert result(machine, pair, *arguments) == REFUSED
    assert result(machine, clone, 17) == result(machine, clone, 0x3D0F00) == ALLOWED
    for flag in (0x20000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000):
        assert result(machine, clone, flag | 17) == REFUSED
    assert result(machine, 435) == 0x50000 | errno.ENOSYS  # clone3: its flags cannot be read


def test_other_sets_of_system_calls_are_closed():
    assert result("x86_64", 0x40000000 | 41) == result("x86_64", 0x40000000) == REFUSED
    assert result("x86_64", 359, architecture=0x40000003) == KILLED  # a 32-bit program's socket
    assert result("x86_64", 112) == ALLOWED
    assert result("x86_64", 112, may_leave_session=False) == REFUSED


def test_a_machine_whose_numbers_are_not_known_has_no_filter():
    with pytest.raises(OSError, match="no filter is known for riscv64"):
        seccomp._filter("riscv64", True)
