"""The errors a person can mend, and the hint at what a misspelt name may have meant.

Each message is one line: what is wrong, where, the value, and the way out. The command line prints
the message without a traceback and exits with status 2. Anything else that is raised is a fault of
ours and keeps its traceback.
"""

import difflib
from collections.abc import Iterable

LONGEST_SHOWN = 120  # characters of a value that a message repeats


class DistillError(Exception):
    """Root of every error that the person who runs `distill` can mend."""


class RecipeError(DistillError, ValueError):
    """The recipe, or a value given on the command line, is wrong."""


class DataError(DistillError, ValueError):
    """A file that we read (prompts, answers, a signal shard, a checkpoint) is broken or empty."""


class MismatchError(DistillError, ValueError):
    """Two things that must fit do not: tokenizers, fingerprints, a run folder and its recipe."""


class MissingError(DistillError, FileNotFoundError):
    """A model folder, a stage's result, or an optional package is not there."""


class ServerError(DistillError, ConnectionError):
    """A teacher's server answers, but not in a way that lets the run go on."""


class TrainingError(DistillError, ArithmeticError):
    """Training cannot go on: the loss or the gradient is not finite."""


class Stopped(DistillError):
    """Asked to stop (Ctrl-C, SIGTERM, SIGUSR1); everything done so far is on disk."""


def shown(value: object) -> str:
    """Return a value as a message repeats it, on one line: as Python writes it, cut where it is long.

    Of an error it is the text. A value of 100,000 characters would hide what is wrong with it.
    """
    try:
        text = one_line(str(value)) if isinstance(value, Exception) else repr(value)
    except (ValueError, RecursionError):  # a number of 5,000 digits; lists in lists in lists
        return f"a {type(value).__name__} too large to show"
    return in_short(text, LONGEST_SHOWN)


def one_line(text: str) -> str:
    """Return a text with single spaces for all white space."""
    return " ".join(text.split())


def in_short(text: str, longest: int) -> str:
    """Return a text of at most about `longest` characters: its beginning, its end, and its length."""
    if len(text) <= longest:
        return text
    end = longest // 4
    return f"{text[: longest - end]} ... {text[-end:]} ({len(text):,} characters)"


def did_you_mean(
    name: str, known: Iterable[str], *, num_hints: int = 1, cutoff: float = 0.6
) -> str:
    """Return "did you mean a or b?" of the nearest known names, or "" where none is near.

    A message goes on with what is known where this is empty: `did_you_mean(name, known) or "known:
    ..."`.
    """
    near = nearest_names(name, known, num_hints=num_hints, cutoff=cutoff)
    return f"did you mean {' or '.join(near)}?" if near else ""


def nearest_names(
    name: str, known: Iterable[str], *, num_hints: int = 1, cutoff: float = 0.6
) -> list[str]:
    """Return up to `num_hints` known names that are spelt most like `name`, the nearest first.

    Capitals do not count, and - is as good as _. `cutoff` is the smallest similarity of difflib,
    from 0 to 1, that is still near.
    """
    by_spelling = {_spelling(candidate): candidate for candidate in known}
    near = difflib.get_close_matches(_spelling(name), by_spelling, num_hints, cutoff)
    return [by_spelling[spelling] for spelling in near]


def _spelling(name: str) -> str:
    return name.lower().replace("-", "_")
