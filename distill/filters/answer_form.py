"""The form of an answer: how it ended, how long it is, and whether something in it is left open."""

import re

from distill.filters.base import Answer, FilterContext
from distill.text.invisible import is_invisible

# marks of chat templates, written out as text; what a broken decoder leaves
_MARKS = re.compile(r"<[|｜][\w▁]{2,40}[|｜]>|</?think>|\[/?INST\]|<(?:start|end)_of_turn>")
_BROKEN = re.compile(r"[\ufffd\ud800-\udfff]")
_FENCE = re.compile(r"^[ \t]*(`{3,}|~{3,})(.*)$", re.MULTILINE)


def refused_by_server(answer: Answer, context: FilterContext) -> str | None:
    """Return that the server gave an error instead of an answer, or None."""
    return server_error(answer.finish_reason)


def truncated(answer: Answer, context: FilterContext) -> str | None:
    """Return what cut the answer before it ended by itself, or None."""
    if answer.is_given and answer.finish_reason == "length":
        return "<think> in it is not closed"
    return cut_by(answer.finish_reason)


def server_error(finish_reason: str) -> str | None:
    """Return that a text ended by an error of the server, or None."""
    return "the server refused this request" if finish_reason == "error" else None


def cut_by(finish_reason: str) -> str | None:
    """Return what cut a text before it ended by itself, or None."""
    return None if finish_reason == "stop" else f"the answer ended by {finish_reason}"


def empty(answer: Answer, context: FilterContext) -> str | None:
    """Return that there is no answer, or None."""
    return "no answer" if is_invisible(answer.answer_text) else None


def too_short(answer: Answer, context: FilterContext) -> str | None:
    """Return the length of an answer that is too short, or None.

    In characters, not words: a Chinese answer is one word long.
    """
    length = len(answer.answer_text.strip())
    least = context.options.min_characters
    return f"{length} characters, at least {least}" if length < least else None


def too_long(answer: Answer, context: FilterContext) -> str | None:
    """Return the length of an answer that is too long, or None; in characters likewise."""
    length = len(answer.answer_text.strip())
    most = context.options.max_characters
    return f"{length} characters, at most {most}" if length > most else None


def bad_format(answer: Answer, context: FilterContext) -> str | None:
    """Return what of the answer's format is broken, or None."""
    return format_problem(answer.answer_text)


def format_problem(text: str) -> str | None:
    """Return what is left in the text or never closed, or None.

    A template's marks and broken characters must not be left in it; blocks of code and a \\boxed{}
    must be closed.
    """
    leftover = _BROKEN.search(text)
    if leftover is None and ("<" in text or "INST" in text):
        leftover = _MARKS.search(text)
    if leftover is not None:
        return f"{leftover[0]!r} is left in it"
    fence = _open_fence(text)
    if fence:
        return f"a block that {fence} opens is not closed"
    boxed = text.rfind("\\boxed{")
    if boxed >= 0 and text.count("{", boxed) > text.count("}", boxed):
        return f"not closed: {text[boxed : boxed + 40]!r}"
    return None


def _open_fence(text: str) -> str:
    """Return the fence of a block of code that is still open at the end, or nothing."""
    if "```" not in text and "~~~" not in text:
        return ""
    fence = ""
    for line in _FENCE.finditer(text):
        if not fence:
            fence = line[1]
        elif line[1].startswith(fence) and not line[2].strip():
            fence = ""
    return fence
