"""The texts by which tokens are counted: a run's own, and those that the recipe names."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

from distill.core import shutdown
from distill.core.progress import Progress
from distill.core.results import Coverage
from distill.data.bad_rows import Left
from distill.data.counted_texts import FIELD, counted_texts
from distill.errors import DataError
from distill.recipe import Recipe
from distill.recipe.sections import CountedText
from distill.text.scripts import same_language, scripts_of
from distill.text.words import words

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

BATCH = 1000  # texts that are in memory at once
TENTH = 10  # of the texts one in so many tells how new text fares
LITTLE = 1_000_000  # bytes of a language's text that say little of its other words


@dataclass(frozen=True)
class Corpus:
    """Texts by language: `own` are the prompts and answers, and the recipe's files are read on the way.

    `most_bytes`: of each of the recipe's texts, where they are only tried.
    """

    recipe: Recipe
    own: Mapping[str, Sequence[str]]
    left: Left = field(default_factory=Left)
    most_bytes: int | None = None

    @cached_property
    def languages(self) -> list[str]:
        """Return the recipe's languages, and after them those of other texts."""
        of_texts = [self._language(text) for text in self._texts]
        return list(dict.fromkeys([*self.recipe.languages, *of_texts]))

    def batches(self, bar: Progress, left: Left) -> Iterator[tuple[str, Sequence[str]]]:
        """Yield (language, some texts)."""
        for language, own in self.own.items():
            for batch in _batches(own):
                yield language, batch
        bar.advance(1)
        for text in self._texts:
            num = num_bytes = 0
            for batch in _batches(counted_texts(self.recipe, text, left)):
                num += len(batch)
                num_bytes += _num_bytes(batch)
                bar.say(f"{num:,} texts of {text.source.name}")
                shutdown.check()
                yield self._language(text), batch
                if self.most_bytes is not None and num_bytes > self.most_bytes:
                    break
            bar.advance(1)

    @property
    def num_sources(self) -> int:
        """Return how often `batches` advances a bar."""
        return 1 + len(self._texts)

    def notes(self) -> list[str]:
        """Return what a person should know of its languages."""
        others = [code for code in self.languages if code not in self.recipe.languages]
        return [
            f"{FIELD}: {code} is none of the recipe's languages: its tokens are kept too"
            for code in others
        ]

    @property
    def _texts(self) -> Sequence[CountedText]:
        vocabulary = self.recipe.student.vocabulary
        return [] if vocabulary is None else vocabulary.texts

    def _language(self, text: CountedText) -> str:
        scripts_of(text.language)  # refuses a code that is none
        return same_language(text.language, tuple(self.recipe.languages)) or text.language


@dataclass(frozen=True)
class TextCounts:
    """What a corpus has in each of its languages: tokens by id (float64 [V, L]), words, bytes.

    `tenth_VL`: the tokens of every tenth text alone.
    """

    languages: list[str]
    counts_VL: "NDArray[np.float64]"
    tenth_VL: "NDArray[np.float64]"
    num_words: list[int]
    num_bytes: list[int]

    def notes(self) -> list[str]:
        """Return what a person should know where a language has little text."""
        pairs = zip(self.languages, self.num_bytes, strict=True)
        little = [f"{code} {num / 1e6:.2f} MB" for code, num in pairs if num < LITTLE]
        if not little:
            return []
        return [
            f"student.vocabulary: little text to count tokens in ({', '.join(little)}): words that are "
            "not in it will take more tokens; name some of the user's kind in "
            "student.vocabulary.texts, unless the prompts are all that the student is for"
        ]

    def coverage(
        self, tokens_after: Sequence[int], new_text_loss: Sequence[float | None]
    ) -> list[Coverage]:
        """Return a row for each language.

        `tokens_after`: of its texts in the trimmed vocabulary. `new_text_loss`: as `Coverage` has it.
        """
        totals = [int(total) for total in self.counts_VL.sum(0)]
        sizes = (self.languages, self.num_words, self.num_bytes)
        return [
            Coverage(*row) for row in zip(*sizes, totals, tokens_after, new_text_loss, strict=True)
        ]


def count_tokens(tokenizer: Any, corpus: Corpus, num_rows: int, bar: Progress) -> TextCounts:
    """Count the tokens of a corpus. `num_rows`: of a table by id.

    Raises DataError, with the way out, for a language of the recipe without any text.
    """
    import numpy as np

    languages = corpus.languages
    counts_LV, tenth_LV = np.zeros((2, len(languages), num_rows))
    num_texts = [0] * len(languages)
    num_words, num_bytes = [0] * len(languages), [0] * len(languages)
    for language, texts in corpus.batches(bar, corpus.left):
        place = languages.index(language)
        ids_of_texts = encoded(tokenizer, texts)
        first_tenth = -(num_texts[place] + 1) % TENTH
        for counts_V, ids in (
            (counts_LV[place], ids_of_texts),
            (tenth_LV[place], ids_of_texts[first_tenth::TENTH]),
        ):
            flat = np.fromiter(chain.from_iterable(ids), np.int64)
            counts_V += np.bincount(flat, minlength=num_rows)
        num_texts[place] += len(texts)
        num_words[place] += sum(len(words(text)) for text in texts)
        num_bytes[place] += _num_bytes(texts)
    empty = [code for code, num in zip(languages, counts_LV.sum(1), strict=True) if not num]
    if empty:
        raise no_text_in(corpus.recipe, empty[0])
    return TextCounts(languages, counts_LV.T.copy(), tenth_LV.T.copy(), num_words, num_bytes)


def no_text_in(recipe: Recipe, language: str) -> DataError:
    """Return the error that a language of the recipe has no text."""
    return DataError(
        f"{recipe.source}: student.vocabulary: no text in {language} to count tokens in, so none of its "
        f"own would be kept: add some to {FIELD} ([{{file: ..., language: {language}}}]), or remove it "
        "from languages"
    )


def num_tokens(tokenizer: Any, corpus: Corpus, bar: Progress) -> list[int]:
    """Return how many tokens the corpus has in each of its languages."""
    totals = dict.fromkeys(corpus.languages, 0)
    for language, texts in corpus.batches(bar, Left()):
        totals[language] += sum(map(len, encoded(tokenizer, texts)))
    return list(totals.values())


def encoded(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Return the ids of texts that stand alone, without what a tokenizer adds round them."""
    encodings = tokenizer.backend_tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
    return [encoding.ids for encoding in encodings]


def _num_bytes(texts: Iterable[str]) -> int:
    return sum(len(text.encode()) for text in texts)


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    rest = iter(texts)
    while batch := list(islice(rest, BATCH)):
        yield batch
