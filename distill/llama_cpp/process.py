"""Run a GGUF file in llama.cpp, the runtime that people will use, in a process of its own.

`LlamaProcess` speaks JSON Lines with it over its standard input and output:

    python -m distill.llama_cpp.process FILE.gguf < requests.jsonl > answers.jsonl

A crash there is a DataError here, naming file and signal.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from distill.core.subprocesses import environment, peak_memory
from distill.errors import DataError, DistillError, MismatchError, MissingError
from distill.llama_cpp.model import (
    KV_TYPES,
    NUM_NEW_TOKENS,
    NUM_PROMPT_TOKENS,
    LlamaModel,
    OnAnswer,
    Scored,
    Speed,
)
from distill.llama_cpp.reference_rows import ReferenceRows


class LlamaProcess:
    """`LlamaModel` in a process of its own. Use as a context manager.

    `with LlamaProcess(path, num_threads=4, context_length=1024) as llama:`
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
        self.path = path
        self._arguments = [
            str(path.absolute()),
            "--num-threads",
            str(num_threads),
            "--context-length",
            str(context_length),
            "--num-sequences",
            str(num_sequences),
            "--kv-type",
            kv_type,
            *(["--exact-threads"] if exact_threads else []),
            *(["--one-cache"] if one_cache else []),
        ]
        self._child: subprocess.Popen[str] | None = None

    def __enter__(self) -> "LlamaProcess":
        """Start the process and load the file.

        Raises what LlamaModel raises, and DataError for a crash.
        """
        self._errors = tempfile.TemporaryFile()  # a pipe could fill and block
        self._child = subprocess.Popen(
            # -P: the working folder may hold files named like modules
            [sys.executable, "-P", "-m", "distill.llama_cpp.process", *self._arguments],
            env={**environment(), "GGML_NO_BACKTRACE": "1"},
            text=True,
            encoding="utf-8",
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
        )
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

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of each text, as `LlamaModel.tokenize` does."""
        self._send({"do": "tokenize", "texts": list(texts)})
        return self._receive("tokenizing")["ids"]

    def tokenize_prompts(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of each text, as `LlamaModel.tokenize_prompt` does."""
        self._send({"do": "tokenize_prompts", "texts": list(texts)})
        return self._receive("tokenizing")["ids"]

    def score(
        self,
        sequences: Sequence[tuple[Sequence[int], int]],
        references: Sequence[ReferenceRows] = (),
    ) -> list[Scored]:
        """Score each (ids, start), with its reference where there are some: `LlamaModel.score`."""
        results = []
        for index, (ids, start) in enumerate(sequences):
            reference = _as_json(references[index]) if references else None
            request = {"ids": list(map(int, ids)), "start": int(start), "reference": reference}
            self._send({"do": "score"} | request)
            answer = self._receive("scoring")
            results.append(
                Scored(
                    np.array(answer["logp"], np.float32),
                    np.array(answer["top"], np.int64),
                    np.array(answer["kl"]),
                )
            )
        return results

    def log_likelihoods(
        self, context: Sequence[int], continuations: Sequence[Sequence[int]]
    ) -> list[float]:
        """Return the log-prob of each continuation, as `LlamaModel.log_likelihoods` does."""
        ids = [list(map(int, each)) for each in continuations]
        self._send(
            {"do": "log_likelihoods", "context": list(map(int, context)), "continuations": ids}
        )
        return self._receive("scoring")["sums"]

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        max_new_tokens: int,
        stop_ids: Sequence[int],
        on_done: OnAnswer | None = None,
    ) -> list[list[int]]:
        """Return greedy answers in the order of `prompts`.

        `on_done(index, answer ids)` is called as each ends, in any order.
        """
        self._send(
            {
                "do": "generate",
                "prompts": [list(map(int, p)) for p in prompts],
                "max_new_tokens": max_new_tokens,
                "stop_ids": list(map(int, stop_ids)),
            }
        )
        answers: list[list[int]] = [[] for _ in prompts]
        for _ in prompts:
            answer = self._receive("generating")
            answers[answer["index"]] = answer["ids"]
            if on_done is not None:
                on_done(answer["index"], answer["ids"])
        return answers

    def speed(
        self, num_prompt_tokens: int = NUM_PROMPT_TOKENS, num_new_tokens: int = NUM_NEW_TOKENS
    ) -> Speed:
        self._send(
            {
                "do": "speed",
                "num_prompt_tokens": num_prompt_tokens,
                "num_new_tokens": num_new_tokens,
            }
        )
        return Speed(**self._receive("measuring its speed"))

    def peak_memory(self) -> int | None:
        """Return the bytes of memory that the process held at most; None without /proc.

        The mapped file and Python are among it.
        """
        assert self._child is not None
        return peak_memory(self._child.pid)

    def _send(self, request: dict[str, Any]) -> None:
        assert self._child is not None and self._child.stdin is not None, (
            "use it as a context manager"
        )
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
            errors = {c.__name__: c for c in (MissingError, MismatchError)}
            raise errors.get(answer["kind"], DataError)(answer["error"])
        return answer

    def _crash(self, doing: str) -> DataError:
        assert self._child is not None
        code = self._child.wait()
        self._errors.seek(0)
        lines = self._errors.read().decode("utf-8", "replace").strip().splitlines()
        last_line = lines[-1] if lines else "nothing on standard error"
        how = f"died of {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
        return DataError(
            f"{self.path}: llama.cpp {how} while {doing} ({last_line}); write the file again"
        )


