"""Model folders and hub ids: find and identify them, and read what their files say, without torch."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from distill.core.digests import digest
from distill.errors import DataError, MissingError

WHOLE_FILE = 64 << 20


SAMPLE = 64 << 10


def local_folder(
    location: str, revision: str | None = None, *, weights: bool = True, code: bool = False
) -> Path:
    """The folder of a model on this machine; a hub id is downloaded (`weights` False: all but them; `code`: its Python
    files too), or found in the cache when offline."""
    if Path(location).is_dir():
        return Path(location)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    patterns = ["*.json", "*.jinja", "*.txt", "*.model", "LICENSE*"]
    patterns += (["*.safetensors"] if weights else []) + (["*.py"] if code else [])
    try:
        return Path(snapshot_download(location, revision=revision, allow_patterns=patterns))
    except LocalEntryNotFoundError:
        raise MissingError(
            f"model {location!r} is neither a folder (write ./{location} for one) nor in the hub cache, and the hub "
            "cannot be reached (HF_HUB_OFFLINE, no network?)"
        ) from None
    except (HfHubHTTPError, ValueError) as error:
        raise MissingError(f"model {location!r}: {str(error).splitlines()[0]}") from None


def identity(location: str, revision: str | None = None) -> str:
    """What tells one model from another, without torch: a hash of the folder's files, or the hub id and revision.

    Files up to 64 MiB are hashed whole; of bigger ones the size, the head (safetensors' table of tensors) and 16 blocks
    of 64 KiB, so that 16 GB of weights cost milliseconds.
    """
    folder = Path(location)
    if folder.is_dir():
        return digest_of_files(
            [
                p
                for p in sorted(folder.iterdir())
                if p.suffix in (".json", ".safetensors", ".jinja", ".py") and p.is_file()
            ]
        )
    return f"{location}@{revision or 'main'}"


def digest_of_files(paths: Sequence[Path]) -> str:
    parts: list[bytes] = []
    for path in paths:
        size = path.stat().st_size
        parts += [path.name.encode(), size.to_bytes(8, "little")]
        with open(path, "rb") as f:
            if size <= WHOLE_FILE:
                parts.append(f.read())
                continue
            for block in range(17):
                f.seek(min(block * (size // 16), size - SAMPLE))
                parts.append(f.read(SAMPLE))
    return digest(*parts)


def read_config(location: str, revision: str | None = None) -> dict[str, Any]:
    """config.json of a local folder or of the hub cache, without torch and without network. MissingError if absent, DataError if
    it is no model's."""
    path = Path(location) / "config.json"
    if not Path(location).is_dir():
        from huggingface_hub import try_to_load_from_cache

        cached = try_to_load_from_cache(location, "config.json", revision=revision)
        if not isinstance(cached, str):
            raise MissingError(f"model {location!r}: its config.json is not on this machine yet")
        path = Path(cached)
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path}: not JSON ({error}); fetch it again") from None
    if not isinstance(config, dict):
        raise DataError(f"{path}: no object, so it is no model's; fetch it again")
    return config


def stop_ids_of_files(location: str, revision: str | None = None) -> list[int]:
    """The same without the model: from generation_config.json, else config.json."""
    folder = local_folder(location, revision, weights=False)
    for name in ("generation_config.json", "config.json"):
        if (folder / name).is_file():
            found = json.loads((folder / name).read_text(encoding="utf-8")).get("eos_token_id")
            if found is not None:
                return found if isinstance(found, list) else [found]
    return []


def num_parameters(folder: Path) -> int:
    """Numbers in a folder's safetensors files, from their headers alone (tied weights are stored once)."""
    total = 0
    for path in folder.glob("*.safetensors"):
        with open(path, "rb") as f:
            header = json.loads(f.read(int.from_bytes(f.read(8), "little")))
        total += sum(math.prod(t["shape"]) for name, t in header.items() if name != "__metadata__")
    return total
