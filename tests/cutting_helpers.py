"""Text to cut small models by, and models that have lost some layers."""

import copy
import json
from pathlib import Path
from typing import Any

import torch
from run_helpers import QUICKSTART

from distill.core.results import Cut
from distill.data.samples import Sample
from distill.models import load
from distill.models.sequences import TokenSequence
from distill.recipe import load_recipe
from distill.shaping.calibration import Calibration
from distill.shaping.cutting import cut, reads_samples
from distill.shaping.layers import keep_layers
from distill.shaping.rows import keep_rows


class Tokens:
    """What is asked of a tokenizer."""

    pad_token_id = 0

    def __len__(self) -> int:
        return 300


def calibration(num: int = 5, vocab_size: int = 300, longest: int = 20) -> Calibration:
    """Random token sequences of several lengths."""
    generator = torch.Generator().manual_seed(3)
    sequences = []
    for number in range(num):
        length = longest - 2 * (number % 4)
        ids = torch.randint(3, vocab_size, (length,), generator=generator).tolist()
        sequences.append(TokenSequence(ids, 3 + number % 3))
    return Calibration(sequences, 0, vocab_size)


def with_layers(model: Any, kept: list[int]) -> Any:
    """Return a copy of the model with these layers."""
    cut = copy.deepcopy(model)
    keep_layers(cut, kept)
    return cut


def sample(key: str, language: str = "en", prompt: int = 4, answer: int = 6) -> Sample:
    """A sample of so many tokens."""
    ids = list(range(3, 3 + prompt + answer))
    return Sample(key, key, "?", language, None, "!", ids[:prompt], ids[prompt:])


def student_of(
    folder: Path,
    student: dict[str, Any],
    *,
    layers_on_disk: bool,
    is_trimmed: bool = False,
    device: str = "cpu",
) -> tuple[list[Cut], float | None, Any]:
    """Return (cuts that are told, NLL before them, the student) as initialize makes them of a folder."""
    values = json.dumps({"model": str(folder), **student})
    recipe = load_recipe(QUICKSTART, [f"student={values}", f"train.device={device}"])
    where = load.Placement("cpu", "float32", layers_on_disk=layers_on_disk)
    model = load.load_model(str(folder), where)
    if is_trimmed:
        keep_rows(model, [*range(60), *range(80, 220)])
    samples = [sample(f"s{i}", recipe.languages[0], 4 + i, 20 - i) for i in range(10)]
    read = samples if reads_samples(recipe.student) else None
    return *cut(recipe, model, Tokens(), read), model
