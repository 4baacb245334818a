"""Write into an error's advice the very command that its reader has to type.

An error is made far from the command line and says "run `distill capture RECIPE`". Without its
overrides (`run_folder=...`) that command would start another run.
"""

import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager

from distill.errors import DistillError
from distill.recipe.recipe import Recipe

# a word, values for this command alone, a stage to make anew
_ADVISED = re.compile(r"`distill ([a-z]+) RECIPE((?: [a-z_.]+=[^\s`]+)*)(?: --redo ([a-z]+))?`")


@contextmanager
def advising(recipe: Recipe) -> Iterator[None]:
    """Let the errors of a block advise commands for this recipe."""
    try:
        yield
    except DistillError as error:
        error.args = (in_full(str(error), recipe), *error.args[1:])
        raise


def in_full(advice: str, recipe: Recipe) -> str:
    """Return a text with this recipe, and its overrides, in each "`distill ... RECIPE`"."""
    return _ADVISED.sub(lambda found: f"`{_command(recipe, *found.groups())}`", advice)


def advised_instead(advice: str, word: str) -> str:
    """Return a text that advises the command `word` in place of each that makes something."""

    def instead(found: re.Match[str]) -> str:
        if found[1] == "fetch":  # it makes nothing: what is missing is missing to every command
            return found[0]
        return f"`distill {word} RECIPE`" + (" with --redo" if found[3] else "")

    return _ADVISED.sub(instead, advice)


def _command(recipe: Recipe, word: str, values: str, redo: str | None) -> str:
    """Return a command for the shell; for a recipe made in Python, which no shell can name, a call."""
    if recipe.typed is None:
        call = _call(word, redo)
        return f"{call}` with `{values.strip()}" if values else call
    options = [] if redo is None else ["--redo", redo]
    return shlex.join(["distill", word, *recipe.typed, *values.split(), *options])


def _call(word: str, redo: str | None) -> str:
    if word == "shape":
        return "distill.race.shape.run(recipe)"
    if word == "fetch":
        return "distill.pilot.fetch.run(recipe)"
    arguments = ["recipe"]
    if word != "run":
        arguments.append(f"stages=[{word!r}]")
    if redo is not None:
        arguments.append(f"redo={redo!r}")
    return f"distill.run({', '.join(arguments)})"
