"""A teacher that is a GGUF file (`teacher.gguf`): it answers and is listened to through llama.cpp, in this process, on the CPU.

With it a quantized model of 8 B parameters teaches on a laptop of 8 GB. Logits are whole, so that what is stored is
what this file says, to the last id. Answers are drawn by our own code with a seed a request; where weights are quantized
a row's result does not depend on its neighbours, so that a killed run goes on with what is missing alone.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from distill.errors import MismatchError
from distill.llama_cpp import gguf_header
from distill.llama_cpp.model import LlamaModel
from distill.recipe import Recipe

PROBE_TEXT = "It's 12,345 o'clock. 今天天气很好。 Habari yako? Apa kabar? नमस्ते, آپ 🎉\n\n  x = 1"
MOST_SEQUENCES = 32  # more at once make llama.cpp's attention slower, not the answers faster

OnFinished = Callable[[int, list[int], str], None]


def quantization(recipe: Recipe) -> str:
    """The type that holds most of the file's weights, e.g. Q4_K."""
    from gguf import GGMLQuantizationType

    assert recipe.gguf_teacher is not None
    weights: dict[int, int] = {}
    for tensor in gguf_header.read_tensor_infos(recipe.gguf_teacher):
        weights[tensor.type_id] = weights.get(tensor.type_id, 0) + tensor.num_weights
    return GGMLQuantizationType(max(weights, key=lambda type_id: weights[type_id])).name


@contextmanager
def loaded(
    recipe: Recipe, tokenizer: Any, *, context_length: int, num_sequences: int = 1
) -> Iterator[LlamaModel]:
    """The file, loaded. Raises MismatchError where it does not cut text into the tokenizer's tokens, and what LlamaModel raises."""
    path = recipe.gguf_teacher
    assert path is not None
    threads = recipe.quantize.num_threads
    with LlamaModel(
        path, num_threads=threads, context_length=context_length, num_sequences=num_sequences
    ) as llama:
        same = (
            llama.tokenize(PROBE_TEXT) == tokenizer(PROBE_TEXT, add_special_tokens=False).input_ids
        )
        if llama.num_known_ids < len(tokenizer) or not same:
            raise MismatchError(
                f"teacher.gguf: {path} has another tokenizer than teacher.model {recipe.teacher.model!r}: give the model that the "
                "file was made from"
            )
        yield llama


def answer(
    recipe: Recipe,
    tokenizer: Any,
    prompts: Sequence[Sequence[int]],
    *,
    seeds: Sequence[int],
    stop_ids: Sequence[int],
    on_finished: OnFinished,
) -> None:
    """Answer prompts (token ids) with generate's sampling; `on_finished(index, ids, "stop" | "length")` as each ends."""
    import torch

    from distill.models.decode import Drawer, Sampling

    options = recipe.generate
    longest = max(map(len, prompts)) + options.max_new_tokens
    sampling = Sampling(options.sampling_temperature, options.top_p, options.top_k)
    drawer = Drawer(seeds, sampling, options.max_new_tokens, len(tokenizer))
    num_sequences = max(
        1, min(MOST_SEQUENCES, len(prompts), recipe.teacher.batch_tokens // longest)
    )
    with loaded(recipe, tokenizer, context_length=longest, num_sequences=num_sequences) as llama:
        llama.generate(
            prompts,
            options.max_new_tokens,
            stop_ids,
            on_done=lambda i, ids: on_finished(i, ids, "stop" if ids[-1] in stop_ids else "length"),
            choose=lambda logits_NV, places: drawer(torch.from_numpy(logits_NV), places),
        )


def logit_chunks(llama: LlamaModel, ids: Sequence[int], start: int) -> Iterator[tuple[slice, Any]]:
    """(slice of the tokens from `start` on, float32 logits [N, V] that predict them, valid until the next)."""
    import torch

    for first, logits_NV in llama.logit_blocks(ids[:-1], start - 1):
        yield slice(first, first + len(logits_NV)), torch.from_numpy(logits_NV)
