"""Two tokenizers' tokens of one answer, aligned by bytes.

Cuts are where both have a boundary, and the chunks are what lies between two cuts: they tile the
bytes that both have. Never by decoded text or by positions: half an emoji, or one token more at the
beginning, must not shift all that follows (TRL issue 5885). Linear in the number of tokens.
"""

import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import accumulate
from operator import sub
from typing import NamedTuple

from distill.signals.alignment import CHUNK, END, LEFT_OUT, SPLIT_DIGITS, Alignment

_ASCII_NUMBERS = re.compile(rb"[0-9]{2,}")


class Part(NamedTuple):
    """Bytes that both texts have, and where they begin in each."""

    teacher: int
    student: int
    length: int


def align(
    teacher: Sequence[bytes],
    student: Sequence[bytes],
    ended: tuple[bool, bool] = (False, False),
) -> Alignment:
    """Return the segments of two answers.

    teacher, student: the bytes of each token, b"" for a special one; without the token that ends
    the answer, which comes after them where `ended` says so (teacher's, student's).
    """
    if b"" in teacher or b"" in student:
        found = _with_special(teacher, student)
    else:
        found = _aligned(teacher, student)
    if all(ended):
        found.add(1, 1, END)
    else:
        found.add(int(ended[0]), int(ended[1]), LEFT_OUT)
    return found


def _aligned(teacher: Sequence[bytes], student: Sequence[bytes]) -> Alignment:
    """Do it for tokens that all have bytes."""
    text, others = b"".join(teacher), b"".join(student)
    # how many tokens end at each place, or before
    in_teacher, in_student = _places(teacher), _places(student)
    found = Alignment()
    done = (0, 0)
    for part in common_parts(text, others):
        shift = part.student - part.teacher
        own = in_student if shift == 0 else {p - shift: n for p, n in in_student.items()}
        stop = part.teacher + part.length
        cuts = sorted(in_teacher.keys() & own.keys())
        if part.length < len(text):
            cuts = [place for place in cuts if part.teacher <= place <= stop]
        if len(cuts) < 2:
            continue
        numbers = [list(map(places.__getitem__, cuts)) for places in (in_teacher, own)]
        found.add(numbers[0][0] - done[0], numbers[1][0] - done[1], LEFT_OUT)
        done = (numbers[0][-1], numbers[1][-1])
        kinds = [CHUNK] * (len(cuts) - 1)
        alone = in_teacher.keys() ^ own.keys()
        for place in _inside_numbers(text) if alone else ():
            if place in alone and cuts[0] < place < cuts[-1]:
                kinds[bisect_right(cuts, place) - 1] = SPLIT_DIGITS
        found.teacher += map(sub, numbers[0][1:], numbers[0])
        found.student += map(sub, numbers[1][1:], numbers[1])
        found.kinds += kinds
    found.add(len(teacher) - done[0], len(student) - done[1], LEFT_OUT)
    return found


def _places(tokens: Sequence[bytes]) -> dict[int, int]:
    return dict(zip(accumulate(map(len, tokens), initial=0), range(len(tokens) + 1), strict=True))


def _with_special(teacher: Sequence[bytes], student: Sequence[bytes]) -> Alignment:
    """Do it where some tokens have no bytes: those are left out, and what they stand within."""
    numbers = [[i for i, token in enumerate(tokens) if token] for tokens in (teacher, student)]
    found = Alignment()
    done, at = [0, 0], [0, 0]
    plain = _aligned(list(filter(None, teacher)), list(filter(None, student)))
    for *counts, kind in plain.segments():
        if 0 in counts:
            at = [start + count for start, count in zip(at, counts, strict=True)]
            continue  # it comes with the next gap
        starts = [numbers[side][at[side]] for side in (0, 1)]
        at = [start + count for start, count in zip(at, counts, strict=True)]
        stops = [numbers[side][at[side] - 1] + 1 for side in (0, 1)]
        found.add(starts[0] - done[0], starts[1] - done[1], LEFT_OUT)
        sizes = [stop - start for start, stop in zip(starts, stops, strict=True)]
        found.add(sizes[0], sizes[1], kind if sizes == counts else LEFT_OUT)
        done = stops
    found.add(len(teacher) - done[0], len(student) - done[1], LEFT_OUT)
    return found


@lru_cache(maxsize=1)
def _numbers() -> "re.Pattern[bytes]":
    """Return a pattern of two digits or more, of any script, in UTF-8."""
    by_prefix: dict[bytes, list[int]] = {}
    for point in range(0x30, 0x20000):
        if chr(point).isdecimal():
            written = chr(point).encode()
            by_prefix.setdefault(written[:-1], []).append(written[-1])
    classes = [
        re.escape(prefix) + b"[" + b"".join(re.escape(bytes([b])) for b in lasts) + b"]"
        for prefix, lasts in by_prefix.items()
    ]
    return re.compile(b"(?:" + b"|".join(classes) + b"){2,}")


def _inside_numbers(text: bytes) -> list[int]:
    """Return the places between two digits of a number."""
    places: list[int] = []
    for match in (_ASCII_NUMBERS if text.isascii() else _numbers()).finditer(text):
        lengths = (len(digit.encode()) for digit in match[0].decode())
        places += list(accumulate(lengths, initial=match.start()))[1:-1]
    return places


def common_parts(a: bytes, b: bytes) -> list[Part]:
    """Return what two texts have in common, in order, where they differ by white space and at one place.

    A template may write an empty block of reasoning before an answer, or strip what is round it.
    Found from the end, as answers end alike, then from the beginning.
    """
    if a == b:
        return [Part(0, 0, len(a))] if a else []
    from_end = list(_from_end(a, b))[::-1]
    stop_a, stop_b = from_end[0][:2] if from_end else (len(a), len(b))
    reversed_a, reversed_b = a[:stop_a][::-1], b[:stop_b][::-1]
    from_start = [
        Part(stop_a - p.teacher - p.length, stop_b - p.student - p.length, p.length)
        for p in _from_end(reversed_a, reversed_b)
    ]
    return [*from_start, *from_end]


def _from_end(a: bytes, b: bytes) -> Iterator[Part]:
    """Yield the common parts from the last on, up to a difference that is no white space."""
    while a and b:
        length = _common_suffix(a, b)
        a, b = a[: len(a) - length], b[: len(b) - length]
        if length:
            yield Part(len(a), len(b), length)
        stripped_a, stripped_b = a.rstrip(), b.rstrip()
        if (stripped_a, stripped_b) == (a, b):
            return
        a, b = stripped_a, stripped_b


def _common_suffix(a: bytes, b: bytes) -> int:
    """Return the length of the longest common suffix."""
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        if a[len(a) - middle :] == b[len(b) - middle :]:
            low = middle
        else:
            high = middle - 1
    return low
