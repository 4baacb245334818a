"""Ask a model that is loaded here, or a GGUF file: greedy answers, and the NLL of the teacher's."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from distill.core import shutdown
from distill.core.claims import Claims
from distill.core.cores import usual_threads
from distill.core.processes import ALONE, Processes
from distill.core.progress import Progress
from distill.evaluation.eval_set import EvalSet, ModelAnswers, TokenAnswer
from distill.models.batching import blocks_by_length
from distill.models.head import head_of
from distill.models.sampling import Sampling

LLAMA_SEQUENCES = 8  # answers that llama.cpp writes at once


def evaluate_transformers(
    eval_set: EvalSet, model: Any, bar: Progress, processes: Processes = ALONE
) -> ModelAnswers:
    """Return what a model makes of the set. Several ranks divide it; each returns the whole.

    They divide blocks and batches, never one of them, so that the numbers are those of one process.
    """
    claims = Claims(processes)
    started = time.monotonic()
    own_answers = _greedy_answers(eval_set, model, bar, claims)
    own_seconds = time.monotonic() - started
    own_nll = nll_of_answers(eval_set, model, claims)
    answers, nll, seconds = dict[int, TokenAnswer](), dict[int, float](), 0.0
    for part in processes.gathered((own_answers, own_nll, own_seconds)):
        answers |= part[0]
        nll |= part[1]
        seconds += part[2]
    in_order = [answers[i] for i in range(len(eval_set.prompts))]
    return ModelAnswers(in_order, nll, seconds, f"transformers, {model.device.type}")


def _greedy_answers(
    eval_set: EvalSet, model: Any, bar: Progress, claims: Claims
) -> dict[int, TokenAnswer]:
    """Return the answers of the blocks that this rank took, by the prompt's number."""
    from distill.models.decode import answer

    recipe, answers = eval_set.recipe, dict[int, TokenAnswer]()
    most = recipe.evaluate.max_new_tokens
    widths = [len(ids) + most for ids in eval_set.prompt_ids]
    blocks = blocks_by_length(widths, recipe.teacher.batch_tokens)
    for block in claims.of("block", blocks):
        answer(
            model,
            [eval_set.prompt_ids[i] for i in block.indices],
            sampling=Sampling(max_new_tokens=most, stop_ids=tuple(eval_set.stop_ids)),
            seeds=block.indices,  # nothing is drawn
            pad_id=eval_set.tokenizer.pad_token_id,
            on_finished=_collector(answers, block.indices, bar),
            vocab_size=len(eval_set.tokenizer),
            num_slots=block.num_slots,
        )
    return answers


def _collector(
    answers: dict[int, TokenAnswer], indices: Sequence[int], bar: Progress
) -> Callable[[int, list[int], str], None]:
    def record(index: int, ids: list[int], reason: str) -> None:
        answers[indices[index]] = (ids, reason)
        bar.advance(1)
        shutdown.check()

    return record


def nll_of_answers(eval_set: EvalSet, model: Any, claims: Claims | None = None) -> dict[int, float]:
    """Return nats of each of the teacher's answers, by the prompt's number.

    `claims`: of ranks that divide them; each returns its part.
    """
    from distill.models.score import TokenSequence, score

    numbers = eval_set.scored()
    sequences = []
    for i in numbers:
        prompt, answer = eval_set.prompt_ids[i], eval_set.teacher_ids[i] or []
        sequences.append(TokenSequence(prompt + answer, len(prompt)))
    scores = score(
        model,
        head_of(model),
        sequences,
        batch_tokens=eval_set.recipe.teacher.batch_tokens,
        pad_id=eval_set.tokenizer.pad_token_id,
        vocab_size=len(eval_set.tokenizer),
        claims=claims,
    )
    return {numbers[index]: -float(logp_T.sum()) for index, logp_T, _ in scores}


def evaluate_gguf(eval_set: EvalSet, path: Path, bar: Progress) -> ModelAnswers:
    from distill.llama_cpp.process import LlamaProcess

    with LlamaProcess(
        path,
        num_threads=eval_set.recipe.quantize.threads or usual_threads(),
        context_length=eval_set.longest() + 8,
        num_sequences=LLAMA_SEQUENCES,
    ) as llama:
        started = time.monotonic()
        greedy = llama.generate(
            eval_set.prompt_ids,
            max_new_tokens=eval_set.recipe.evaluate.max_new_tokens,
            stop_ids=eval_set.stop_ids,
            on_done=lambda *_: bar.advance(1),
        )
        seconds = time.monotonic() - started
        numbers = eval_set.scored()
        sequences = [
            (eval_set.prompt_ids[i] + (eval_set.teacher_ids[i] or []), len(eval_set.prompt_ids[i]))
            for i in numbers
        ]
        scores = llama.score(sequences) if sequences else []
    ends = set(eval_set.stop_ids)
    answers = [(ids, "stop" if ids and ids[-1] in ends else "length") for ids in greedy]
    nll = {i: -float(score.logp_T.sum()) for i, score in zip(numbers, scores, strict=True)}
    return ModelAnswers(answers, nll, seconds, "llama.cpp, cpu")
