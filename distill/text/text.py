"""A text that several filters read: what they need of it is worked out once."""

from dataclasses import dataclass
from functools import cached_property

from distill.text.scripts import letters_by_script, weighed
from distill.text.sentences import prose, sentences, without_quotations
from distill.text.words import folded, words_of_folded


@dataclass(frozen=True)
class Text:
    """A text with its folded form, words, letters and sentences, each made when first asked for.

    These take several times the memory of the text itself, so a Text is made for the filters of one
    answer and then forgotten.
    """

    raw: str

    @cached_property
    def folded(self) -> str:
        """Return the text in NFKC and casefolded."""
        return folded(self.raw)

    @cached_property
    def words(self) -> tuple[str, ...]:
        """Return its units, as of `words.words`."""
        return words_of_folded(self.folded)

    @cached_property
    def letters(self) -> dict[str, int]:
        """Count the letters of each script it has, those of dense scripts counted as three."""
        return weighed(letters_by_script(self.raw))

    @cached_property
    def sentences(self) -> "list[Text]":
        """Return its sentences, as of `sentences.sentences`."""
        return [Text(sentence) for sentence in sentences(self.raw)]

    @cached_property
    def prose(self) -> "Text":
        """Return the text without code, formulas and addresses, which say nothing about its language."""
        return Text(prose(self.raw))

    @cached_property
    def without_quotations(self) -> "Text":
        """Return the text without what it quotes; the text itself where it quotes nothing."""
        rest = without_quotations(self.raw)
        return self if rest == self.raw else Text(rest)
