"""Rows of prompts from files and `datasets`, under our own names.

What they mean is read in samples.py.

Files are read as they are, without a library's cache between, so that a changed file is a changed
input.
"""

import csv
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from distill.core.digests import canonical_json, digest, file_sha256
from distill.core.jsonl import Row, read_jsonl
from distill.errors import DataError, MissingError
from distill.recipe import Recipe
from distill.recipe.sources import Source

NumberedRows = Iterator[tuple[int, Row]]


def rows(recipe: Recipe, name: str, source: Source) -> Iterator[tuple[str, Row]]:
    """Yield (where it stands, row) of a source of the recipe's field `name`.

    Columns are renamed to ours; with `translate` they stay as they are. Raise MissingError or
    DataError naming the file, the line and the column.
    """
    if source.file is not None:
        path = recipe.existing_file(f"{name}.file", source.file)
        unit, numbered = f"{path}, line", _READERS[path.suffix.lower()](path, source)
    else:
        unit, numbered = f"{source.name}, row", _dataset(recipe, name, source)
    for number, row in numbered:
        where = f"{unit} {number}"
        if source.columns is not None:
            row = _renamed(row, source.columns, where)
        yield where, {key: value for key, value in row.items() if value is not None}


def identity(recipe: Recipe, name: str, sources: list[Source]) -> str:
    """Return what changes with the content of the sources: of one file its SHA-256.

    A hub's data set counts by name and revision.
    """
    parts = [_identity(recipe, name, source) for source in sources]
    return parts[0] if len(parts) == 1 else digest(canonical_json(parts))


def _identity(recipe: Recipe, name: str, source: Source) -> str:
    if source.file is None and source.dataset is None:
        return ""  # the teacher writes these from nothing
    if source.file is not None:
        return file_sha256(recipe.existing_file(f"{name}.file", source.file))
    folder = _folder(recipe, name, source)
    if folder is None:
        return canonical_json([source.dataset, source.revision])
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return digest(canonical_json([[path.name, file_sha256(path)] for path in files]))


def _renamed(row: Row, columns: dict[Any, str], where: str) -> Row:
    renamed = {}
    for field, column in columns.items():
        if column not in row:
            known = ", ".join(map(str, row))[:300]
            raise DataError(f"{where}: no column {column!r} for {field}; there are {known}")
        renamed[field] = row[column]
    return renamed


def _jsonl(path: Path, source: Source) -> NumberedRows:
    if path.suffix.lower() == ".json" and path.read_bytes().lstrip()[:1] == b"[":
        return enumerate(_json_list(path), 1)
    return read_jsonl(path)


def _json_list(path: Path) -> list[Row]:
    try:
        objects = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path}: not JSON in UTF-8 ({error})") from None
    if not all(isinstance(value, dict) for value in objects):
        raise DataError(f"{path}: expected a list of objects")
    return objects


def _text(path: Path, source: Source) -> NumberedRows:
    for number, line in enumerate(_decoded(path).split("\n"), 1):
        if line.strip():
            yield number, {"prompt": line.strip()}


def _columns_of(source: Source) -> list[str]:
    """Return the columns that the source names."""
    return [*(source.columns or {}).values(), *(source.translate or {}).values()]


def _separated(path: Path, source: Source) -> NumberedRows:
    """Read .csv with quotes, .tsv without: there a quotation mark is one.

    The first line is the head line, unless columns are positions.
    """
    columns = _columns_of(source)
    has_head = not columns or not all(column.isdecimal() for column in columns)
    reader = _separated_reader(path)
    head: list[str] | None = None
    try:
        for cells in reader:
            if not cells:
                continue
            if head is None and has_head:
                head = cells
                continue
            names = head or [str(position) for position in range(len(cells))]
            if len(cells) != len(names):
                raise DataError(
                    f"{path}, line {reader.line_num}: {len(cells)} cells, "
                    f"the head line has {len(names)}"
                )
            row = zip(names, cells, strict=True)
            yield reader.line_num, {name: cell or None for name, cell in row}
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: not CSV ({error})") from None


def _separated_reader(path: Path) -> Any:
    lines = io.StringIO(_decoded(path), newline="")
    if path.suffix.lower() == ".tsv":
        return csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
    return csv.reader(lines, strict=True)


def _parquet(path: Path, source: Source) -> NumberedRows:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            known = file.schema_arrow.names
            columns = [column for column in _columns_of(source) if column in known]
            number = 0
            for batch in file.iter_batches(4096, columns=columns or None):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
    except pyarrow.ArrowInvalid as error:
        raise DataError(f"{path}: not Parquet ({error})") from None


_READERS: dict[str, Callable[[Path, Source], NumberedRows]] = {
    ".jsonl": _jsonl,
    ".json": _jsonl,
    ".txt": _text,
    ".csv": _separated,
    ".tsv": _separated,
    ".parquet": _parquet,
}


def _decoded(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: not UTF-8 ({error.reason} at byte {error.start}); save it as UTF-8"
        ) from None


def _folder(recipe: Recipe, name: str, source: Source) -> Path | None:
    """Return the folder of a local data set; None for one of a hub."""
    assert source.dataset is not None
    if not source.dataset.startswith((".", "/", "~")):
        return None
    folder = recipe.path(source.dataset)
    if not folder.is_dir():
        raise MissingError(
            f"{recipe.source}: {name}.dataset: {source.dataset!r}: no such folder ({folder})"
        )
    return folder


def _dataset(recipe: Recipe, name: str, source: Source) -> NumberedRows:
    import datasets
    from datasets.exceptions import DatasetsError

    assert source.dataset is not None
    folder = _folder(recipe, name, source)
    split = source.split or "train"
    datasets.disable_progress_bars()
    try:
        if folder is not None and _is_saved_to_disk(folder):
            loaded = datasets.load_from_disk(str(folder))
            loaded = loaded[split] if isinstance(loaded, dict) else loaded
        else:
            path = source.dataset if folder is None else str(folder)
            loaded = datasets.load_dataset(
                path, source.config, split=split, revision=source.revision
            )
    except (OSError, ValueError, KeyError, DatasetsError) as error:
        message = " ".join(str(error).split())[:300]
        raise MissingError(
            f"{recipe.source}: {name}: data set {source.name!r}, split {split!r} cannot be had "
            f"({type(error).__name__}: {message}); "
            "check its name, config and split, or fetch it once where there is a network"
        ) from None
    finally:
        datasets.enable_progress_bars()
    return enumerate((dict(row) for row in loaded), 1)


def _is_saved_to_disk(folder: Path) -> bool:
    """Return whether `Dataset.save_to_disk` made the folder."""
    return any((folder / name).is_file() for name in ("state.json", "dataset_dict.json"))
