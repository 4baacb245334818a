"""JSON files of ours that say what was done: each holds the checksum of its own content.

A digit that flipped on a worn disk would else be a figure of the report. What an older version wrote
has no checksum and is taken; what a person edited is told.
"""

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from distill.core.digests import bytes_sha256, canonical_json
from distill.core.files import write_atomic
from distill.errors import DataError, in_short, one_line

CHECKSUM = "sha256"  # field: that of the others' canonical JSON
LONGEST_REASON = 200  # characters

Kind = TypeVar("Kind")


def write_json(path: Path, values: Mapping[str, Any], *, indent: int | None = None) -> None:
    """Write an object with its checksum, whole or not at all."""
    as_read = json.loads(json.dumps(values))  # keys are text then, as they will be
    text = json.dumps({**as_read, CHECKSUM: _checksum(as_read)}, indent=indent, ensure_ascii=False)
    write_atomic(path, text + "\n")


def read_json(path: Path, way_out: str) -> dict[str, Any]:
    """Return the object that `write_json` wrote, without its checksum.

    Raises FileNotFoundError where there is none, and DataError, which ends in `way_out`, where it
    is not what was written.
    """
    try:
        values = json.loads(path.read_bytes().decode("utf-8-sig"))
    except FileNotFoundError:
        raise
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}): mend that") from None
    except RecursionError:
        raise broken(path, "nested too deeply", way_out) from None
    except ValueError as error:
        raise broken(path, str(error), way_out) from None
    if not isinstance(values, dict):
        raise broken(path, f"expected an object, got {type(values).__name__}", way_out)
    checksum = values.pop(CHECKSUM, None)
    if checksum is not None and checksum != _checksum(values):
        raise broken(path, "its content does not match its checksum", way_out)
    return values


def as_type(values: Any, kind: type[Kind], path: Path, way_out: str, within: str = "") -> Kind:
    """Return values that `read_json` returned as a dataclass of ours.

    `within`: the field that they are of. Raises DataError, which names the field that is not of its
    type and ends in `way_out`.
    """
    try:
        return _validator(kind).validate_python(values)
    except ValidationError as error:
        problem = error.errors()[0]
    where = ".".join(str(part) for part in (within, *problem["loc"]) if part != "")
    reason = f"{where}: {problem['msg'][0].lower()}{problem['msg'][1:]}"
    raise broken(path, reason, way_out)


@cache
def _validator(kind: type[Any]) -> TypeAdapter[Any]:
    """Return pydantic's validator of a type, whose making takes longer than reading a file."""
    return TypeAdapter(kind)


def broken(path: Path, reason: str, way_out: str) -> DataError:
    """Return the error that names a file, what is wrong with it, and what to do."""
    what = in_short(one_line(reason), LONGEST_REASON)
    return DataError(f"{path}: broken ({what}); {way_out}")


def field_problem(values: Mapping[str, Any], kinds: Mapping[str, Any]) -> str | None:
    """Return which field is missing, or of another type than `kinds` says, or None."""
    for name, kind in kinds.items():
        if name not in values:
            return f"{name}: missing"
        if not isinstance(values[name], kind) or isinstance(values[name], bool):
            return f"{name}: {type(values[name]).__name__} is not what belongs there"
    return None


def _checksum(values: dict[str, Any]) -> str:
    try:
        return bytes_sha256(canonical_json(values).encode("utf-8", errors="surrogatepass"))
    except RecursionError:  # it could be read, and is as deep as that
        return "none"
