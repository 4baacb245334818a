"""student.vocabulary before the teacher has cost anything: what cannot be trimmed, and about how far.

The answers, which count too, are not there yet: what is told is of prompts and named texts alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

from distill.chat.tokenizers import Tokenizers
from distill.data.counted_texts import FIELD, require_text
from distill.data.samples import Prompt
from distill.planning.overlooked import languages_without_prompts
from distill.recipe import Recipe
from distill.recipe.rules import fewer_ids_problem
from distill.shaping.bpe import require_bpe
from distill.shaping.corpus import Corpus, no_text_in
from distill.shaping.coverage import NEW_TEXT, STOPPED, table_lines
from distill.shaping.pruning import MULTIPLE
from distill.shaping.trimming import trim
from distill.text.scripts import same_language, scripts_of

MUCH_LONGER = 0.1  # more tokens in the same text than the other figures of a plan hold for
LONGEST = 5_000_000  # bytes of each named text that a plan reads


@dataclass(frozen=True)
class PlannedVocabulary:
    """About how many tokens a student will have, None if that is not known, and what the plan tells."""

    size: int | None
    text: str


def check_vocabulary(recipe: Recipe, tokenizers: Tokenizers | None) -> None:
    """Raise for a vocabulary that cannot be trimmed as the recipe says.

    MismatchError for a tokenizer that is no BPE (`tokenizers` None: it is not on this machine yet),
    MissingError for a file or data set that is not there, DataError for one without a text,
    RecipeError for a code that is no language's.
    """
    options = recipe.student.vocabulary
    if options is None:
        return
    if tokenizers is not None:
        require_bpe(tokenizers.student)
    for number, text in enumerate(options.texts):
        scripts_of(text.language, f"{recipe.source}: {FIELD}.{number}.language")
        require_text(recipe, text)


def planned_vocabulary(
    recipe: Recipe, tokenizers: Tokenizers | None, prompts: Sequence[Sequence[Prompt]]
) -> PlannedVocabulary | None:
    """Return what trimming will come to, tried on what is there; None where nothing is trimmed."""
    options = recipe.student.vocabulary
    if options is None:
        return None
    own: dict[str, list[str]] = {code: [] for code in recipe.languages}
    for prompt in chain(*prompts):
        own[prompt.language] += [message["content"] for message in prompt.messages]
    languages = tuple(recipe.languages)
    named = {same_language(text.language, languages) for text in options.texts}
    if empty := languages_without_prompts(recipe, prompts, texts=[*filter(None, named)]):
        raise no_text_in(recipe, empty[0])
    has_all = all(texts or code in named for code, texts in own.items())
    if tokenizers is None or not has_all:
        return _untried(recipe, tokenizers)
    corpus = Corpus(recipe, own, most_bytes=LONGEST)
    made = trim(recipe, tokenizers.student, corpus, shown=False)
    num, num_before = len(made.trimmed), len(tokenizers.student)
    first = (
        f"vocabulary: about {num:,} of {num_before:,} tokens stay, by the prompts and at most "
        f"{LONGEST / 1e6:.0f} MB of each named text; the answers will count, too, and keep words of "
        "their own"
    )
    lines = [first, *table_lines(made.coverage), f"  {NEW_TEXT}", *made.notes]
    if options.size is not None and num > options.size:
        why = STOPPED[made.pruned.stopped_by]
        lines.insert(1, f"  more than student.vocabulary.size {options.size:,}: {why}")
    longest = max(made.coverage, key=lambda row: row.loss)
    if longest.loss > MUCH_LONGER:
        lines.append(
            f"warning: texts in {longest.language} become {longest.loss:.0%} longer in tokens: samples of "
            "as many more, and less text in train.max_length, which the hours and gigabytes here do not "
            "count"
        )
    if problem := fewer_ids_problem(recipe.capture, num):
        lines.append(f"warning: so capture would stop: {problem}")
    return PlannedVocabulary(num, "\n".join(lines))


def _untried(recipe: Recipe, tokenizers: Tokenizers | None) -> PlannedVocabulary:
    why = "the tokenizer is not on this machine yet"
    if tokenizers is not None:
        why = "a language has no text before the teacher has written some"
    options = recipe.student.vocabulary
    assert options is not None  # nothing is planned without
    size = options.size
    if size is None:
        text = f"vocabulary: how many tokens stay is not known ({why}): reckoned as if all did"
        return PlannedVocabulary(None, text)
    size = size // MULTIPLE * MULTIPLE
    text = f"vocabulary: reckoned as {size:,} tokens ({why})"
    if options.max_fertility_loss is not None:
        text += "; student.vocabulary.max_fertility_loss may keep more"
    return PlannedVocabulary(size, text)
