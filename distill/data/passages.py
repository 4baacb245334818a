"""Passages of texts, which a student learns to continue (`passages` beside a source of prompts).

A text is cut where a sentence ends. The first words of a passage are what is asked, the others the
answer: so a corpus that nobody asks anything about teaches like any other answers (`answers: given`).
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator

from distill.text.words import is_unspaced

REQUEST = "Continue this text."  # in English, as that for a translation
OPENING = 0.1  # share of a passage that is shown
LONGEST = 1.3  # of the wanted length: so much is not cut once more
SHORTEST = 0.25  # of the wanted length: a text, or the end of one, that is shorter is no passage
# characters: a line that was broken for its length has so many; a heading may have fewer
WRAPPED = 40
_CLOSED = r"[\"'”’»)\]」』]*"
_SPACE = re.compile(r"\s")
_END_OF_SENTENCE = re.compile(rf"[.!?…]{_CLOSED}(?=\s)|[。！？।॥։؟۔።]{_CLOSED}|\n")
_IS_ENDED = re.compile(rf"[.!?…。！？।॥։؟۔።:;：；]{_CLOSED}$")


def passages_of(text: str, length: int) -> Iterator[str]:
    """Yield the passages of a text, each of about `length` characters; what is shorter is left out."""
    start = 0
    while len(text) - start > LONGEST * length:
        end = _place_to_cut(text, start, length)
        yield text[start:end].strip()
        start = end
    rest = text[start:].strip()
    if len(rest) >= SHORTEST * length:
        yield rest


def unwrapped(lines: Iterable[str]) -> str:
    """Return the lines of a file as one text; an empty line parts paragraphs.

    A long line that no sentence ends was broken by whoever wrote the file, and goes on in the next.
    """
    parts: list[str] = []
    last = ""
    for line in lines:
        if line:
            if parts:
                parts.append(_between(last, line) if last else "\n\n")
            parts.append(line)
        last = line
    return "".join(parts)


def _between(line: str, following: str) -> str:
    """Return what stands between two lines of a paragraph."""
    if len(line) < WRAPPED or _IS_ENDED.search(line):
        return "\n"
    return "" if is_unspaced(line[-1]) or is_unspaced(following[0]) else " "


def _place_to_cut(text: str, start: int, length: int) -> int:
    """Return where the last sentence ends that does in the second half of `length`; else a word."""
    middle, end = start + length // 2, start + length
    sentences = [found.end() for found in _END_OF_SENTENCE.finditer(text, middle, end)]
    if sentences:
        return sentences[-1]
    space = text.rfind(" ", middle, end)
    return space if space > 0 else _before_a_character(text, end)


def _before_a_character(text: str, place: int) -> int:
    """Return the first place from `place` on that does not part a character from its marks."""
    while place < len(text) and (
        unicodedata.category(text[place]).startswith("M") or text[place] in "\u200c\u200d"
    ):
        place += 1
    return place


def opening_and_rest(passage: str) -> tuple[str, str]:
    """Return the first words of a passage, a tenth of it or somewhat more, and what follows them."""
    first = max(1, int(OPENING * len(passage)))
    space = _SPACE.search(passage, first, 2 * first + 20)
    place = _before_a_character(passage, first) if space is None else space.start()
    return passage[:place].strip(), passage[place:].strip()
