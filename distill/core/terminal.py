"""What is printed of others' text: answers, prompts, names of files, what a server says.

A terminal obeys escape sequences: an answer could change its title, forge the lines above, or write
into the clipboard. So everything that is printed passes through a guard, which shows control
characters as `\\x1b`; only what we style ourselves goes past it.
"""

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

_CONTROLS = [*range(0x20), *range(0x7F, 0xA0)]  # C0, DEL and C1
_BIDI = [*range(0x202A, 0x202F), *range(0x2066, 0x206A)]  # embeddings, overrides and isolates
_KEPT = ("\n", "\t")
_SHOWN = {
    code: f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
    for code in (*_CONTROLS, *_BIDI)
    if chr(code) not in _KEPT
}
_ANY = re.compile(f"[{''.join(map(re.escape, map(chr, _SHOWN)))}]")
_OF_TQDM = re.compile(r"\r|(?:\x1b\[A)+\Z")  # how progress bars of other packages begin a write


def printable(text: str) -> str:
    """Return a text with its control characters and overrides of the direction of writing shown.

    Newlines and tabs stay, and so do the joiners and marks that scripts need.
    """
    return text.translate(_SHOWN) if _ANY.search(text) else text


class Guard:
    """A stream that shows control characters; `raw` is the stream behind it."""

    def __init__(self, raw: TextIO):
        self.raw = raw

    def write(self, text: str) -> int:
        begin = _OF_TQDM.match(text)
        kept = begin.group() if begin else ""
        self.raw.write(kept + printable(text[len(kept) :]))
        return len(text)

    def writelines(self, lines: list[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.raw, name)


def write_news(text: str) -> None:
    """Write a line to standard error at once, whatever the main thread is printing."""
    with suppress(OSError):  # nobody reads it, or the disk is full
        os.write(2, f"\ndistill: {printable(text)}\n".encode())


def raw(stream: TextIO) -> TextIO:
    """Return the stream behind the guard, for text whose escape sequences are our own."""
    return stream.raw if isinstance(stream, Guard) else stream


def guard() -> None:
    """Put a guard before standard output and standard error, where there is none."""
    if not isinstance(sys.stdout, Guard):
        sys.stdout = Guard(sys.stdout)  # pyright: ignore[reportAttributeAccessIssue]
    if not isinstance(sys.stderr, Guard):
        sys.stderr = Guard(sys.stderr)  # pyright: ignore[reportAttributeAccessIssue]


@contextmanager
def guarded() -> Iterator[None]:
    """Guard both streams within the block.

    They stay so where a fault leaves it: Python prints its traceback only then.
    """
    before = sys.stdout, sys.stderr
    guard()
    is_fault = False
    try:
        yield
    except Exception:
        is_fault = True
        raise
    finally:
        if not is_fault:
            sys.stdout, sys.stderr = before
