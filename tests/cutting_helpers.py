"""Text to cut small models by, and models that have lost some layers."""

import copy
from typing import Any

import torch

from distill.data.samples import Sample
from distill.models.sequences import TokenSequence
from distill.shaping.calibration import Calibration
from distill.shaping.layers import keep_layers


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
