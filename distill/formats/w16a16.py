"""A W16A16 folder: the student in 16 bits, any adapter merged in, for transformers and vLLM.

A student trained in bfloat16 is 16-bit already: its files are linked, not written again. One
trained in float32 becomes float16: of two quickstart students that was 1e-6 nats from it, with its
likeliest token at all of 1,569 positions; bfloat16 was 4e-5 from it, at 99.8 %. And a GPU older
than 2020 (T4, V100) has float16 alone. What goes beyond 65,504 in some layer of a student is no
number in float16: the check sees that, and bfloat16, which holds it, is taken instead.
"""

import math
import os
import shutil
import sys
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from distill.core.files import FolderWriter, files_under
from distill.core.results import FileCheck
from distill.formats.base import FolderFormat
from distill.formats.export import Export
from distill.formats.folders import copy_tokenizer
from distill.models import find, load
from distill.models.loaded_weights import BeyondTypeError
from distill.models.saving import save_model


def dtypes(model_folder: Path) -> tuple[str, ...]:
    """Return the 16-bit dtypes that this model may be written in, the better one first."""
    return ("bfloat16",) if _dtype(model_folder) == "bfloat16" else ("float16", "bfloat16")


def write_w16a16(model_folder: Path, out_folder: Path, dtype: str) -> None:
    """Write `model_folder` in `dtype` into the folder `out_folder`, tokenizer included.

    Files that are in that dtype already are hard links. Raises what `load_model` raises.
    """
    if _dtype(model_folder) == dtype:
        for path in files_under(model_folder):
            if path.name != "training.json":
                link = out_folder / path.relative_to(model_folder)
                link.parent.mkdir(exist_ok=True)  # of further chat templates
                _link(path, link)
        return
    save_model(load.load_model(str(model_folder), load.Placement("cpu", dtype)), out_folder)
    copy_tokenizer(model_folder, out_folder)


def load_w16a16(folder: Path) -> Any:
    """Load a folder of `write_w16a16` in evaluation mode.

    On the GPU if there is one, and always in its own dtype.
    """
    return load.load_model(str(folder), load.placement("auto", _dtype(folder) or "auto"))


def tensor_types(folder: Path) -> dict[str, int]:
    """Return how many tensors of each type its files hold, e.g. {"F16": 23}."""
    from safetensors import safe_open

    counts: Counter[str] = Counter()
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            names = file.keys()
            counts.update(file.get_slice(name).get_dtype() for name in names)
    return dict(counts)


def _dtype(folder: Path) -> str | None:
    return find.read_config(str(folder)).get("dtype")


def _link(path: Path, other: Path) -> None:
    try:
        os.link(path, other)
    except OSError:  # a file system that has no hard links
        shutil.copy2(path, other)


@dataclass(frozen=True, kw_only=True)
class SixteenBits(FolderFormat):
    """The student in the first 16-bit dtype that holds its numbers."""

    load = staticmethod(load_w16a16)

    def fill(self, export: Export, model_folder: Path, folder: Path) -> None:
        write_w16a16(model_folder, folder, dtypes(model_folder)[0])

    def make(self, export: Export, model_folder: Path, path: Path) -> FileCheck:
        check: FileCheck | None = None
        for dtype in dtypes(model_folder):
            check = self._measured(export, model_folder, path, dtype)
            if check is not None and math.isfinite(check.nll):
                break
            print(
                f"quantize: {path.name}: {dtype} does not hold the numbers of this student",
                file=sys.stderr,
                flush=True,
            )
        assert check is not None, "there is a dtype for every model"
        return replace(check, tensor_types=tensor_types(path))

    def _measured(
        self, export: Export, model_folder: Path, path: Path, dtype: str
    ) -> FileCheck | None:
        """Write and measure the folder in `dtype`; None where float16 does not hold a weight."""
        try:
            with FolderWriter(path) as temporary:
                write_w16a16(model_folder, temporary, dtype)
        except BeyondTypeError:
            if dtype != "float16":
                raise
            return None
        return self.measure(export, path)


W16A16 = SixteenBits(name="w16a16", runtime="transformers", bytes_per_weight=2.0, in_vllm=True)
