"""Run a GGUF file in llama.cpp, in this process: what it tokenizes, predicts and answers.

C code that meets a bad file may crash, so the stages use `LlamaProcess` (process.py), the same in a
process of its own; only a teacher that is a GGUF file is run here. Keys and values are cached in
float32: the default float16 moves log-probabilities by up to 7e-3, which would be read as the
file's fault.
"""

import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from distill.core.prefixes import common_prefix_length
from distill.errors import DataError, MismatchError, MissingError
from distill.llama_cpp import library
from distill.llama_cpp.reference_rows import ReferenceRows, kl_divergence
from distill.llama_cpp.threads import SpareThreads

BATCH_TOKENS = 512
LOGIT_VALUES = 16 << 20  # float32 logits held at once: 64 MiB
KV_TYPES = {"f32": 0, "f16": 1}  # ids of ggml.h
FLASH_ATTENTION_OFF = 0


class Scored(NamedTuple):
    """What a file says of the tokens of one sequence.

    Log-prob of each token, float32 [T]; the likeliest id there, int64 [T]; KL divergence of the
    file's distribution from the reference ones, float64 [P], nats.
    """

    logp_T: np.ndarray
    top_T: np.ndarray
    kl_P: np.ndarray


OnAnswer = Callable[[int, list[int]], None]
# logits [N, V], and the (prompt, token of its answer) that each row is for
Choose = Callable[[np.ndarray, Sequence[tuple[int, int]]], list[int]]

NUM_PROMPT_TOKENS, NUM_NEW_TOKENS = 128, 32  # read and written to measure the speed


@dataclass(frozen=True)
class Speed:
    """Tokens a second of one sequence: of reading a prompt, and of writing an answer."""

    prefill: float
    decode: float


