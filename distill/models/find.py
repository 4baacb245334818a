"""Find and identify model folders and hub ids, and read what their files say; without torch."""

import os
import re
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from distill.catalog import catalog
from distill.core.digests import digest
from distill.errors import MissingError, in_short, shown
from distill.models.json_files import read_json_object, require_model_values, token_ids
from distill.models.model_files import stored_tensors, weight_files

FULLY_HASHED = 64 << 20  # bytes
SAMPLE = 64 << 10  # bytes
LICENCE_FILES = ("LICENSE", "LICENCE", "NOTICE", "USE_POLICY", "USAGE_POLICY")  # how names begin
FETCH = "run `distill fetch RECIPE` where there is a network"


def local_folder(
    location: str, revision: str | None = None, *, weights: bool = True, code: bool = False
) -> Path:
    """Return the folder of a model on this machine.

    A hub id is downloaded (`weights` False: all but them; `code`: its Python files too), or found
    in the cache when offline. Raises MissingError where it is neither.
    """
    if Path(location).is_dir():
        return Path(location)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        HfHubHTTPError,
        IncompleteSnapshotError,
        LocalEntryNotFoundError,
    )

    def found(*, notices: bool) -> Path:
        allowed, ignored = patterns(weights=weights, code=code, notices=notices)
        return Path(
            snapshot_download(
                location, revision=revision, allow_patterns=allowed, ignore_patterns=ignored
            )
        )

    at = f" at revision {revision}" if revision else ""
    try:
        try:
            return found(notices=True)
        except IncompleteSnapshotError:  # offline, and earlier versions have not fetched these
            folder = found(notices=False)
        _tell_missing_notices(location)
        return folder
    except IncompleteSnapshotError as error:
        missing = re.search(r"\d+ file\(s\) are missing \(.*?\)", str(error))
        raise MissingError(
            f"model {location!r}{at}: in the hub cache, and not whole: "
            f"{in_short(missing[0], 200) if missing else shown(error)}; {FETCH}"
        ) from None
    except LocalEntryNotFoundError:
        raise MissingError(
            f"model {location!r}{at} is neither a folder (write ./{location} for one) nor in the hub cache, "
            f"and the hub cannot be reached (HF_HUB_OFFLINE, no network?); {FETCH}{_elsewhere(location)}"
        ) from None
    except (HfHubHTTPError, ValueError) as error:
        raise MissingError(f"model {location!r}: {str(error).splitlines()[0]}") from None


@cache
def _tell_missing_notices(location: str) -> None:
    print(
        f"model {location!r}: a licence, notice or policy of use that its repository has is not on this "
        f"machine; before the student is published, {FETCH}",
        file=sys.stderr,
    )


def patterns(*, weights: bool, code: bool, notices: bool = True) -> tuple[list[str], list[str]]:
    """Return what a model's files are called that are read, and which of those are not.

    `notices`: all that may have to be passed on with a student (is_licence_file). Of some models the
    weights are there twice: for other programs, in a folder or consolidated.
    """
    allowed = ["*.json", "*.jinja", "*.txt", "*.model", "LICENSE*"]
    if notices:
        allowed += [_in_any_case(name) for name in LICENCE_FILES]
    if weights:
        allowed.append("*.safetensors")
    if code:
        return [*allowed, "*.py"], ["*/*.safetensors", "consolidated*.safetensors"]
    in_folders = [f"*/{name}" for name in allowed if name != "*.jinja"]
    return allowed, [*in_folders, "consolidated*.safetensors"]


def _elsewhere(model_id: str) -> str:
    """Return the way to have a model without the hub, as the end of a sentence; "" if none is known."""
    known = catalog.find(model_id)
    return "" if known is None or known.elsewhere is None else f"; {known.elsewhere}"


def keep_off_the_hub() -> None:
    """Let this process and its children ask no hub: models and data sets come from the disk."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    # they read the environment when they are imported, which a notebook may have done
    for name in ("huggingface_hub.constants", "datasets.config"):
        if name in sys.modules:
            sys.modules[name].HF_HUB_OFFLINE = True  # type: ignore[attr-defined]


def identity(location: str, revision: str | None = None) -> str:
    """Return what tells models apart: a hash of the folder's files, or hub id and revision.

    Files up to 64 MiB are hashed in full; of bigger ones the size, the head (safetensors' table of
    tensors) and 16 blocks of 64 KiB, so that 16 GB of weights cost milliseconds.
    """
    folder = Path(location)
    if not folder.is_dir():
        return f"{location}@{revision or 'main'}"
    suffixes = (".json", ".safetensors", ".jinja", ".py")
    paths = sorted(path for path in folder.iterdir() if path.suffix in suffixes)
    return digest_of_files([path for path in paths if path.is_file()])


def digest_of_files(paths: Sequence[Path]) -> str:
    parts: list[bytes] = []
    for path in paths:
        size = path.stat().st_size
        parts += [path.name.encode(), size.to_bytes(8, "little")]
        with open(path, "rb") as f:
            if size <= FULLY_HASHED:
                parts.append(f.read())
                continue
            for block in range(17):
                f.seek(min(block * (size // 16), size - SAMPLE))
                parts.append(f.read(SAMPLE))
    return digest(*parts)


def _in_any_case(name: str) -> str:
    """Return the pattern of what begins so: repositories have LICENSE, License.md and license.txt."""
    letters = (f"[{c}{c.lower()}]" if c.isalpha() else c for c in name)
    return "".join(letters) + "*"


def is_licence_file(name: str) -> bool:
    """Return whether a file of a model's folder holds a licence, a notice or a policy of use."""
    return name.upper().startswith(LICENCE_FILES)


def folder_here(location: str, revision: str | None = None) -> Path | None:
    """Return the folder of a model that is on this machine; None where it is not.

    The network is not asked.
    """
    if Path(location).is_dir():
        return Path(location)
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        cached = try_to_load_from_cache(location, "config.json", revision=revision)
    except HFValidationError:  # a name on a server need be no hub id
        return None
    return Path(cached).parent if isinstance(cached, str) else None


def read_config(location: str, revision: str | None = None) -> dict[str, Any]:
    """Return the config.json of a local folder or of the hub cache; the network is not asked.

    Raises MissingError if it is absent, DataError if it is no model's.
    """
    folder = folder_here(location, revision)
    if folder is None:
        raise MissingError(
            f"model {location!r}: its config.json is not on this machine yet; {FETCH}"
        )
    path = folder / "config.json"
    config = read_json_object(path)
    require_model_values(path, config)
    return config


def stop_ids_of_files(location: str, revision: str | None = None) -> list[int]:
    """Return the ids that end an answer, from generation_config.json, else config.json."""
    folder = local_folder(location, revision, weights=False)
    for path in (folder / "generation_config.json", folder / "config.json"):
        if not path.is_file():
            continue
        if ids := token_ids(path, read_json_object(path).get("eos_token_id")):
            return ids
    return []


def num_parameters(folder: Path) -> int:
    """Count the numbers in a folder's files of weights, by their headers alone.

    Tied weights are stored, and counted, once.
    """
    return sum(tensor.size for tensor in stored_tensors(weight_files(folder)).values())
