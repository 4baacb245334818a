"""What a teacher says in the pieces of its student's tokens, reckoned plainly: token by token in float64."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from distill.models.load import load_tokenizer
from distill.shaping.reencode import Reencoder
from distill.shaping.trimmed import TrimmedVocabulary


def pieces_of(teacher, vocabulary: TrimmedVocabulary) -> dict[int, list[int]]:
    """Return the student's pieces of each token that was taken away. `teacher`: its folder."""
    return Reencoder.of(load_tokenizer(str(teacher)), vocabulary).pieces_of_removed()


def in_pieces(
    logp_TC: Tensor, answer_ids: Sequence[int], kept: Sequence[int], pieces: Mapping[int, list[int]]
) -> Tensor:
    """Return the log-probs of the student's ids at each token of its answer [T, V].

    logp_TC: the teacher's, which has read the answer's tokens before.
    """
    whole, within, rows = 1.0, [], []
    for logp_C, label in zip(logp_TC.double(), answer_ids, strict=True):
        p = logp_C.exp()
        written = p[list(kept)].sum() + p[list(pieces)].sum()
        between = p[list(kept)]
        for token, split in pieces.items():
            between[split[0]] += p[token]
        row = whole * between / written
        for rest, mass in within:
            row[rest[0]] += mass
        rows.append(row.log())
        begun = [(s[1:], whole * p[t] / written) for t, s in pieces.items() if s[0] == label]
        went_on = [(rest[1:], mass) for rest, mass in within if rest[0] == label]
        alone = whole * p[kept[label]] / written + sum(m for rest, m in went_on if not rest)
        total = row[label]
        whole = alone / total
        within = [(rest, mass / total) for rest, mass in begun + went_on if rest]
    return torch.stack(rows)