def _as_json(reference: ReferenceRows) -> dict[str, Any]:
    return {
        "path": str(reference.path.absolute()),
        "first": reference.first,
        "positions": list(map(int, reference.positions)),
    }


def _from_json(reference: dict[str, Any]) -> ReferenceRows:
    return ReferenceRows(Path(reference["path"]), reference["first"], reference["positions"])


def _serve(
    model: LlamaModel, request: dict[str, Any], reply: Callable[[dict[str, Any]], None]
) -> None:
    """Answer one request; `generate` gives a line for each answer as it ends."""
    match request.pop("do"):
        case "tokenize":
            reply({"ids": [model.tokenize(text) for text in request["texts"]]})
        case "tokenize_prompts":
            reply({"ids": [model.tokenize_prompt(text) for text in request["texts"]]})
        case "score":
            reference = request["reference"] and _from_json(request["reference"])
            scored = model.score(request["ids"], request["start"], reference)
            figures = {"logp": scored.logp_T, "top": scored.top_T, "kl": scored.kl_P}
            reply({name: values.tolist() for name, values in figures.items()})
        case "log_likelihoods":
            reply({"sums": model.log_likelihoods(**request)})
        case "generate":
            model.generate(
                **request, on_done=lambda index, ids: reply({"index": index, "ids": ids})
            )
        case "speed":
            reply(vars(model.speed(**request)))


def main() -> None:
    """Answer requests on standard input by answers on standard output, one JSON object a line."""
    parser = argparse.ArgumentParser(
        prog="python -m distill.llama_cpp.process", description=main.__doc__
    )
    parser.add_argument("file", type=Path)
    parser.add_argument("--num-threads", type=int, required=True)
    parser.add_argument("--context-length", type=int, default=2048)
    parser.add_argument("--num-sequences", type=int, default=1)
    parser.add_argument("--kv-type", choices=list(KV_TYPES), default="f32")
    parser.add_argument("--exact-threads", action="store_true")
    parser.add_argument("--one-cache", action="store_true")
    options = vars(parser.parse_args())
    for name in ("SIGINT", "SIGUSR1"):  # sent to the whole group; the parent decides what they mean
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)  # what C code prints must not get between the answers

    def reply(answer: dict[str, Any]) -> None:
        answers.write(json.dumps(answer) + "\n")

    try:
        with LlamaModel(options.pop("file"), **options) as model:
            reply({"num_ids": model.num_ids, "num_known_ids": model.num_known_ids})
            for line in sys.stdin:
                _serve(model, json.loads(line), reply)
    except DistillError as error:
        reply({"error": str(error), "kind": type(error).__name__})
    except BrokenPipeError:
        os._exit(1)  # the parent is gone: nobody reads, nothing to save


if __name__ == "__main__":
    main()
