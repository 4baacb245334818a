"""SHA256SUMS: one file in a folder that covers all others there; `sha256sum -c` reads it, too."""

from pathlib import Path

from distill.core.digests import file_sha256
from distill.core.files import write_atomic

CHECKSUMS = "SHA256SUMS"


def write_checksums(folder: Path, path: Path | None = None) -> None:
    """Write the SHA-256 of every file in `folder`. Call it last, before the folder gets its name.

    `path`: where to; else among them.
    """
    lines = [f"{file_sha256(folder / name)}  {name}\n" for name in sorted(_names(folder))]
    write_atomic(path or folder / CHECKSUMS, "".join(lines))


def checksum_problem(folder: Path, path: Path | None = None) -> str | None:
    """Return how the folder is not what was written there, or None. Reads every file of it.

    `path`: where the checksums are; else among the files. Raises FileNotFoundError where there are
    none.
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
    for name, checksum in expected.items():
        if file_sha256(folder / name) != checksum:
            return f"{name} does not match its SHA-256"
    return None


def _names(folder: Path) -> set[str]:
    """Return the names of the folder's files, by their paths in it, without that of the checksums."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)) for path in paths} - {CHECKSUMS}
