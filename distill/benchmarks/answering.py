"""The models of a run, asked: log-likelihoods of choices, and greedy answers.

A folder is run by transformers, a GGUF file by llama.cpp itself: its server cannot score tokens that
it is given.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from distill.core import shutdown
from distill.core.processes import Processes
from distill.models.batching import blocks_by_length
from distill.models.sampling import Sampling
from distill.models.sequences import Continued

LLAMA_SEQUENCES = 8  # answers that llama.cpp writes at once

OnDone = Callable[[int], None]


class Answerer(Protocol):
    """A model that is loaded."""

    def log_likelihoods(self, asked: Sequence[Continued], on_done: OnDone) -> list[list[float]]:
        """Return for each context the log-prob of each continuation."""
        ...

    def answers(
        self, prompts: Sequence[list[int]], num: int, stop_ids: Sequence[int], on_done: OnDone
    ) -> list[list[int]]:
        """Return greedy answers of at most `num` tokens."""
        ...


@dataclass(frozen=True)
class InTransformers:
    """A model that transformers runs. `batch_tokens`: of a batch, at most."""

    model: Any
    tokenizer: Any
    batch_tokens: int

    def log_likelihoods(self, asked: Sequence[Continued], on_done: OnDone) -> list[list[float]]:
        from distill.models.continuations import Reader, log_likelihoods

        reader = Reader.of(self.model, self.tokenizer, self.batch_tokens)
        return log_likelihoods(reader, asked, on_done)

    def answers(
        self, prompts: Sequence[list[int]], num: int, stop_ids: Sequence[int], on_done: OnDone
    ) -> list[list[int]]:
        from distill.models.decode import answer

        answers: dict[int, list[int]] = {}
        for block in blocks_by_length([len(ids) + num for ids in prompts], self.batch_tokens):

            def keep(
                i: int, ids: list[int], _: str, indices: Sequence[int] = block.indices
            ) -> None:
                answers[indices[i]] = ids
                on_done(1)

            answer(
                self.model,
                [prompts[i] for i in block.indices],
                sampling=Sampling(max_new_tokens=num, stop_ids=tuple(stop_ids)),
                seeds=block.indices,  # nothing is drawn
                pad_id=self.tokenizer.pad_token_id,
                on_finished=keep,
                vocab_size=len(self.tokenizer),
                num_slots=block.num_slots,
            )
        return [answers[i] for i in range(len(prompts))]


@dataclass(frozen=True)
class InLlamaCpp:
    """A GGUF file, in a llama.cpp of its own with as much room as what is asked takes."""

    path: Path
    num_threads: int

    def log_likelihoods(self, asked: Sequence[Continued], on_done: OnDone) -> list[list[float]]:
        from distill.llama_cpp.process import LlamaProcess

        results = []
        with LlamaProcess(
            self.path,
            num_threads=self.num_threads,
            context_length=max(_num_tokens(each) for each in asked),
            num_sequences=1 + max(len(each.continuations) for each in asked),
            one_cache=True,
        ) as llama:
            for each in asked:
                results.append(llama.log_likelihoods(each.context, each.continuations))
                on_done(1)
        return results

    def answers(
        self, prompts: Sequence[list[int]], num: int, stop_ids: Sequence[int], on_done: OnDone
    ) -> list[list[int]]:
        from distill.llama_cpp.process import LlamaProcess

        with LlamaProcess(
            self.path,
            num_threads=self.num_threads,
            context_length=max(map(len, prompts)) + num,
            num_sequences=LLAMA_SEQUENCES,
        ) as llama:
            return llama.generate(
                prompts,
                max_new_tokens=num,
                stop_ids=stop_ids,
                on_done=lambda *_: on_done(1),
            )


def _num_tokens(asked: Continued) -> int:
    """Return the tokens of a context and of all its continuations together."""
    return len(asked.context) + sum(map(len, asked.continuations))


@dataclass(frozen=True)
class Model:
    """One model of the run.

    `digest`: what tells its weights from others. `longest`: tokens that it reads at most.
    `stop_ids`: what ends its answers. `enable_thinking`: the setting of its template's switch.
    `held_with`: of one that several ranks hold together, the block in which its leaders ask it
    (teachers/base.py: `dividing`).
    """

    name: str
    digest: str
    tokenizer: Any
    longest: int
    stop_ids: list[int]
    system_prompt: str | None
    enable_thinking: bool | None
    open: Callable[[], AbstractContextManager[Answerer]]
    held_with: Callable[[Processes], AbstractContextManager[Processes | None]] | None = None


def opened(answerer: Callable[[], Answerer]) -> Callable[[], AbstractContextManager[Answerer]]:
    """Return the `open` of a model that needs no closing: memory goes with the last reference."""
    return lambda: nullcontext(answerer())


def told(advance: OnDone) -> OnDone:
    """Return the callback that a stop signal is heard at, too."""

    def on_done(count: int) -> None:
        advance(count)
        shutdown.check()

    return on_done
