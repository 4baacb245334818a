"""llama.cpp as our judge: what a GGUF file tokenizes, predicts and answers in the runtime that people will use.

`LlamaModel` calls it in this process. C code that meets a bad file may crash, so the stages that judge our own files use
`LlamaProcess`: the same model in a process of its own, which speaks JSON Lines over its standard input and output:

    python -m distill.export.llama_cpp FILE.gguf < requests.jsonl > answers.jsonl

A crash there is a DataError here, naming file and signal. Keys and values are cached in float32: the default float16
moves log-probabilities by up to 7e-3, which would be read as the file's fault.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from distill.errors import DataError, DistillError, MismatchError, MissingError
from distill.export import llama_library

BATCH_TOKENS = 512
LOGIT_VALUES = 16 << 20  # float32 logits held at once: 64 MiB
KV_TYPES = {"f32": 0, "f16": 1}  # ids of ggml.h
FLASH_ATTENTION_OFF = 0


class Scored(NamedTuple):
    """Log-prob of each token, float32 [T]; the likeliest id there, int64 [T]; KL divergence of the file's distribution from
    the given ones, float64 [P], nats."""

    logp_T: np.ndarray
    top_T: np.ndarray
    kl_P: np.ndarray


class Given(NamedTuple):
    """Distributions to compare with: rows `first`.. of a float32 .npy file of log-probs [rows, ids with a text], for the
    answer tokens `places`, in ascending order."""

    path: Path
    first: int
    places: Sequence[int]


OnScored = Callable[[int, Scored], None]
OnAnswer = Callable[[int, list[int]], None]
Choose = Callable[[np.ndarray, Sequence[tuple[int, int]]], list[int]]  # logits [N, V], (prompt, token of its answer) a row


@dataclass(frozen=True)
class Speed:
    """Tokens a second of one sequence: reading a prompt, and writing an answer token by token."""

    prefill: float
    decode: float


class LlamaModel:
    """A GGUF file in llama.cpp, on the CPU. Use as a context manager.

    `num_sequences` answers are made at once; each has `context_length` tokens. Memory for keys and values is
    num_sequences x context_length x layers x 2 x key/value width x 4 bytes ("f32"; 2 for "f16").
    """

    def __init__(
        self, path: Path, *, num_threads: int, context_length: int, num_sequences: int = 1, kv_type: str = "f32"
    ):
        self.path, self.num_sequences, self.context_length = path, num_sequences, context_length
        self._num_threads, self._kv_type = num_threads, KV_TYPES[kv_type]
        self._model = self._context = None

    def __enter__(self) -> "LlamaModel":
        """Raises MissingError (no such file) and DataError (llama.cpp cannot load it, with its own reason)."""
        if not self.path.is_file():
            raise MissingError(f"{self.path}: no such file")
        self._lib = llama_library.library()
        llama_library.LOG.install(self._lib)
        params = self._lib.llama_model_default_params()
        params.n_gpu_layers = 0
        params.check_tensors = True
        self._model = self._lib.llama_model_load_from_file(os.fsencode(self.path), params)
        if not self._model:
            raise DataError(f"{self.path}: llama.cpp cannot load it ({llama_library.LOG.problem}); write it again")
        self._vocab = self._lib.llama_model_get_vocab(self._model)
        self.num_ids = self._lib.llama_vocab_n_tokens(self._vocab)
        self.num_known_ids = self._count_known_ids()
        self._num_outputs = min(BATCH_TOKENS, max(LOGIT_VALUES // self.num_ids, self.num_sequences, 1))
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
        params.n_ctx = self.context_length * self.num_sequences
        params.n_batch = params.n_ubatch = max(BATCH_TOKENS, self.num_sequences)
        params.n_seq_max = self.num_sequences
        params.n_outputs_max = params.n_outputs_max_per_seq = self._num_outputs
        params.n_threads = params.n_threads_batch = self._num_threads
        params.type_k = params.type_v = self._kv_type
        params.flash_attn_type = FLASH_ATTENTION_OFF  # one arithmetic for every file and cache type
        self._context = self._lib.llama_init_from_model(self._model, params)
        if not self._context or self._lib.llama_n_ctx_seq(self._context) < self.context_length:
            raise DataError(
                f"{self.path}: llama.cpp cannot make {self.num_sequences} contexts of {self.context_length} tokens "
                f"({llama_library.LOG.problem}); too little memory?"
            )
        self._memory = self._lib.llama_get_memory(self._context)

    def _count_known_ids(self) -> int:
        """Ids before the padding at the vocabulary's end: the padding has logits but no text."""
        known = self.num_ids
        while known and self._lib.llama_vocab_get_attr(self._vocab, known - 1) & llama_library.TOKEN_UNUSED:
            known -= 1
        return known

    def tokenize(self, text: str, parse_special: bool) -> list[int]:
        """Token ids of `text`, nothing added. Special tokens written in it are text unless `parse_special`."""
        data = text.encode()
        ids = np.empty(3 * len(data) + 8, np.int32)  # a byte or, of a space that SentencePiece does not know, three
        count = self._lib.llama_tokenize(
            self._vocab, data, len(data), ids.ctypes.data, len(ids), False, parse_special
        )
        if count < 0:
            raise DataError(f"{self.path}: llama.cpp cannot tokenize {text[:40]!r}")
        return ids[:count].tolist()

    def logits(self, token_ids: Sequence[int]) -> np.ndarray:
        """float32 [T, V]: teacher-forced logits after each token. Holds all of them; for long texts use `score`."""
        blocks = [block_NV.copy() for _, block_NV in self.logit_blocks(token_ids, 0)]
        return np.concatenate(blocks)

    def score(self, token_ids: Sequence[int], start: int, given: Given | None = None) -> Scored:
        """The tokens from `start` on, and how far the file is from the `given` distributions at some of them.

        Over the ids that have a text, without the padding; never more than 64 MiB of logits at once.
        """
        if not 1 <= start <= len(token_ids):
            raise ValueError(f"start {start} must be between 1 and the number of tokens, {len(token_ids)}")
        labels = np.asarray(token_ids[start:])
        logp, top = np.empty(len(labels), np.float32), np.empty(len(labels), np.int64)
        kl: list[float] = []
        for first, logits_NV in self.logit_blocks(token_ids[:-1], start - 1):
            part = slice(first, first + len(logits_NV))
            known_NV = logits_NV[:, : self.num_known_ids]
            top[part] = known_NV.argmax(-1)
            largest_N1 = known_NV.max(-1, keepdims=True)
            log_total_N = largest_N1[:, 0] + np.log(np.exp(known_NV - largest_N1).sum(-1, dtype=np.float64))
            logp[part] = logits_NV[np.arange(len(logits_NV)), labels[part]] - log_total_N
            if given is not None:
                for place in (p for p in given.places if first <= p < part.stop):
                    kl.append(self._kl(given, len(kl), known_NV[place - first] - log_total_N[place - first]))
        return Scored(logp, top, np.array(kl))

    def _kl(self, given: Given, number: int, logp_V: np.ndarray) -> float:
        """KL(given ‖ file) at one position, in float64 (the log-probs are float32)."""
        rows_RV = np.load(given.path, mmap_mode="r")
        if rows_RV.shape[1] != len(logp_V):
            raise MismatchError(f"{self.path}: has {len(logp_V)} ids with a text, {given.path} {rows_RV.shape[1]}; of another tokenizer?")
        given_V = rows_RV[given.first + number].astype(np.float64)
        return float((np.exp(given_V) * (given_V - logp_V)).sum())

    def logit_blocks(self, token_ids: Sequence[int], start: int) -> Iterator[tuple[int, np.ndarray]]:
        """(offset from `start`, float32 [N, V] that the next block overwrites) for positions start .. T-1, 64 MiB at most."""
        if len(token_ids) > self.context_length:
            raise DataError(f"{self.path}: {len(token_ids)} tokens do not fit context_length {self.context_length}")
        self._lib.llama_memory_clear(self._memory, True)
        for first in range(0, min(start, len(token_ids)), BATCH_TOKENS):
            part = range(first, min(first + BATCH_TOKENS, start))
            self._decode([token_ids[i] for i in part], part, [0] * len(part), num_outputs=0)
        for first in range(start, len(token_ids), self._num_outputs):
            part = range(first, min(first + self._num_outputs, len(token_ids)))
            tokens = [token_ids[i] for i in part]
            yield first - start, self._decode(tokens, part, [0] * len(part), num_outputs=len(part))

    def generate(
        self, prompts: Sequence[Sequence[int]], max_new_tokens: int, stop_ids: Sequence[int],
        on_done: OnAnswer | None = None, choose: Choose | None = None,
    ) -> list[list[int]]:  # fmt: skip
        """Answers, ids with the stop token that ended them; `num_sequences` at once, a free place refilled.

        `choose` takes the next id of each row (None: the likeliest that has a text); `on_done(index, answer)` is called as
        each ends. Raises DataError for a prompt that is empty or too long.
        """
        choose = choose or self._likeliest
        for index, prompt in enumerate(prompts):
            if not 0 < len(prompt) <= self.context_length - max_new_tokens:
                raise DataError(
                    f"{self.path}: prompt {index} has {len(prompt)} tokens; with {max_new_tokens} new ones it must be "
                    f"between 1 and context_length {self.context_length}"
                )
        self._lib.llama_memory_clear(self._memory, True)
        answers: list[list[int]] = [[] for _ in prompts]
        waiting, free, active = deque(range(len(prompts))), list(range(self.num_sequences)), {}
        ends = set(stop_ids)
        while waiting or active:
            while waiting and free:
                active[(slot := free.pop())] = (index := waiting.popleft())
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
                logits_SV = self._decode([answers[i][-1] for i in rows], positions, list(active), num_outputs=len(rows))
                for index, chosen in zip(rows, choose(logits_SV, [(i, len(answers[i])) for i in rows]), strict=True):
                    answers[index].append(chosen)
        return answers

    def _likeliest(self, logits_NV: np.ndarray, _places: object = None) -> list[int]:
        return logits_NV[:, : self.num_known_ids].argmax(-1).tolist()

    def _prefill(self, prompt: Sequence[int], slot: int) -> np.ndarray:
        """Read a prompt into a sequence; logits [1, V] after it."""
        last = (len(prompt) - 1) // BATCH_TOKENS * BATCH_TOKENS
        for first in range(0, last, BATCH_TOKENS):
            part = range(first, first + BATCH_TOKENS)
            self._decode([prompt[i] for i in part], part, [slot] * len(part), num_outputs=0)
        part = range(last, len(prompt))
        return self._decode([prompt[i] for i in part], part, [slot] * len(part), num_outputs=1)

    def speed(self, num_prompt_tokens: int = 128, num_new_tokens: int = 32) -> Speed:
        """Measured on one sequence of arbitrary tokens, after a warm-up."""
        prompt = [i % self.num_known_ids for i in range(num_prompt_tokens)]
        self._lib.llama_memory_clear(self._memory, True)
        self._prefill(prompt[:8], 0)
        self._lib.llama_memory_clear(self._memory, True)
        start = time.perf_counter()
        token = self._likeliest(self._prefill(prompt, 0))[0]
        middle = time.perf_counter()
        for position in range(num_prompt_tokens, num_prompt_tokens + num_new_tokens):
            token = self._likeliest(self._decode([token], [position], [0], num_outputs=1))[0]
        end = time.perf_counter()
        return Speed(num_prompt_tokens / (middle - start), num_new_tokens / (end - middle))

    def _decode(
        self, tokens: Sequence[int], positions: Sequence[int], slots: Sequence[int], *, num_outputs: int
    ) -> np.ndarray:
        """One llama_decode; float32 [num_outputs, V] for the last `num_outputs` tokens, valid until the next call."""
        if tokens and not 0 <= min(tokens) <= max(tokens) < self.num_ids:  # llama.cpp reads outside its table
            raise DataError(f"{self.path}: token ids must be between 0 and {self.num_ids - 1}; of another tokenizer?")
        code = self._lib.llama_decode(self._context, self._buffers.fill(tokens, positions, slots, num_outputs))
        if code != 0:
            raise DataError(f"{self.path}: llama.cpp's decode failed with {code} ({llama_library.LOG.problem})")
        if not num_outputs:
            return np.empty((0, self.num_ids), np.float32)
        return np.ctypeslib.as_array(self._lib.llama_get_logits(self._context), (num_outputs, self.num_ids))


