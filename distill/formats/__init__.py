"""The formats that a student can be deployed in, one file a family."""

from collections.abc import Sequence
from pathlib import Path

from distill.core.run_folder import RunFolder
from distill.formats import bitsandbytes
from distill.formats.base import FolderFormat, Format
from distill.formats.gguf import format as gguf
from distill.formats.w4a16 import W4A16
from distill.formats.w16a16 import W16A16

__all__ = ["FORMATS", "W16A16", "FolderFormat", "Format", "chosen", "path_of"]

FORMATS: dict[str, Format] = {
    format.name: format for format in (*gguf.FORMATS, *bitsandbytes.FORMATS, W4A16, W16A16)
}


def chosen(names: Sequence[str]) -> list[Format]:
    """Return the formats that a run writes: the 16-bit folder, whatever else is asked for."""
    return [W16A16, *(FORMATS[name] for name in names)]


def path_of(folder: RunFolder, name: str) -> Path:
    """Return where the student in the format `name` is in a run folder."""
    return FORMATS[name].path(folder.stage("quantize"))


def other_folders() -> str:
    """Return the folder formats that can be asked for instead of GGUF, for an error's way out."""
    return ", ".join(f.name for f in FORMATS.values() if f.is_folder and f is not W16A16)
