"""Rows of prompts from files and `datasets`, under our own names.

What they mean is read in prompts.py.

Files are read as they are, without a library's cache between, so that a changed file is a changed
input.
"""

import shlex
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any

from distill.core.digests import canonical_json, digest, file_sha256
from distill.core.jsonl import BadRow, KeyTwice, Row, jsonl_rows, strict_json, text_lines
from distill.data import hub_sets
from distill.data.conversations import FIELDS
from distill.data.tables import refuse_twice, separated_rows
from distill.errors import DataError, MissingError, shown
from distill.recipe import Recipe
from distill.recipe.sources import Source

NAMES = {*FIELDS, "id", "language", "reference", "kind", "persona", "place", "answer"}
# (where it stands, "line 3", and the row, or why it is none)
PlacedRows = Iterator[tuple[str, Row | BadRow]]


def rows(recipe: Recipe, name: str, source: Source) -> Iterator[tuple[str, Row | BadRow]]:
    """Yield (where it stands, the row, or why it is none) of a source of the recipe's field `name`.

    Columns are renamed to ours; with `translate` they stay as they are. A value that is null is
    left out, but for that of a prompt. Raise MissingError or DataError, naming the file and the
    place, for what cannot be read on from there.
    """
    if source.file is not None:
        path = recipe.existing_file(f"{name}.file", source.file)
        origin, placed = str(path), _READERS[path.suffix.lower()](path, source)
    else:
        origin, placed = source.name, _dataset(recipe, name, source)
    for place, row in placed:
        where = f"{origin}, {place}"
        if source.columns is not None and not isinstance(row, BadRow):
            row = _renamed(row, source.columns, where)
        yield where, row if isinstance(row, BadRow) else _without_nulls(row)


def _without_nulls(row: Row) -> Row:
    return {key: value for key, value in row.items() if value is not None or key in FIELDS}


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


def _renamed(row: Row, columns: dict[Any, str], where: str) -> Row | BadRow:
    renamed = {}
    for field, column in columns.items():
        if column not in row:
            problem = f"no column {shown(column)} for {field}; there are {listed(row)}"
            return BadRow("no_column", f"{where}: {problem}")
        renamed[field] = row[column]
    return renamed


def listed(names: Sequence[str] | Row) -> str:
    """Return names that others gave as an error lists them, shortened."""
    return ", ".join(shown(str(name))[1:-1] for name in list(names)[:20])[:300] or "none"


def _jsonl(path: Path, source: Source) -> PlacedRows:
    if path.suffix.lower() == ".json" and _begins_a_list(path):
        return _json_list(path)
    return ((f"line {number}", row) for number, row in jsonl_rows(path))


def _begins_a_list(path: Path) -> bool:
    with open(path, "rb") as f:
        return f.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"["


def _json_list(path: Path) -> PlacedRows:
    """Yield the objects of one list; their numbers are positions in it."""
    try:
        values = strict_json(path.read_text(encoding="utf-8-sig"))
    except KeyTwice as error:
        raise DataError(f"{path}: {error}") from None
    except ValueError as error:
        raise DataError(f"{path}: not JSON in UTF-8 ({error})") from None
    for number, value in enumerate(values, 1):
        if isinstance(value, dict):
            yield f"item {number}", value
        else:
            problem = f"{path}, item {number}: expected an object, got {type(value).__name__}"
            yield f"item {number}", BadRow("no_object", problem)


def _text(path: Path, source: Source) -> PlacedRows:
    """Read a row a line; of texts to be cut into passages also the empty ones, between paragraphs."""
    for number, line in text_lines(path):
        if isinstance(line, BadRow):
            yield f"line {number}", line
        elif line.strip() or source.passages is not None:
            yield f"line {number}", {"prompt": line.strip()}


def _columns_of(source: Source) -> list[str]:
    """Return the columns that the source names; none = all."""
    return [*(source.columns or {}).values(), *(source.translate or {}).values()]


def _separated(path: Path, source: Source) -> PlacedRows:
    numbered = separated_rows(path, _columns_of(source), sorted(NAMES))
    return ((f"line {number}", row) for number, row in numbered)


def _parquet(path: Path, source: Source) -> PlacedRows:
    """Read the columns that the source names, and no other."""
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        with pyarrow.parquet.ParquetFile(path, page_checksum_verification=True) as file:
            _check_number_of_rows(path, file.metadata)
            known = file.schema_arrow.names
            refuse_twice(str(path), known, _columns_of(source))
            columns = [column for column in _columns_of(source) if column in known]
            for batch in file.iter_batches(4096, columns=list(dict.fromkeys(columns)) or None):
                for row in _rows_of(batch, path, number):
                    number += 1
                    yield f"row {number}", row
    except (pyarrow.ArrowException, OSError, ValueError, MemoryError, OverflowError) as error:
        if isinstance(error, DataError):
            raise
        after = f" after row {number}" if number else ""
        raise DataError(
            f"{path}: not Parquet, or damaged{after} ({shown(error)}); fetch or write it again"
        ) from None


def _as_written(row: Row, float32_columns: list[str]) -> Row:
    """Return the row with each float32 as the decimal that it was written as.

    0.1, which as a float of Python's own is 0.10000000149.
    """
    import numpy as np

    narrow = [name for name in float32_columns if row[name] is not None]
    return row | {name: float(str(np.float32(row[name]))) for name in narrow}