class LlamaModel:
    """A GGUF file in llama.cpp, on the CPU. Use as a context manager.

    It takes `num_threads` threads, or fewer while other processes are at work, unless
    `exact_threads`. `num_sequences` answers are made at once; each has `context_length` tokens. Memory for keys and
    values is num_sequences x context_length x layers x 2 x key/value width x 4 bytes ("f32"; 2 for
    "f16"). `one_cache`: all sequences lie in one of context_length tokens, and may share a context.
    """

    def __init__(
        self,
        path: Path,
        *,
        num_threads: int,
        context_length: int,
        num_sequences: int = 1,
        kv_type: str = "f32",
        exact_threads: bool = False,
        one_cache: bool = False,
    ):
        self.path, self.num_sequences, self.context_length = path, num_sequences, context_length
        self._one_cache = one_cache
        self._num_threads, self._kv_type = num_threads, KV_TYPES[kv_type]
        self._exact_threads = exact_threads
        self._model = self._context = None

    def __enter__(self) -> "LlamaModel":
        """Load the file.

        Raises MissingError (no such file) and DataError (llama.cpp cannot load it, with its own
        reason).
        """
        if not self.path.is_file():
            raise MissingError(f"{self.path}: no such file")
        self._lib = library.library()
        library.LOG.install(self._lib)
        params = self._lib.llama_model_default_params()
        params.n_gpu_layers = 0
        params.check_tensors = True
        self._model = self._lib.llama_model_load_from_file(os.fsencode(self.path), params)
        if not self._model:
            raise DataError(
                f"{self.path}: llama.cpp cannot load it ({library.LOG.problem}); write it again"
            )
        self._vocab = self._lib.llama_model_get_vocab(self._model)
        self.num_ids = self._lib.llama_vocab_n_tokens(self._vocab)
        self.num_known_ids = self._count_known_ids()
        self._num_outputs = min(
            BATCH_TOKENS, max(LOGIT_VALUES // self.num_ids, self.num_sequences, 1)
        )
        self._open_context()
        self._buffers = _BatchBuffers(max(BATCH_TOKENS, self.num_sequences))
        return self

    def __exit__(self, *_: object) -> None:
        if self._context:
            self._lib.llama_free(self._context)
        if self._model:
            self._lib.llama_model_free(self._model)
        self._context = self._model = None

    def _open_context(self) -> None:
        params = self._lib.llama_context_default_params()
        params.kv_unified = self._one_cache
        params.n_ctx = self.context_length * (1 if self._one_cache else self.num_sequences)
        params.n_batch = params.n_ubatch = max(BATCH_TOKENS, self.num_sequences)
        params.n_seq_max = self.num_sequences
        params.n_outputs_max = params.n_outputs_max_per_seq = self._num_outputs
        params.n_threads = params.n_threads_batch = self._num_threads
        params.type_k = params.type_v = self._kv_type
        params.flash_attn_type = FLASH_ATTENTION_OFF  # one arithmetic for every file and cache type
        self._context = self._lib.llama_init_from_model(self._model, params)
        if not self._context or self._lib.llama_n_ctx_seq(self._context) < self.context_length:
            raise DataError(
                f"{self.path}: llama.cpp cannot make {self.num_sequences} contexts of "
                f"{self.context_length} tokens ({library.LOG.problem}); too little memory?"
            )
        self._memory = self._lib.llama_get_memory(self._context)
        self._held: Sequence[int] = []  # the context that sequence 0 holds
        self._threads = None if self._exact_threads else self._spare_threads()

    @property
    def num_threads(self) -> int:
        """Return the number of threads that it takes now."""
        return self._num_threads if self._threads is None else self._threads.count

    def _spare_threads(self) -> SpareThreads:
        def set_threads(count: int) -> None:
            self._lib.llama_set_n_threads(self._context, count, count)

        return SpareThreads(self._num_threads, set_threads)

    def _count_known_ids(self) -> int:
        """Return the number of ids before the padding at the vocabulary's end.

        The padding has logits but no text.
        """
        known = self.num_ids
        while known and self._is_unused(known - 1):
            known -= 1
        return known

    def _is_unused(self, token_id: int) -> bool:
        attributes = self._lib.llama_vocab_get_attr(self._vocab, token_id)
        return bool(attributes & library.TOKEN_UNUSED)

    def tokenize(self, text: str) -> list[int]:
        """Return the token ids of `text`, nothing added; special tokens written in it are text."""
        return self._tokenize(text, is_prompt=False)

    def tokenize_prompt(self, text: str) -> list[int]:
        """Return the ids that llama.cpp's server makes of what the chat template has written.

        Special tokens are special. Where the file says that bos is to be added, one that the
        template has written is not there twice.
        """
        if self._lib.llama_vocab_get_add_bos(self._vocab):
            bos = self._lib.llama_vocab_bos(self._vocab)
            text = text.removeprefix(self._lib.llama_vocab_get_text(self._vocab, bos).decode())
        return self._tokenize(text, is_prompt=True)

    def _tokenize(self, text: str, *, is_prompt: bool) -> list[int]:
        data = text.encode()
        # a byte or, of a space that SentencePiece does not know, three
        ids = np.empty(3 * len(data) + 8, np.int32)
        count = self._lib.llama_tokenize(
            self._vocab, data, len(data), ids.ctypes.data, len(ids), is_prompt, is_prompt
        )
        if count < 0:
            raise DataError(f"{self.path}: llama.cpp cannot tokenize {text[:40]!r}")
        return ids[:count].tolist()

    def score(
        self, token_ids: Sequence[int], start: int, reference: ReferenceRows | None = None
    ) -> Scored:
        """Score the tokens from `start` on, and compare with the reference at some of them.

        Over the ids that have a text, without the padding; never more than 64 MiB of logits at
        once. Raises MismatchError if the reference is of another vocabulary.
        """
        if not 1 <= start <= len(token_ids):
            raise ValueError(
                f"start {start} must be between 1 and the number of tokens, {len(token_ids)}"
            )
        labels = np.asarray(token_ids[start:])
        logp, top = np.empty(len(labels), np.float32), np.empty(len(labels), np.int64)
        kl: list[float] = []
        for first, logits_NV in self.logit_blocks(token_ids[:-1], start - 1):
            part = slice(first, first + len(logits_NV))
            known_NV = logits_NV[:, : self.num_known_ids]
            top[part] = known_NV.argmax(-1)
            largest_N1 = known_NV.max(-1, keepdims=True)
            log_total_N = largest_N1[:, 0] + np.log(
                np.exp(known_NV - largest_N1).sum(-1, dtype=np.float64)
            )
            logp[part] = logits_NV[np.arange(len(logits_NV)), labels[part]] - log_total_N
            if reference is not None:
                for position in (p for p in reference.positions if first <= p < part.stop):
                    row = position - first
                    kl.append(self._kl(reference, len(kl), known_NV[row] - log_total_N[row]))
        return Scored(logp, top, np.array(kl))

    def _kl(self, reference: ReferenceRows, number: int, logp_V: np.ndarray) -> float:
        """Return KL(reference ‖ file) at one position, in float64 (the log-probs are float32)."""
        reference_V = reference.row(number)
        if len(reference_V) != len(logp_V):
            raise MismatchError(
                f"{self.path}: has {len(logp_V)} ids with a text, {reference.path} "
                f"{len(reference_V)}; of another tokenizer?"
            )
        return kl_divergence(reference_V, logp_V)

    def log_likelihoods(
        self, context: Sequence[int], continuations: Sequence[Sequence[int]]
    ) -> list[float]:
        """Return the log-prob of each continuation of a context, summed over its tokens.

        Over the ids that have a text. The context is read once: each continuation of several tokens
        is a sequence of its own that has its keys and values, too (`one_cache`). What the context
        before began with, too, is not read again. Raises DataError where they do not fit.
        """
        rest = [ids for ids in continuations if len(ids) > 1]
        num_tokens = len(context) + sum(len(ids) - 1 for ids in rest)
        if num_tokens > self.context_length or len(rest) >= self.num_sequences:
            raise DataError(
                f"{self.path}: a context of {len(context)} tokens with {len(rest)} continuations "
                f"does not fit context_length {self.context_length}, {self.num_sequences} sequences"
            )
        after_context = _log_softmax(self._read_context(context)[:, : self.num_known_ids])[0]
        sums = [float(after_context[ids[0]]) for ids in continuations]
        for slot in range(1, len(rest) + 1):
            self._lib.llama_memory_seq_cp(self._memory, 0, slot, -1, -1)
        read = [  # token, position, slot, and the token after it
            (ids[i], len(context) + i, slot, ids[i + 1])
            for slot, ids in enumerate(rest, 1)
            for i in range(len(ids) - 1)
        ]
        of_slot = [0.0] * (len(rest) + 1)
        for first in range(0, len(read), self._num_outputs):
            part = read[first : first + self._num_outputs]
            tokens, positions, slots, labels = zip(*part, strict=True)
            logits_NV = self._decode(tokens, positions, slots, num_outputs=len(part))
            logp_NV = _log_softmax(logits_NV[:, : self.num_known_ids])
            for row, (slot, label) in enumerate(zip(slots, labels, strict=True)):
                of_slot[slot] += float(logp_NV[row, label])
        longer = iter(of_slot[1:])
        return [
            total + (next(longer) if len(ids) > 1 else 0.0)
            for total, ids in zip(sums, continuations, strict=True)
        ]

    def _read_context(self, context: Sequence[int]) -> np.ndarray:
        """Read a context into sequence 0, empty all others, and return the logits after it, [1, V]."""
        for slot in range(1, self.num_sequences):
            self._lib.llama_memory_seq_rm(self._memory, slot, -1, -1)
        # the last token is read in any case: its logits are wanted
        shared = common_prefix_length(self._held, context[:-1])
        if not self._keep(shared):
            self._forget()
            shared = 0
        self._held = []  # until all of it is read
        logits_1V = self._prefill(context, 0, start=shared)
        self._held = context
        return logits_1V

    def _keep(self, num_tokens: int) -> bool:
        """Drop all but the first tokens of sequence 0; False where the model cannot.

        A recurrent state cannot go back, and a sliding window may have dropped the first ones.
        """
        if not num_tokens or self._lib.llama_memory_seq_pos_min(self._memory, 0) > 0:
            return False
        return self._lib.llama_memory_seq_rm(self._memory, 0, num_tokens, -1)

    def _forget(self) -> None:
        """Empty all sequences."""
        self._held = []
        self._lib.llama_memory_clear(self._memory, True)

    def logit_blocks(
        self, token_ids: Sequence[int], start: int
    ) -> Iterator[tuple[int, np.ndarray]]:
        """Yield the logits after the tokens from `start` on, at most 64 MiB at a time.

        Each block is (offset from `start`, float32 [N, V] that the next block overwrites).
        """
        if len(token_ids) > self.context_length:
            raise DataError(
                f"{self.path}: {len(token_ids)} tokens do not fit "
                f"context_length {self.context_length}"
            )
        self._forget()
        for first in range(0, min(start, len(token_ids)), BATCH_TOKENS):
            part = range(first, min(first + BATCH_TOKENS, start))
            self._decode([token_ids[i] for i in part], part, [0] * len(part), num_outputs=0)
        for first in range(start, len(token_ids), self._num_outputs):
            part = range(first, min(first + self._num_outputs, len(token_ids)))
            tokens = [token_ids[i] for i in part]
            yield first - start, self._decode(tokens, part, [0] * len(part), num_outputs=len(part))

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
        stop_ids: Sequence[int],
        on_done: OnAnswer | None = None,
        choose: Choose | None = None,
    ) -> list[list[int]]:
        """Return the answers, ids with the stop token that ended them.

        `num_sequences` are written at once; a slot that is free is refilled (continuous batching).
        `choose` takes the next id of each row (None: the likeliest that has a text);
        `on_done(index, answer)` is called as each ends. Raises DataError for a prompt that is empty
        or too long.
        """
        choose = choose or self._likeliest
        self._refuse_lengths(prompts, max_new_tokens)
        self._forget()
        answers: list[list[int]] = [[] for _ in prompts]
        waiting = deque(range(len(prompts)))
        free = list(range(self.num_sequences))
        active: dict[int, int] = {}  # slot -> prompt
        ends = set(stop_ids)
        while waiting or active:
            while waiting and free:
                slot, index = free.pop(), waiting.popleft()
                active[slot] = index
                answers[index] += choose(self._prefill(prompts[index], slot), [(index, 0)])
            for slot, index in list(active.items()):
                if answers[index][-1] in ends or len(answers[index]) >= max_new_tokens:
                    del active[slot]
                    free.append(slot)
                    self._lib.llama_memory_seq_rm(self._memory, slot, -1, -1)
                    if on_done is not None:
                        on_done(index, answers[index])
            if active:
                rows = list(active.values())
                positions = [len(prompts[i]) + len(answers[i]) - 1 for i in rows]
                logits_SV = self._decode(
                    [answers[i][-1] for i in rows], positions, list(active), num_outputs=len(rows)
                )
                chosen_ids = choose(logits_SV, [(i, len(answers[i])) for i in rows])
                for index, chosen_id in zip(rows, chosen_ids, strict=True):
                    answers[index].append(chosen_id)
        return answers

    def _refuse_lengths(self, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> None:
        for index, prompt in enumerate(prompts):
            if not 0 < len(prompt) <= self.context_length - max_new_tokens:
                raise DataError(
                    f"{self.path}: prompt {index} has {len(prompt)} tokens; with {max_new_tokens} "
                    f"new ones it must be between 1 and context_length {self.context_length}"
                )

    def _likeliest(self, logits_NV: np.ndarray, _rows: object = None) -> list[int]:
        return logits_NV[:, : self.num_known_ids].argmax(-1).tolist()

    def _prefill(self, prompt: Sequence[int], slot: int, start: int = 0) -> np.ndarray:
        """Read a prompt, from token `start` on, into a slot; return the logits after it, [1, V]."""
        last = start + (len(prompt) - 1 - start) // BATCH_TOKENS * BATCH_TOKENS
        for first in range(start, last, BATCH_TOKENS):
            part = range(first, first + BATCH_TOKENS)
            self._decode([prompt[i] for i in part], part, [slot] * len(part), num_outputs=0)
        part = range(last, len(prompt))
        return self._decode([prompt[i] for i in part], part, [slot] * len(part), num_outputs=1)

    def speed(
        self, num_prompt_tokens: int = NUM_PROMPT_TOKENS, num_new_tokens: int = NUM_NEW_TOKENS
    ) -> Speed:
        """Measure the speed on one sequence of arbitrary tokens, after a warm-up."""
        prompt = [i % self.num_known_ids for i in range(num_prompt_tokens)]
        self._forget()
        self._prefill(prompt[:8], 0)
        self._forget()
        start = time.perf_counter()
        token = self._likeliest(self._prefill(prompt, 0))[0]
        middle = time.perf_counter()
        for position in range(num_prompt_tokens, num_prompt_tokens + num_new_tokens):
            token = self._likeliest(self._decode([token], [position], [0], num_outputs=1))[0]
        end = time.perf_counter()
        return Speed(num_prompt_tokens / (middle - start), num_new_tokens / (end - middle))

    def _decode(
        self,
        tokens: Sequence[int],
        positions: Sequence[int],
        slots: Sequence[int],
        *,
        num_outputs: int,
    ) -> np.ndarray:
        """Call llama_decode once and return the logits of the last `num_outputs` tokens.

        float32 [num_outputs, V], valid until the next call.
        """
        # llama.cpp reads outside its table
        if tokens and not 0 <= min(tokens) <= max(tokens) < self.num_ids:
            raise DataError(
                f"{self.path}: token ids must be between 0 and {self.num_ids - 1}; "
                "of another tokenizer?"
            )
        if self._threads is not None:
            self._threads.adjust()
        code = self._lib.llama_decode(
            self._context, self._buffers.fill(tokens, positions, slots, num_outputs)
        )
        if code != 0:
            raise DataError(
                f"{self.path}: llama.cpp's decode failed with {code} ({library.LOG.problem})"
            )
        if not num_outputs:
            return np.empty((0, self.num_ids), np.float32)
        return np.ctypeslib.as_array(
            self._lib.llama_get_logits(self._context), (num_outputs, self.num_ids)
        )


def _log_softmax(logits_NV: np.ndarray) -> np.ndarray:
    """Return log-probs, float64 sums over float32 logits."""
    shifted_NV = logits_NV - logits_NV.max(-1, keepdims=True)
    return shifted_NV - np.log(np.exp(shifted_NV).sum(-1, dtype=np.float64))[:, None]


class _BatchBuffers:
    """The arrays that a llama_batch points to."""

    def __init__(self, size: int):
        self.token, self.pos, self.slot = (np.zeros(size, np.int32) for _ in range(3))
        self.one, self.output = np.ones(size, np.int32), np.zeros(size, np.int8)
        self.slot_pointers = self.slot.ctypes.data + self.slot.itemsize * np.arange(
            size, dtype=np.uint64
        )

    def fill(
        self,
        tokens: Sequence[int],
        positions: Sequence[int],
        slots: Sequence[int],
        num_outputs: int,
    ) -> library.Batch:
        count = len(tokens)
        self.token[:count], self.pos[:count], self.slot[:count] = tokens, positions, slots
        self.output[:count] = 0
        self.output[count - num_outputs : count] = 1
        pointers = (a.ctypes.data for a in (self.pos, self.one, self.slot_pointers, self.output))
        return library.Batch(count, self.token.ctypes.data, None, *pointers)
