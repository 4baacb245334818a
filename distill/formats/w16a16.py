"""A W16A16 folder: the whole student in 16 bits, any adapter merged in, as transformers and vLLM load it.

A student trained in bfloat16 is 16-bit already: its files are linked, not written again. One trained in float32 becomes
float16: of two quickstart students that was 1e-6 nats from it, with its likeliest token at all of 1,569 positions; bfloat16
was 4e-5 from it, at 99.8 %. And a GPU older than 2020 (T4, V100) has float16 alone. What goes beyond 65,504 in some layer
of a student is no number in float16: the check sees that, and bfloat16, which holds it, is taken instead.
"""

import os
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

from distill.formats.bitsandbytes import COPIED
from distill.models import find, load


def dtypes(model_folder: Path) -> tuple[str, ...]:
    """The 16-bit dtypes that this model may be written in, the better one first."""
    return ("bfloat16",) if _dtype(model_folder) == "bfloat16" else ("float16", "bfloat16")


def write_w16a16(model_folder: Path, out_folder: Path, dtype: str) -> None:
    """`model_folder` in `dtype` into the folder `out_folder`, tokenizer included; hard links where it is in that dtype already.

    Raises what `load_model` raises.
    """
    if _dtype(model_folder) == dtype:
        for path in model_folder.iterdir():
            if path.is_file() and path.suffix != ".tmp" and path.name != "training.json":
                _link(path, out_folder / path.name)
        return
    load.load_model(str(model_folder), load.Placement("cpu", dtype)).save_pretrained(out_folder)
    for name in COPIED:
        if (model_folder / name).is_file():
            shutil.copy2(model_folder / name, out_folder / name)


def load_w16a16(folder: Path) -> Any:
    """A folder of `write_w16a16` in evaluation mode: on the GPU where there is one, and always in its own dtype."""
    return load.load_model(str(folder), load.placement("auto", _dtype(folder) or "auto"))


def tensor_types(folder: Path) -> dict[str, int]:
    """How many tensors of each type its files hold, e.g. {"F16": 23}."""
    from safetensors import safe_open

    found: Counter[str] = Counter()
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            found.update(file.get_slice(name).get_dtype() for name in file.keys())  # noqa: SIM118 - not a dict
    return dict(found)


def _dtype(folder: Path) -> str | None:
    return find.read_config(str(folder)).get("dtype")


def _link(path: Path, other: Path) -> None:
    try:
        os.link(path, other)
    except OSError:  # a file system that has no hard links
        shutil.copy2(path, other)
