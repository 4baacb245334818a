"""Trim a tokenizer by what a corpus counts."""

from dataclasses import dataclass
from typing import Any

from distill.core.progress import Progress
from distill.core.results import Coverage
from distill.recipe import Recipe
from distill.shaping.bpe import BpeVocabulary
from distill.shaping.corpus import Corpus, count_tokens, num_tokens
from distill.shaping.pruning import Limits, Pruned, prune
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
    notes = [*corpus.left.notes, *corpus.notes(), *counts.notes()]
    return Trimming(vocabulary, trimmed, pruned, counts.coverage(after), notes)
