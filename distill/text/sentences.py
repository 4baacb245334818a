"""Sentences of a text in any script, and the part of it that says something about its language."""

import re

# A full stop ends a sentence only before a space: 3.5 and e.g. U.S. inside a word stay together.
# Thai and Lao separate sentences (and clauses) by a space.
_SENTENCE_END = re.compile(
    r"""(?<=[.!?])["'”’»)\]]*\s+"""
    r"""|(?<=[。！？｡।॥።፧፨။។៕؟۔])["'”’»」』）]*\s*"""
    r"""|(?<=[฀-໿])\s+(?=[฀-໿])"""
    r"""|\n+"""
)

_CODE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]*`", re.S)
# Pandoc's rule: no space inside the dollars and no digit after them, so that "$5 and $6" is not a
# formula.
_LATEX = re.compile(
    r"\$\$.*?\$\$"
    r"|\\\[.*?\\\]"
    r"|\\\(.*?\\\)"
    r"|\$(?=\S)[^$\n]{1,300}?(?<=\S)\$(?!\d)"
    r"|\\begin\{(\w+\*?)\}.*?\\end\{\1\}"
    r"|\\[a-zA-Z]+\*?",
    re.S,
)
_ADDRESS = re.compile(r"https?://\S+|www\.\S+|\S+@\S+\.\w+|</?[a-zA-Z][^<>\n]{0,200}>")
_DIGITS = re.compile(r"\d+")
_GREEK_SYMBOL = re.compile(r"(?<![Ͱ-Ͽ])[Ͱ-Ͽ](?![Ͱ-Ͽ])")

# Titles, names, terms and sayings are quoted, given in brackets, or set in italics.
_QUOTATION = re.compile(
    r"""“[^”\n]{1,300}”|"[^"\n]{1,300}"|«[^»\n]{1,300}»|‘[^’\n]{1,300}’"""
    r"""|「[^」\n]{1,300}」|『[^』\n]{1,300}』|《[^》\n]{1,300}》"""
    r"""|\([^()\n]{1,200}\)|（[^（）\n]{1,200}）"""
    r"""|(?<!\*)\*(?![*\s])[^*\n]{1,100}\*(?!\*)|(?<!\w)_[^_\n]{1,100}_(?!\w)"""
)


def sentences(text: str) -> list[str]:
    """Cut at . ! ? and their likes in Chinese, Hindi, Amharic, Burmese, Khmer, Arabic and Urdu.

    Thai and Lao are cut at spaces.
    """
    pieces = (part.strip() for part in _SENTENCE_END.split(text) if part)
    return [piece for piece in pieces if piece]


def prose(text: str) -> str:
    """Return the text without what says nothing about language.

    That is code, LaTeX, addresses, tags, digits and single Greek letters.
    """
    if "`" in text:
        text = _CODE.sub(" ", text)
    if "$" in text or "\\" in text:
        text = _LATEX.sub(" ", text)
    text = _ADDRESS.sub(" ", text)
    return _GREEK_SYMBOL.sub(" ", _DIGITS.sub("", text))


def without_quotations(text: str) -> str:
    """Return the text without what it quotes, brackets or sets in italics."""
    return _QUOTATION.sub(" ", text)
