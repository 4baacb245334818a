"""SHA256SUMS: one file in a folder that covers all others there; `sha256sum -c` reads it, too."""

from collections.abc import Mapping
from pathlib import Path

from distill.core.digests import file_sha256
from distill.core.files import write_atomic

CHECKSUMS = "SHA256SUMS"


def write_checksums(folder: Path, path: Path | None = None) -> None:
    """Write the SHA-256 of every file in `folder`. Call it last, before the folder gets its name.

    `path`: where to; else among them.
    """
    write_checksums_of({name: file_sha256(folder / name) for name in _names(folder)}, folder, path)


def write_checksums_of(
    checksums: Mapping[str, str], folder: Path, path: Path | None = None
) -> None:
    """Write checksums that are known already, by the names of the files in `folder`."""
    lines = [f"{checksum}  {name}\n" for name, checksum in sorted(checksums.items())]
    write_atomic(path or folder / CHECKSUMS, "".join(lines))


def checksum_problem(
    folder: Path, path: Path | None = None, *, share: tuple[int, int] = (0, 1)
) -> str | None:
    """Return how the folder is not what was written there, or None. Reads every file of it.

    `path`: where the checksums are; else among the files. `share`: (n, of how many): read only
    every so manieth file, from the n-th on, where others read the rest. Raises FileNotFoundError
    where there are no checksums.
    """
    data = (path or folder / CHECKSUMS).read_bytes()
    try:
        lines = data.decode("utf-8").splitlines()
    except UnicodeDecodeError:
        return f"{CHECKSUMS} is not UTF-8"
    expected = {name: checksum for checksum, _, name in (line.partition("  ") for line in lines)}
    if missing := sorted(expected.keys() - _names(folder)):
        return f"{missing[0]!r} is missing"
    if unknown := sorted(_names(folder) - expected.keys()):
        return f"{unknown[0]!r} is not in {CHECKSUMS}"
    number, num_shares = share
    for name, checksum in [*expected.items()][number::num_shares]:
        if file_sha256(folder / name) != checksum:
            return f"{name} does not match its SHA-256"
    return None


def _names(folder: Path) -> set[str]:
    """Return the names of the folder's files, by their paths in it, without that of the checksums."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)) for path in paths} - {CHECKSUMS}
