"""Which tokens of a teacher and of a student of another tokenizer are the same bytes of an answer.

chat/byte_chunks.py finds them; `capture` stores them beside the signal, one row a sample, and
training sums what the signal says of the teacher's tokens over them. No torch.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

LEFT_OUT, CHUNK, SPLIT_DIGITS, END, CLOSED = range(5)  # kinds of segment
LEARNT = (CHUNK, END, CLOSED)
# A chunk that the teacher would go on after, within the word, is joined to the next one: the two
# tokenizers' likelihoods of a part of a word cannot be compared (arXiv 2503.20083).
LEAST_BOUNDARY = math.log(0.1)
ALIGNMENT_FILE = "chunks.jsonl"


@dataclass
class Alignment:
    """Segments that hold all tokens of both, in order: so many of the teacher's and of the student's.

    kinds: CHUNK = they are the same bytes, and a word may begin after them; CLOSED = they are the
    same bytes, and no token of either vocabulary begins with their last one and is longer: that a
    boundary follows is certain; END = they end the answer, as one class of tokens;
    SPLIT_DIGITS = the same bytes, but a number in them is split otherwise: nothing is learnt from
    it; LEFT_OUT = they have no counterpart (a template's text, a special token, white space that
    one of the two has not), or no word begins after them.
    """

    teacher: list[int] = field(default_factory=list)
    student: list[int] = field(default_factory=list)
    kinds: list[int] = field(default_factory=list)

    def add(self, teacher: int, student: int, kind: int) -> None:
        """Add a segment; one without tokens is none."""
        if teacher or student:
            self.teacher.append(teacher)
            self.student.append(student)
            self.kinds.append(kind)

    def segments(self) -> list[tuple[int, int, int]]:
        """Return (tokens of the teacher, tokens of the student, kind) of each."""
        return list(zip(self.teacher, self.student, self.kinds, strict=True))

    def count(self, kind: int) -> int:
        return self.kinds.count(kind)

    @property
    def num_tokens_left_out(self) -> int:
        """Return how many of the student's tokens nothing is learnt from but the text."""
        return sum(n for n, kind in zip(self.student, self.kinds, strict=True) if kind == LEFT_OUT)

    def row(self) -> dict[str, Any]:
        return {"teacher": self.teacher, "student": self.student, "kinds": self.kinds}


def joined(
    alignment: Alignment, boundary_logp_T: Sequence[float], is_closed: Sequence[bool]
) -> Alignment:
    """Return the same, with each chunk joined to the next where a boundary after it is not expected.

    boundary_logp_T: the teacher's log-prob that a word begins with its token t, or the answer ends;
    NaN where that is not known: there nothing is joined. is_closed: of each segment, whether its
    last tokens are closed in both vocabularies. What cannot be joined, as no chunk follows, is left
    out.
    """
    found = Alignment()
    teacher = student = position = 0
    for (m, n, kind), closed in zip(alignment.segments(), is_closed, strict=True):
        position += m
        if kind != CHUNK:
            found.add(teacher, student, LEFT_OUT)
            found.add(m, n, kind)
            teacher = student = 0
            continue
        teacher, student = teacher + m, student + n
        is_last = position == len(boundary_logp_T)
        # of NaN too
        if closed or is_last or not boundary_logp_T[position] < LEAST_BOUNDARY:
            found.add(teacher, student, CLOSED if closed else CHUNK)
            teacher = student = 0
    found.add(teacher, student, LEFT_OUT)
    return found


class PackedAlignment(NamedTuple):
    """An alignment in little memory: int32 [segments] each."""

    teacher: "NDArray[np.int32]"
    student: "NDArray[np.int32]"
    kinds: "NDArray[np.int32]"

    @classmethod
    def of_row(cls, row: dict[str, Any]) -> "PackedAlignment":
        """Return what `Alignment.row` wrote. Raises ValueError, KeyError or TypeError for another row."""
        import numpy as np

        columns = [np.asarray(row[name], np.int32) for name in ("teacher", "student", "kinds")]
        if len({column.shape for column in columns}) != 1 or columns[0].ndim != 1:
            raise ValueError("columns of different lengths")
        if any((column < 0).any() for column in columns):
            raise ValueError("a count below 0")
        return cls(*columns)
