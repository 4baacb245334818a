"""Check paths that a recipe gives, before anything is looked for there."""

import os
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator

from distill.errors import in_short

LONGEST_NAME, LONGEST_PATH = 255, 4095  # bytes, on Linux


def path_problem(text: str) -> str | None:
    """Return why no file can have this path, or None."""
    if "\0" in text:
        return "a path holds no NUL"
    data = text.encode("utf-8", errors="replace")
    if len(data) > LONGEST_PATH or any(len(name) > LONGEST_NAME for name in data.split(b"/")):
        shortened = in_short(text, 60)
        return f"{shortened!r}: a name has at most {LONGEST_NAME} bytes, a path {LONGEST_PATH:,}"
    if text.startswith("~"):
        return _user_problem(text.split("/")[0])
    return None


def _user_problem(home: str) -> str | None:
    try:
        Path(home).expanduser()
    except RuntimeError:
        return f"{home!r}: this machine has no such user"
    return None


def _possible(text: str) -> str:
    if problem := path_problem(text):
        raise ValueError(problem)
    return text


PathText = Annotated[str, AfterValidator(_possible)]


def absolute(folder: Path, text: str) -> Path:
    """Return the absolute path of `text`, relative to `folder`. Raises ValueError if there is none."""
    try:
        return (folder / Path(text).expanduser()).resolve()
    except (OSError, RuntimeError) as error:  # links that go round in circles
        reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else error
        raise ValueError(f"{text!r}: no such path ({reason})") from None