def _check_number_of_rows(path: Path, metadata: Any) -> None:
    """Raise DataError where the file's own numbers differ: its footer has no checksum."""
    groups = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
    if sum(groups) != metadata.num_rows:
        raise DataError(
            f"{path}: damaged: it says that it has {metadata.num_rows:,} rows, its groups have "
            f"{sum(groups):,}; fetch or write it again"
        )


def _rows_of(batch: Any, path: Path, num_before: int) -> Sequence[Row | BadRow]:
    """Return the rows of a batch; one by one where one of them cannot be had."""
    try:
        return _rows_as_written(batch)
    except (ValueError, OverflowError):
        return [_row_of(batch, i, f"{path}, row {num_before + i + 1}") for i in range(len(batch))]


def _rows_as_written(batch: Any) -> list[Row]:
    float32 = [field.name for field in batch.schema if str(field.type) == "float"]
    return [_as_written(row, float32) for row in batch.to_pylist()]


def _row_of(batch: Any, index: int, where: str) -> Row | BadRow:
    try:
        return _rows_as_written(batch.slice(index, 1))[0]
    except (ValueError, OverflowError) as error:
        return BadRow("unreadable", f"{where}: cannot be read ({shown(error)})")


_READERS: dict[str, Callable[[Path, Source], PlacedRows]] = {
    ".jsonl": _jsonl,
    ".json": _jsonl,
    ".txt": _text,
    ".csv": _separated,
    ".tsv": _separated,
    ".parquet": _parquet,
}


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


def _dataset(recipe: Recipe, name: str, source: Source) -> PlacedRows:
    """Read the columns that the source names, and no other: a picture or a sound is not decoded."""
    import datasets

    data = _loaded(recipe, name, source)
    columns = [column for column in _columns_of(source) if column in data.column_names]
    if source.columns is not None and len(columns) < len(source.columns):
        missing = next(column for column in source.columns.values() if column not in columns)
        raise DataError(
            f"{source.name}: no column {shown(missing)}; there are {listed(data.column_names)}"
        )
    if columns:
        data = data.select_columns(list(dict.fromkeys(columns)))
    float32 = [c for c in data.column_names if data.features[c] == datasets.Value("float32")]
    read = iter(data)
    for number in count(1):
        try:
            row = _as_written(next(read), float32)
        except StopIteration:
            return
        except Exception as error:  # whatever the decoder of one of many kinds of columns raises
            raise DataError(
                f"{source.name}, row {number}: cannot be read ({type(error).__name__}: "
                f"{shown(error)}); name the columns that are meant by columns, the others "
                "are then not read"
            ) from None
        yield f"row {number}", row


def prepare(recipe: Recipe, name: str, source: Source) -> None:
    """Let the library read a data set, and keep what it makes of it for runs without a network.

    Raises MissingError where it cannot be had.
    """
    _loaded(recipe, name, source)


def _loaded(recipe: Recipe, name: str, source: Source) -> Any:
    import datasets
    from datasets import config

    assert source.dataset is not None
    folder = _folder(recipe, name, source)
    split = source.split or "train"
    datasets.disable_progress_bars()
    try:
        if folder is not None and _is_saved_to_disk(folder):
            loaded = datasets.load_from_disk(str(folder))
            return loaded[split] if isinstance(loaded, dict) else loaded
        path, cache = source.dataset, None
        if folder is not None:
            path, cache = str(folder), _cache_of(folder)
        elif config.HF_HUB_OFFLINE and (rows := hub_sets.fetched(source)) is not None:
            return rows
        return datasets.load_dataset(
            path, source.config, split=split, revision=source.revision, cache_dir=cache
        )
    except (
        Exception
    ) as error:  # a broken file, a missing decoder, no network: of any library's kind
        raise unloadable(recipe, name, source, error) from None
    finally:
        datasets.enable_progress_bars()


def unloadable(recipe: Recipe, name: str, source: Source, error: Exception) -> MissingError:
    """Return what is to be said where the library cannot load a data set, with the ways out."""
    split = source.split or "train"
    return MissingError(
        f"{recipe.source}: {name}: data set {source.name!r}, split {split!r} cannot be had "
        f"({type(error).__name__}: {shown(error)}); "
        f"check its name, config and split{_way_to_carry(recipe, name, source)}"
    )


def _cache_of(folder: Path) -> str:
    """Return where the library keeps what it reads of a local folder: another place if that changes.

    Its own place goes by the folder's name alone where a README.md names configurations, so that it
    would give the rows of another folder, or of files that have changed since.
    """
    from datasets import config

    files = [(path, path.stat()) for path in sorted(folder.rglob("*")) if path.is_file()]
    told = [[str(path), found.st_size, found.st_mtime_ns] for path, found in files]
    return str(Path(config.HF_DATASETS_CACHE) / f"folder-{digest(canonical_json(told))}")


def _way_to_carry(recipe: Recipe, name: str, source: Source) -> str:
    """Return how to have a hub's data set here without a network; nothing for a local folder."""
    if source.dataset is None or _folder(recipe, name, source) is not None:
        return ""
    here = source.dataset.rpartition("/")[2]
    command = ["hf", "download", source.dataset, "--repo-type", "dataset", "--local-dir", here]
    command += ["--revision", source.revision] if source.revision else []
    return (
        "; run `distill fetch RECIPE` where there is a network, or fetch it there by "
        f"`{shlex.join(command)}`, copy that folder here and name it: dataset=./{here}"
    )


def _is_saved_to_disk(folder: Path) -> bool:
    """Return whether `Dataset.save_to_disk` made the folder."""
    return any((folder / name).is_file() for name in ("state.json", "dataset_dict.json"))
