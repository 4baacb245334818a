"""What quantize.formats demand of a student, asked before the teacher has cost anything: its config, its tokenizer, its widths.

The questions are those that the export itself asks; where the student's files are not on this machine yet, the catalogue
knows its widths, and the rest is asked at the export.
"""

import tempfile
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from distill.catalog import catalog
from distill.errors import MismatchError, MissingError
from distill.models import find, load
from distill.recipe import Recipe
from distill.recipe.sections import FOLDERS, W16A16

# what families call the number of their experts in config.json
EXPERTS = ("num_experts", "n_routed_experts", "num_local_experts", "moe_num_experts")
K_QUANT_BLOCK = 256


def check_formats(recipe: Recipe) -> None:
    """Refuse formats that the student cannot have. Raises MismatchError, and MissingError for a package."""
    formats = recipe.quantize.formats
    if "w4a16" in formats and find_spec("compressed_tensors") is None:
        from distill.formats.w4a16 import INSTALL

        raise MissingError(f"{recipe.source}: quantize.formats: {INSTALL}")
    _check_widths(recipe)
    config = _student_config(recipe)
    if config is not None and formats:
        _check_architecture(recipe, config)
    if any(name not in FOLDERS for name in formats):
        _check_tokenizer(recipe, config)


def wide_rows(recipe: Recipe) -> str | None:
    """A warning where rows are no multiples of 256, so that k-quants will hold larger types; None where all are."""
    odd = [
        f"student {name} {value}"
        for name, value in row_sizes(recipe).items()
        if value % K_QUANT_BLOCK
    ]
    whole = [f for f in recipe.quantize.formats if "_k" in f or f in ("tq2_0", "mixed")]
    if not odd or not whole:
        return None
    return f"{', '.join(odd)}: not a multiple of {K_QUANT_BLOCK}, so {', '.join(whole)} will hold larger types in those tensors"


def row_sizes(recipe: Recipe) -> dict[str, int]:
    """Row lengths of the student's matrices, as far as its config.json or the catalogue say: what decides the GGUF types."""
    student, found = recipe.student, _student_config(recipe)
    config = student.model_dump() if student.method == "random" else found
    if config is None:
        known = catalog.find(student.model or "")
        _, hidden, heads, _, head_dim = known.shape if known and known.shape else (None,) * 5
        sizes = {
            "hidden_size": hidden,
            "heads x head_dim": heads * head_dim if heads and head_dim else None,
        }
        return {name: value for name, value in sizes.items() if value}
    config = config.get("text_config", config)
    hidden, heads = config["hidden_size"], config.get("num_attention_heads") or config["num_heads"]
    width = heads * (config.get("head_dim") or hidden // heads)
    return {
        "hidden_size": hidden,
        "intermediate_size": config["intermediate_size"],
        "heads x head_dim": width,
    }


def _student_config(recipe: Recipe) -> Mapping[str, Any] | None:
    """The config.json that the student begins with; None for a random student, and where it is not on this machine."""
    try:
        return (
            find.read_config(recipe.model_location(recipe.student.model), recipe.student.revision)
            if recipe.student.model
            else None
        )
    except MissingError:
        return None


def _check_widths(recipe: Recipe) -> None:
    from distill.formats import bitsandbytes, w4a16

    try:
        sizes = row_sizes(recipe)
    except KeyError:
        return  # a config of another kind: the plan says so when it asks for the size
    for name, block in (("nf4", bitsandbytes.BLOCK), ("w4a16", w4a16.GROUP)):
        odd = [f"{size} {value}" for size, value in sizes.items() if value % block]
        if name in recipe.quantize.formats and odd:
            raise MismatchError(
                f"{recipe.source}: quantize.formats: {name} needs rows in multiples of {block}, the student has "
                f"{', '.join(odd)}: take int8 or GGUF"
            )


def _check_architecture(recipe: Recipe, config: Mapping[str, Any]) -> None:
    from distill.formats.gguf.architectures import ARCHITECTURES, LANGUAGE_MODELS, problems

    whole, name = config.get("text_config", config), (config.get("architectures") or ["none"])[0]
    start = f"{recipe.source}: quantize.formats: student {recipe.student.model!r} is a {name}"
    if any(whole.get(count) for count in EXPERTS):
        raise MismatchError(
            f"{start}, a mixture of experts, which no format here can hold: set quantize.formats: [] and deploy the folder "
            f"quantize/{W16A16}"
        )
    wanted = [f for f in recipe.quantize.formats if f not in FOLDERS]
    others = f"Take the formats {', '.join(f for f in FOLDERS if f != W16A16)}, or none: quantize.formats: []"
    name = LANGUAGE_MODELS.get(name, name)
    if wanted and name not in ARCHITECTURES:
        raise MismatchError(
            f"{start}, which cannot be written to GGUF ({', '.join(wanted)}) here; known: {', '.join(ARCHITECTURES)}. {others}"
        )
    if wanted and "model_type" in whole:
        from transformers import AutoConfig

        options = {key: value for key, value in whole.items() if key != "architectures"}
        if problems := problems(AutoConfig.for_model(**options), name):
            raise MismatchError(f"{start}; llama.cpp's has no {'; no '.join(problems)}. {others}")


def _check_tokenizer(recipe: Recipe, config: Mapping[str, Any] | None) -> None:
    """The student's tokenizer, written as the export finds it; a random student has the teacher's."""
    from distill.formats.gguf.chat_template import require_same
    from distill.formats.gguf.vocabulary import read_vocabulary

    source = recipe.teacher if recipe.student.model is None else recipe.student
    location = recipe.model_location(source.model or "")
    try:
        find.read_config(location, source.revision)
        tokenizer = load.load_tokenizer(location, source.revision)
    except MissingError:
        return  # not on this machine yet
    whole = (config or {}).get("text_config", config or {})
    num_ids = whole.get("vocab_size") or len(tokenizer)
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        try:
            read_vocabulary(Path(folder), num_ids)
            if getattr(tokenizer, "chat_template", None):
                require_same(tokenizer, recipe.generate)
        except (MismatchError, MissingError) as error:
            raise MismatchError(
                f"{recipe.source}: quantize.formats: {str(error).replace(folder, location)}"
            ) from None