class _BatchBuffers:
    """The arrays that a llama_batch points to."""

    def __init__(self, size: int):
        self.token, self.pos, self.slot = (np.zeros(size, np.int32) for _ in range(3))
        self.one, self.output = np.ones(size, np.int32), np.zeros(size, np.int8)
        self.slot_pointers = self.slot.ctypes.data + self.slot.itemsize * np.arange(size, dtype=np.uint64)

    def fill(
        self, tokens: Sequence[int], positions: Sequence[int], slots: Sequence[int], num_outputs: int
    ) -> llama_library.Batch:
        count = len(tokens)
        self.token[:count], self.pos[:count], self.slot[:count] = tokens, positions, slots
        self.output[:count] = 0
        self.output[count - num_outputs : count] = 1
        pointers = (a.ctypes.data for a in (self.pos, self.one, self.slot_pointers, self.output))
        return llama_library.Batch(count, self.token.ctypes.data, None, *pointers)


class LlamaProcess:
    """`LlamaModel` in a process of its own: `with LlamaProcess(path, num_threads=4, context_length=1024) as llama:`"""

    def __init__(
        self, path: Path, *, num_threads: int, context_length: int, num_sequences: int = 1, kv_type: str = "f32"
    ):
        self.path = path
        self._arguments = [
            str(path.absolute()), "--num-threads", str(num_threads), "--context-length", str(context_length),
            "--num-sequences", str(num_sequences), "--kv-type", kv_type,
        ]  # fmt: skip
        self._child: subprocess.Popen[str] | None = None

    def __enter__(self) -> "LlamaProcess":
        """Start and load. Raises what LlamaModel raises, and DataError for a crash."""
        root = str(Path(__file__).resolve().parents[2])  # the package need not be installed
        paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "GGML_NO_BACKTRACE": "1"}
        self._errors = tempfile.TemporaryFile()  # a pipe could fill and block
        self._child = subprocess.Popen(
            # -P: the working folder may hold files named like modules
            [sys.executable, "-P", "-m", "distill.export.llama_cpp", *self._arguments], env=environment, text=True,
            encoding="utf-8", stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors,
        )  # fmt: skip
        try:
            self._receive("loading")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        child, self._child = self._child, None
        if child is not None:
            child.kill()  # it holds nothing that must be saved
            child.communicate()
        self._errors.close()

    def tokenize(self, texts: Sequence[str], *, parse_special: bool = False) -> list[list[int]]:
        self._send({"do": "tokenize", "texts": list(texts), "parse_special": parse_special})
        return self._receive("tokenizing")["ids"]

    def score(
        self, sequences: Sequence[tuple[Sequence[int], int]], given: Sequence[Given] = (), *, on_done: OnScored | None = None
    ) -> list[Scored]:  # fmt: skip
        """LlamaModel.score for each (ids, start), with its `given` where there are some."""
        results = []
        for index, (ids, start) in enumerate(sequences):
            beside = {"path": str(given[index].path.absolute()), "first": given[index].first,
                      "places": list(map(int, given[index].places))} if given else None  # fmt: skip
            self._send({"do": "score", "ids": list(map(int, ids)), "start": int(start), "given": beside})
            answer = self._receive("scoring")
            results.append(
                Scored(np.array(answer["logp"], np.float32), np.array(answer["top"], np.int64), np.array(answer["kl"]))
            )
            if on_done is not None:
                on_done(index, results[-1])
        return results

    def generate(
        self, prompts: Sequence[Sequence[int]], *, max_new_tokens: int, stop_ids: Sequence[int],
        on_done: OnAnswer | None = None,
    ) -> list[list[int]]:  # fmt: skip
        """Greedy answers in the order of `prompts`; `on_done(index, answer ids)` as each ends, in any order."""
        self._send({
            "do": "generate", "prompts": [list(map(int, p)) for p in prompts], "max_new_tokens": max_new_tokens,
            "stop_ids": list(map(int, stop_ids)),
        })  # fmt: skip
        answers: list[list[int]] = [[] for _ in prompts]
        for _ in prompts:
            answer = self._receive("generating")
            answers[answer["index"]] = answer["ids"]
            if on_done is not None:
                on_done(answer["index"], answer["ids"])
        return answers

    def speed(self, num_prompt_tokens: int = 128, num_new_tokens: int = 32) -> Speed:
        self._send({"do": "speed", "num_prompt_tokens": num_prompt_tokens, "num_new_tokens": num_new_tokens})
        return Speed(**self._receive("measuring its speed"))

    def peak_memory(self) -> int | None:
        """Bytes of memory that the process held at most, the mapped file and Python included; None without /proc."""
        assert self._child is not None
        try:
            lines = Path(f"/proc/{self._child.pid}/status").read_text().splitlines()
        except FileNotFoundError:
            return None
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM:"))

    def _send(self, request: dict[str, Any]) -> None:
        assert self._child is not None and self._child.stdin is not None, "use it as a context manager"
        try:
            self._child.stdin.write(json.dumps(request) + "\n")
            self._child.stdin.flush()
        except BrokenPipeError:
            pass  # it crashed: the read that follows says how

    def _receive(self, doing: str) -> dict[str, Any]:
        assert self._child is not None and self._child.stdout is not None
        line = self._child.stdout.readline()
        if not line:
            raise self._crash(doing)
        answer = json.loads(line)
        if "error" in answer:
            raise {c.__name__: c for c in (MissingError, MismatchError)}.get(answer["kind"], DataError)(answer["error"])
        return answer

    def _crash(self, doing: str) -> DataError:
        assert self._child is not None
        code = self._child.wait()
        self._errors.seek(0)
        said = self._errors.read().decode("utf-8", "replace").strip().splitlines() or ["nothing on standard error"]
        how = f"died of {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
        return DataError(f"{self.path}: llama.cpp {how} while {doing} ({said[-1]}); write the file again")


