"""The tokenizers that are trimmed: small ones of every kind, SmolLM2's and Qwen's own."""

from functools import cache

import pytest
from shaping_helpers import KINDS, made

from distill.models import load

loaded = cache(load.load_tokenizer)


@pytest.fixture(params=[*KINDS, "smollm2", "qwen"])
def parent(request):
    name = request.param
    if name in KINDS:
        return made(name)
    folder = request.getfixturevalue("smollm2" if name == "smollm2" else "qwen_tokenizer")
    if folder is None:
        pytest.skip("Qwen's vocabulary is not beside this checkout (../shared)")
    return loaded(str(folder))
