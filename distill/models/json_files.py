"""What the JSON files of a model folder say, checked where it is read; without torch."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distill.errors import DataError, MissingError, shown

COUNTS = (
    "num_hidden_layers",
    "hidden_size",
    "vocab_size",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "max_position_embeddings",
)
KINDS: Mapping[str, type] = {
    "model_type": str,
    "architectures": list,
    "tie_word_embeddings": bool,
    "quantization_config": dict,
    "auto_map": dict,
    "text_config": dict,
}
DTYPES = frozenset(
    [
        "auto",
        "float",
        "float16",
        "float32",
        "float64",
        "half",
        "double",
        "bfloat16",
        "float8_e4m3fn",
        "float8_e5m2",
    ]
)


def read_json_object(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file of a model folder.

    Raises MissingError if there is no such file, DataError if it holds anything else.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise MissingError(f"{path}: no such file; fetch the whole folder again") from None
    except (ValueError, RecursionError, OSError) as error:
        raise DataError(f"{path}: not JSON ({shown(error)}); fetch it again") from None
    if not isinstance(value, dict):
        raise DataError(f"{path}: no object, so it is no model's; fetch it again")
    return value


def require_model_values(path: Path, config: Mapping[str, Any]) -> None:
    """Raise DataError if config.json, at `path`, has a value of a wrong kind. None is no value."""
    for key, kind in KINDS.items():
        value = config.get(key)
        if value is not None and not isinstance(value, kind):
            raise DataError(f"{path}: {key} {shown(value)} is no {kind.__name__}; fetch it again")
    for key in COUNTS:
        value = config.get(key)
        if value is not None and (type(value) is not int or value <= 0):
            raise DataError(f"{path}: {key} {shown(value)} is no positive number; fetch it again")
    for name in config.get("architectures") or []:
        if not isinstance(name, str):
            raise DataError(f"{path}: architectures {shown(name)} is no name; fetch it again")
    for key in ("dtype", "torch_dtype"):
        _require_dtype(path, key, config.get(key))
    if config.get("text_config"):
        require_model_values(path, config["text_config"])


def _require_dtype(path: Path, key: str, value: object) -> None:
    if value is None or (isinstance(value, str) and value in DTYPES):
        return
    raise DataError(
        f"{path}: {key} {shown(value)} is no type of numbers; float32, float16 and bfloat16 are "
        "usual"
    )


def token_ids(source: object, value: Any) -> list[int]:
    """Return the ids of an `eos_token_id`: a number, a list of them, or None.

    Raises DataError, which names `source`, for anything else.
    """
    if value is None:
        return []
    ids: list[Any] = value if isinstance(value, list) else [value]
    if any(type(number) is not int or number < 0 for number in ids):
        raise DataError(
            f"{source}: eos_token_id {shown(value)}: a token's id, or a list of ids, is needed"
        )
    return ids
