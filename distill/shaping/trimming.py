"""Trim a tokenizer by what a corpus counts."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from distill.core.progress import Progress
from distill.core.results import Coverage
from distill.recipe import Recipe
from distill.shaping.bpe import BpeVocabulary
from distill.shaping.corpus import Corpus, TextCounts, count_tokens, num_tokens
from distill.shaping.pruning import Limits, Pruned, longer_by, prune
from distill.shaping.required import required_ids
from distill.shaping.rewrite import trimmed_tokenizer
from distill.shaping.trimmed import TrimmedVocabulary


@dataclass(frozen=True)
class Trimming:
    """A trimmed vocabulary, its parent, and what it makes of the texts that it was counted by.

    `notes`: what a person should know of those.
    """

    vocabulary: BpeVocabulary
    trimmed: TrimmedVocabulary
    pruned: Pruned
    coverage: list[Coverage]
    notes: list[str]


def trim(recipe: Recipe, parent: Any, corpus: Corpus, *, shown: bool = True) -> Trimming:
    """Return the tokenizer `parent` with the tokens that the corpus needs, to the recipe's limits.

    Raises MismatchError for a tokenizer that cannot be trimmed, DataError for a language of the
    recipe without any text.
    """
    options = recipe.student.vocabulary
    assert options is not None  # nobody trims without
    vocabulary = BpeVocabulary.of(parent)
    with Progress("trim", 2 * corpus.num_sources, "corpora", shown=shown) as bar:
        counts = count_tokens(parent, corpus, vocabulary.num_rows, bar)
        required = required_ids(recipe, parent, vocabulary)
        limits = Limits(options.size, options.max_fertility_loss)
        pruned = prune(vocabulary, counts.counts_VL, required, limits)
        trimmed = trimmed_tokenizer(parent, vocabulary, pruned.kept)
        after = num_tokens(trimmed.tokenizer, corpus, bar)
    coverage = counts.coverage(after, _new_text_loss(vocabulary, counts, required, pruned))
    notes = [*corpus.left.notes, *corpus.notes(), *counts.notes()]
    notes += _beyond(options.max_fertility_loss, coverage)
    return Trimming(vocabulary, trimmed, pruned, coverage, notes)


def _beyond(max_loss: float | None, coverage: Sequence[Coverage]) -> list[str]:
    """Return which languages' new text would be longer than the counted ones may be, if any."""
    if max_loss is None:
        return []
    longer = [
        f"{row.language} {row.new_text_loss:.1%}"
        for row in coverage
        if row.new_text_loss is not None and row.new_text_loss > max_loss
    ]
    if not longer:
        return []
    return [
        f"student.vocabulary.max_fertility_loss {max_loss}: the counted texts keep it, new text of the "
        f"same kind would be longer by more ({', '.join(longer)}): name more of it in "
        "student.vocabulary.texts, or keep more tokens"
    ]


def _new_text_loss(
    vocabulary: BpeVocabulary, counts: TextCounts, required: Collection[int], pruned: Pruned
) -> list[float | None]:
    """Return by how much a tenth of each language's texts grows when the other nine choose the tokens."""
    limits = Limits(len(pruned.kept), None)
    chosen = prune(vocabulary, counts.counts_VL - counts.tenth_VL, required, limits)
    return longer_by(vocabulary, chosen.kept, counts.tenth_VL)
