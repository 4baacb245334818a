"""A tokenizer that has only some of its parent's tokens, and which of the parent's each one is.

The stage `trim` writes it, and the student has it from then on. The teacher keeps the parent's ids:
a sequence is shown to it as the parent's ids of the trimmed tokens, so that what it says of each
position is about the student's token there.

    trim/tokenizer/        the tokenizer, as transformers saves it
    trim/parent_ids.json   the parent's id of each of its ids
    trim/kept.jsonl        the samples of generate/kept.jsonl in its ids
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from distill.core.files import files_under
from distill.core.run_folder import RunFolder
from distill.core.stored_json import broken, read_json, write_json
from distill.models import load
from distill.recipe import Recipe

TOKENIZER, PARENT_IDS, KEPT = "tokenizer", "parent_ids.json", "kept.jsonl"
# how a signal tells of tokens that were taken away (signals/pieces.py); at first they were dropped
TOLD = "in pieces"


@dataclass(frozen=True)
class TrimmedVocabulary:
    """The trimmed tokenizer, and the parent's id of each of its ids: one for each, ascending."""

    tokenizer: Any
    parent_ids: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.parent_ids)

    def parents_of(self, ids: Sequence[int]) -> list[int]:
        """Return the parent's ids of trimmed ones: what the teacher is shown."""
        return [self.parent_ids[i] for i in ids]

    def write(self, folder: Path) -> list[Path]:
        """Write it below `folder`, and return the files."""
        self.tokenizer.save_pretrained(folder / TOKENIZER)
        write_json(folder / PARENT_IDS, {"parent_ids": list(self.parent_ids)})
        return [*sorted(files_under(folder / TOKENIZER)), folder / PARENT_IDS]

    @classmethod
    def read(cls, folder: Path) -> "TrimmedVocabulary":
        """Return what `write` wrote. Raises DataError where it is broken."""
        way_out = "run the same command with --redo trim"
        path = folder / PARENT_IDS
        stored = read_json(path, way_out).get("parent_ids")
        tokenizer = load.load_tokenizer(str(folder / TOKENIZER))
        if not isinstance(stored, list) or len(stored) != len(tokenizer):
            raise broken(path, f"not the {len(tokenizer):,} ids of the tokenizer", way_out)
        if not _ascend(stored):
            raise broken(path, "its ids are not whole numbers that ascend", way_out)
        return cls(tokenizer, tuple(stored))


def _ascend(values: list[Any]) -> bool:
    are_ids = all(type(value) is int and value >= 0 for value in values)
    return are_ids and all(a < b for a, b in pairwise(values))


def trimmed_vocabulary(recipe: Recipe, folder: RunFolder) -> TrimmedVocabulary | None:
    """Return what the stage `trim` made; None where the recipe trims nothing."""
    if recipe.student.vocabulary is None:
        return None
    return TrimmedVocabulary.read(folder.stage("trim"))


def tells_pieces(recipe: Recipe) -> bool:
    """Return whether the signal is about a trimmed student's tokens: chunks are about the teacher's."""
    return recipe.student.vocabulary is not None and recipe.capture.signal not in ("chunks", "none")


def kept_path(recipe: Recipe, folder: RunFolder) -> Path:
    """Return the file of the samples in the ids that the student learns.

    The stage that reads it has `samples_stage` among its `reads`.
    """
    return folder.stage(samples_stage(recipe)) / KEPT


def samples_stage(recipe: Recipe) -> str:
    """Return the stage that makes those samples: `generate`, or `trim` where the recipe trims."""
    return next(iter(trim_stage(recipe)), "generate")


def trim_stage(recipe: Recipe) -> tuple[str, ...]:
    """Return the stage `trim`, for the `reads` of one that reads it; nothing where none is trimmed."""
    return () if recipe.student.vocabulary is None else ("trim",)
