"""Rows of prompts from files and `datasets`, under our own names. What they mean is read in samples.py.

Files are read as they are, without a library's cache between, so that a changed file is a changed input.
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

Numbered = Iterator[tuple[int, Row]]


def rows(recipe: Recipe, name: str, source: Source) -> Iterator[tuple[str, Row]]:
    """(where it stands, row) of a source of the recipe's field `name`, columns renamed to ours; with `translate`, as
    they are. Raises MissingError or DataError naming the file, the line and the column."""
    if source.file is not None:
        path = recipe.existing_file(f"{name}.file", source.file)
        place, found = f"{path}, line", _READERS[path.suffix.lower()](path, source)
    else:
        place, found = f"{source.name}, row", _dataset(recipe, name, source)
    for number, row in found:
        where = f"{place} {number}"
        if source.columns is not None:
            row = _renamed(row, source.columns, where)
        yield where, {key: value for key, value in row.items() if value is not None}


def identity(recipe: Recipe, name: str, sources: list[Source]) -> str:
    """Changes with the content of the sources: of one file its SHA-256. A hub's data set counts by name and revision."""
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
    return digest(
        canonical_json([[p.name, file_sha256(p)] for p in sorted(folder.rglob("*")) if p.is_file()])
    )


def _renamed(row: Row, columns: dict[Any, str], where: str) -> Row:
    found = {}
    for ours, theirs in columns.items():
        if theirs not in row:
            raise DataError(
                f"{where}: no column {theirs!r} for {ours}; there are {', '.join(map(str, row))[:300]}"
            )
        found[ours] = row[theirs]
    return found


def _jsonl(path: Path, source: Source) -> Numbered:
    if path.suffix.lower() == ".json" and path.read_bytes().lstrip()[:1] == b"[":
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise DataError(f"{path}: not JSON in UTF-8 ({error})") from None
        if not all(isinstance(row, dict) for row in found):
            raise DataError(f"{path}: expected a list of objects")
        return enumerate(found, 1)
    return read_jsonl(path)


def _text(path: Path, source: Source) -> Numbered:
    for number, line in enumerate(_decoded(path).split("\n"), 1):
        if line.strip():
            yield number, {"prompt": line.strip()}


def _separated(path: Path, source: Source) -> Numbered:
    """.csv with quotes, .tsv without: there a quotation mark is one. A head line, unless columns are positions."""
    theirs = [*(source.columns or {}).values(), *(source.translate or {}).values()]
    no_head = bool(theirs) and all(column.isdecimal() for column in theirs)
    tabs = path.suffix.lower() == ".tsv"
    lines = io.StringIO(_decoded(path), newline="")
    reader = (
        csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
        if tabs
        else csv.reader(lines, strict=True)
    )
    head: list[str] | None = None
    try:
        for cells in reader:
            if not cells:
                continue
            if head is None and not no_head:
                head = cells
                continue
            names = head or [str(i) for i in range(len(cells))]
            if len(cells) != len(names):
                raise DataError(
                    f"{path}, line {reader.line_num}: {len(cells)} cells, the head line has {len(names)}"
                )
            yield (
                reader.line_num,
                {name: cell or None for name, cell in zip(names, cells, strict=True)},
            )
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: not CSV ({error})") from None


def _parquet(path: Path, source: Source) -> Numbered:
    import pyarrow
    import pyarrow.parquet

    wanted = [*(source.columns or {}).values(), *(source.translate or {}).values()]
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            known = file.schema_arrow.names
            number = 0
            for batch in file.iter_batches(4096, columns=[c for c in wanted if c in known] or None):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
    except pyarrow.ArrowInvalid as error:
        raise DataError(f"{path}: not Parquet ({error})") from None


_READERS: dict[str, Callable[[Path, Source], Numbered]] = {
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
    """The folder of a local data set; None for one of a hub."""
    assert source.dataset is not None
    if not source.dataset.startswith((".", "/", "~")):
        return None
    folder = recipe.path(source.dataset)
    if not folder.is_dir():
        raise MissingError(
            f"{recipe.source}: {name}.dataset: {source.dataset!r}: no such folder ({folder})"
        )
    return folder


def _dataset(recipe: Recipe, name: str, source: Source) -> Numbered:
    import datasets
    from datasets.exceptions import DatasetsError

    assert source.dataset is not None
    folder, split = _folder(recipe, name, source), source.split or "train"
    datasets.disable_progress_bars()
    try:
        if folder is not None and any(
            (folder / n).is_file() for n in ("state.json", "dataset_dict.json")
        ):
            found = datasets.load_from_disk(str(folder))
            found = found[split] if isinstance(found, dict) else found
        else:
            place = str(folder) if folder is not None else source.dataset
            found = datasets.load_dataset(
                place, source.config, split=split, revision=source.revision
            )
    except (OSError, ValueError, KeyError, DatasetsError) as error:
        words = " ".join(str(error).split())[:300]
        raise MissingError(
            f"{recipe.source}: {name}: data set {source.name!r}, split {split!r} cannot be had ({type(error).__name__}: {words}); "
            "check its name, config and split, or fetch it once where there is a network"
        ) from None
    finally:
        datasets.enable_progress_bars()
    return enumerate((dict(row) for row in found), 1)