def _serve(model: LlamaModel, request: dict[str, Any], say: Callable[[dict[str, Any]], None]) -> None:
    """Answer one request; `generate` gives a line for each answer as it ends."""
    match request.pop("do"):
        case "tokenize":
            say({"ids": [model.tokenize(text, request["parse_special"]) for text in request["texts"]]})
        case "score":
            beside = request["given"]
            given = beside and Given(Path(beside["path"]), beside["first"], beside["places"])
            found = model.score(request["ids"], request["start"], given)
            say({"logp": found.logp_T.tolist(), "top": found.top_T.tolist(), "kl": found.kl_P.tolist()})
        case "generate":
            model.generate(**request, on_done=lambda index, ids: say({"index": index, "ids": ids}))
        case "speed":
            say(vars(model.speed(**request)))


def main() -> None:
    """The child: requests on standard input, answers on standard output, one JSON object a line."""
    parser = argparse.ArgumentParser(prog="python -m distill.export.llama_cpp", description=main.__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--num-threads", type=int, required=True)
    parser.add_argument("--context-length", type=int, default=2048)
    parser.add_argument("--num-sequences", type=int, default=1)
    parser.add_argument("--kv-type", choices=list(KV_TYPES), default="f32")
    options = vars(parser.parse_args())
    for name in ("SIGINT", "SIGUSR1"):  # sent to the whole group; the parent decides what they mean
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)  # what C code prints must not get between the answers

    def say(answer: dict[str, Any]) -> None:
        answers.write(json.dumps(answer) + "\n")

    try:
        with LlamaModel(options.pop("file"), **options) as model:
            say({"num_ids": model.num_ids, "num_known_ids": model.num_known_ids})
            for line in sys.stdin:
                _serve(model, json.loads(line), say)
    except DistillError as error:
        say({"error": str(error), "kind": type(error).__name__})
    except BrokenPipeError:
        os._exit(1)  # the parent is gone: nobody reads, nothing to save


if __name__ == "__main__":
    main()
