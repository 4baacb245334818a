"""The files of a model folder, before anything is made of them.

transformers reads what a folder's files tell it to: an index may name files that run code when they
are read, an adapter's config another model. What it would read is found out here, and refused by
name where it is not a whole model in safetensors.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill.errors import DataError, MismatchError, MissingError, shown
from distill.models.json_files import read_json_object, require_model_values

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file of weights: in which, its shape, and safetensors' name of its type."""

    file: Path
    shape: tuple[int, ...]
    dtype: str

    @property
    def size(self) -> int:
        return math.prod(self.shape)


def weight_files(folder: Path) -> list[Path]:
    """Return the safetensors files that hold the folder's weights, as transformers finds them.

    Raises MissingError for files that are not there, DataError for an index that is none or names
    what is not read here, and MismatchError where there are two sets of weights.
    """
    single, index = folder / SINGLE, folder / INDEX
    names = _names_in_index(index) if index.exists() else [SINGLE]
    if single.is_file() and names != [SINGLE]:
        raise MismatchError(
            f"{folder}: {SINGLE} and {INDEX}, which names {names[0]}: two sets of weights; "
            "remove the one that is not meant"
        )
    if not any(folder.glob("*.safetensors")):
        raise MissingError(
            f"{folder}: no *.safetensors; other weight files can run code and are not read: convert it"
        )
    for name in names:
        _require_file(folder / name, INDEX if index.exists() else None)
    return [folder / name for name in names]


def _names_in_index(path: Path) -> list[str]:
    """Return the files that an index names, in order."""
    weight_map = read_json_object(path).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise DataError(f"{path}: no weight_map that names the files of weights; fetch it again")
    names = list(weight_map.values())
    for name in names:
        _require_plain_name(path, name)
    return sorted(set(names))


def _require_plain_name(path: Path, name: object) -> None:
    """Raise DataError unless `name` is a safetensors file beside the index `path`."""
    if not isinstance(name, str) or not name or Path(name).name != name or "\0" in name:
        raise DataError(
            f"{path}: names {shown(name)} as a file of weights, which is none beside it; "
            "fetch it again"
        )
    if not name.endswith(".safetensors"):
        raise DataError(
            f"{path}: names {shown(name)}; files other than *.safetensors can run code and are "
            "not read: convert them"
        )


def _require_file(path: Path, index: str | None) -> None:
    if path.is_file():
        return
    if path.exists():
        raise DataError(f"{path}: not a file; put the file of weights in its place")
    named = f", though {index} names it" if index else " (nor an index of several files)"
    raise MissingError(f"{path}: no such file{named}; fetch the whole folder again")


def stored_tensors(files: Sequence[Path]) -> dict[str, StoredTensor]:
    """Return every tensor of the files by its name, from their headers alone.

    Raises DataError if a file is cut short, or the pointer of git without LFS, and if two files
    hold a tensor of the same name.
    """
    stored: dict[str, StoredTensor] = {}
    for path in files:
        for name, tensor in _read_header(path).items():
            if name in stored:
                raise DataError(
                    f"{path}: {shown(name)} is in {stored[name].file.name} and in {path.name}; "
                    "fetch the whole folder again"
                )
            stored[name] = tensor
    return stored


def _read_header(path: Path) -> dict[str, StoredTensor]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - no dict
            return {
                name: StoredTensor(path, tuple(part.get_shape()), part.get_dtype())
                for name, part in slices.items()
            }
    except (SafetensorError, OSError) as error:
        raise DataError(
            f"{path}: not a whole file of weights ({shown(error)}); fetch it again"
        ) from None


def require_own_weights(folder: Path) -> None:
    """Raise MismatchError or DataError if transformers would take weights from elsewhere.

    It does so for an adapter, whose base it fetches, and where config.json names the file.
    """
    adapter = folder / "adapter_config.json"
    if adapter.exists():
        raise MismatchError(
            f"{adapter}: an adapter changes another model, which is not in this folder; merge it "
            "(peft: merge_and_unload, then save_pretrained), or remove the file if that is done"
        )
    named = read_json_object(folder / "config.json").get("transformers_weights")
    if named is not None:
        raise DataError(
            f"{folder / 'config.json'}: transformers_weights {shown(named)} names the file of "
            f"weights; call that file {SINGLE} and remove the key"
        )


def require_config(folder: Path) -> dict[str, Any]:
    """Return config.json. Raises MissingError without one, DataError if its values are no model's."""
    path = folder / "config.json"
    if not path.is_file():
        raise MissingError(f"{path}: no such file; a transformers model folder is needed")
    config = read_json_object(path)
    require_model_values(path, config)
    return config
