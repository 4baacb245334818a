"""generate: the teacher answers the prompts.

Raw answers are never deleted; what is kept of them is decided anew whenever a filter changes.

    generate/raw_prompts/    what the teacher wrote where it was asked for prompts (expand), as in
    raw/ generate/raw/*.jsonl     every answer as it ended, append-only, keyed by content: nothing
    is asked twice generate/judged/         what the judge replied about each answer
    (judge_min_score), as in raw/ generate/prompts.jsonl   the prompts that were asked, where each
    came from, and the share of its
                             draws that were verified
    generate/kept.jsonl      the samples that passed every filter, as token ids
    generate/dropped.jsonl   the others, each with its reason

An answer's key holds the prompt, the teacher and the sampling values; its seed follows from the key
(teachers/keys.py).
"""

import sys
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from distill import chat, tasks, teachers
from distill.chat.tokenizers import Tokenizers
from distill.core.jsonl import Row, write_jsonl
from distill.core.processes import Processes
from distill.core.results import GenerateResult
from distill.core.run_folder import Fingerprint, RunFolder, StageOutput
from distill.core.stage import Cost, Stage
from distill.data.bad_rows import Left
from distill.data.samples import Prompt, Sample, count_by_language, split_prompts
from distill.errors import DataError
from distill.filters.base import Answer, FilterContext
from distill.filters.contamination import EvalIndex
from distill.filters.long_reasoning import long_reasoning_warning
from distill.planning.conversations import check_conversations
from distill.planning.costs import (
    BYTES_PER_TOKEN,
    PROCESS_BYTES,
    START_SECONDS,
    Workload,
    signal_bytes_per_token,
)
from distill.planning.lengths import check_models, length_notes, within_context
from distill.planning.vocabulary import check_vocabulary
from distill.recipe import Recipe
from distill.synthesis import llm_judge
from distill.teachers.answers import ask
from distill.teachers.base import Teacher
from distill.teachers.fingerprint import answers_fingerprint
from distill.teachers.keys import num_of_other_seeds, request_maker
from distill.teachers.log import AnswerLogs, best_rows, read_answers, read_best_rows
from distill.teachers.requests import Request, RequestOptions
from distill.text.identification import by_script_only

JSON_BYTES_PER_LOG_PROB = 86.0  # of llama.cpp; vLLM writes less


class Filtered(NamedTuple):
    """Each answer as the filters see it, and why it is dropped (None: kept)."""

    answers: list[Answer]
    reasons: list[str | None]


@dataclass(frozen=True)
class Generation:
    """What every step of generate needs. `held_out`: the prompts that are evaluated on."""

    recipe: Recipe
    teacher: Teacher
    processes: Processes
    stage: Path
    held_out: list[Prompt]

    @property
    def tokenizers(self) -> Tokenizers:
        return self.teacher.tokenizers

    @property
    def logs(self) -> AnswerLogs:
        return self.teacher.logs


def run(
    recipe: Recipe, folder: RunFolder, processes: Processes, *, teacher: Teacher | None = None
) -> StageOutput | None:
    """Ask for what is missing and filter it; `teacher`: the one to ask, if not the recipe's.

    Returns None on all processes but the first, and in a shard.
    """
    tasks.grader(recipe.generate)  # what this machine lacks for it is said before anything is asked
    asked = teacher or teachers.connect(recipe, folder, processes.local_rank)
    tokenizers = asked.tokenizers
    check_models(recipe, asked)
    check_vocabulary(recipe, tokenizers)
    if not tokenizers.same and processes.is_main:
        print(
            f"generate: the student has another tokenizer ({tokenizers.difference}): "
            "it learns the answers' text in its own"
        )
    left = Left()
    prompts, held_out = split_prompts(recipe, left)
    if unknown := by_script_only(recipe.languages):
        left.notes.append(f"languages: {unknown}")
    left.tell("generate", processes)
    check_conversations(recipe, tokenizers, [*prompts, *held_out])
    left.notes += length_notes(asked, [], held_out)  # of the prompts plan has told
    with asked:
        generation = Generation(recipe, asked, processes, folder.stage("generate"), held_out)
        return _generate(generation, prompts, left)


def _generate(generation: Generation, prompts: list[Prompt], left: Left) -> StageOutput | None:
    from distill.filters.prompt_filters import select_prompts

    recipe, processes = generation.recipe, generation.processes
    expanded = expand(generation, prompts, left)
    if expanded is None:
        return None
    written, unfit = expanded
    # those of people first: of two that repeat each other theirs stays
    chosen, refused = select_prompts(
        recipe, [*prompts, *written], generation.held_out, find_mark=generation.tokenizers.mark_in
    )
    chosen, beyond = within_context(generation.teacher, chosen)
    requests = _draw(generation, chosen)
    if processes.is_partial_job:
        return None
    filtered = Filtered([], [])
    if processes.is_main:
        rows = read_best_rows(generation.logs.answers)
        filtered = filter_answers(generation, requests, rows)
    if recipe.generate.judge_min_score is not None:
        filtered = _judge(generation, processes.broadcast(filtered))
    output = None
    if processes.is_main:
        output = _write(generation, requests, filtered, [*unfit, *refused, *beyond], left)
    processes.barrier()
    return output


def expand(
    generation: Generation, prompts: list[Prompt], left: Left
) -> tuple[list[Prompt], list[tuple[Prompt, str]]] | None:
    """Return (prompts that the teacher wrote, (prompt, reason) of those that are not usable).

    Asks for what is not there; what is left out of files is added to `left`. None in a shard
    (`--shard`) while others have not written theirs: they could repeat ours, so no answer is paid
    for yet.
    """
    from distill.synthesis import expansion

    recipe, teacher, processes = generation.recipe, generation.teacher, generation.processes
    tokenizer, log = generation.tokenizers.asked, generation.logs.written_prompts
    wanted, stop_ids = expansion.prompt_requests(
        recipe, tokenizer, prompts, generation.held_out, left
    )
    left.tell("generate", processes)
    if not wanted:
        return [], []
    # nobody learns from these, so they need no log-probs
    options = replace(RequestOptions.of(recipe), system_prompt=None).with_sampling(
        **expansion.SAMPLING, stop_ids=tuple(stop_ids), num_log_probs=0
    )
    make = request_maker(teacher, options)
    requests = [make(w.prompt, w.sample_index, w.prompt_ids) for w in wanted]
    ask(teacher, _distinct(requests), options, log, processes)
    rows = processes.broadcast(read_best_rows(log) if processes.is_main else {})
    num_missing = sum(request.key not in rows for request in requests)
    if num_missing:
        if processes.is_main:
            print(
                f"generate: {num_missing} of {len(requests)} prompts that the teacher writes are other "
                "shards'; when all shards have ended, run them again: they will then divide the answers"
            )
        return None
    answered = [(w, r.prompt_ids, rows[r.key]) for w, r in zip(wanted, requests, strict=True)]
    return expansion.read(recipe, answered, tokenizer, prompts)


def _distinct(requests: list[Request]) -> list[Request]:
    return list({request.key: request for request in requests}.values())


def _draw(generation: Generation, prompts: list[Prompt]) -> list[Request]:
    """Ask for the prompts' answers, and by rejection sampling for more; return all requests."""
    options = RequestOptions.of(generation.recipe)
    make = request_maker(generation.teacher, options)
    num_samples = generation.recipe.generate.samples_per_prompt
    requests = [make(prompt, i) for prompt in prompts for i in range(num_samples)]
    ask(generation.teacher, requests, options, generation.logs.answers, generation.processes)
    return _draw_on(generation, requests, options)


def _draw_on(
    generation: Generation, requests: list[Request], options: RequestOptions
) -> list[Request]:
    """Rejection sampling: ask for another draw for each prompt with too few good answers.

    Round after round; returns all requests. Which prompts those are follows from the log alone, so
    a killed or repeated run draws the same and asks nothing twice.
    """
    recipe, processes = generation.recipe, generation.processes
    if recipe.generate.max_tries is None:
        return requests
    log, make = generation.logs.answers, request_maker(generation.teacher, options)
    tries: dict[str, list[Request]] = {}
    for request in requests:
        tries.setdefault(request.prompt.id, []).append(request)
    still_open = tries
    for sample_index in range(recipe.generate.samples_per_prompt, recipe.generate.max_tries):
        rows = read_best_rows(log)
        is_missing = any(r.key not in rows for drawn in still_open.values() for r in drawn)
        # on one rank and not on another where other jobs write meanwhile
        if processes.any(is_missing):
            break  # only in a shard: the others' answers of this round are not here yet
        too_few = _too_few(generation, still_open, rows) if processes.is_main else []
        still_open = {prompt_id: tries[prompt_id] for prompt_id in processes.broadcast(too_few)}
        if not still_open:
            break
        more = [make(drawn[0].prompt, sample_index) for drawn in still_open.values()]
        for request in more:
            tries[request.prompt.id].append(request)
        ask(generation.teacher, more, options, log, processes)
    return [request for drawn in tries.values() for request in drawn]


def _too_few(
    generation: Generation, tries: dict[str, list[Request]], rows: dict[str, Row]
) -> list[str]:
    """Return the ids of the prompts that want another draw.

    What a server refused once, it would refuse again.
    """
    requests = [request for drawn in tries.values() for request in drawn]
    reasons = filter_answers(generation, requests, rows).reasons
    num_kept = Counter(
        r.prompt.id for r, reason in zip(requests, reasons, strict=True) if reason is None
    )
    refused = {r.prompt.id for r in requests if rows[r.key]["finish_reason"] == "error"}
    wanted = generation.recipe.generate.samples_per_prompt
    return [i for i in tries if num_kept[i] < wanted and i not in refused]


def _judge(generation: Generation, filtered: Filtered) -> Filtered:
    """Return the same, with the reasons of the judge, which is asked into a log of its own."""
    recipe, processes, log = generation.recipe, generation.processes, generation.logs.verdicts
    if processes.is_main and llm_judge.counts_as_free(recipe.generate):
        print(
            "generate: the judge's server counts as free towards max_cost: where it is not, set "
            "generate.judge_price_prompt and generate.judge_price_answer"
        )
    judge = teachers.judge_of(generation.teacher)
    options = replace(RequestOptions.of(recipe), system_prompt=None, resample_seed=None)
    options = options.with_sampling(**llm_judge.SAMPLING, num_log_probs=0)
    if judge is not generation.teacher:
        options = options.with_sampling(enable_thinking=None)  # a switch of the teacher's template
    make = request_maker(judge, options)

    def replies(prompts: list[Prompt]) -> list[Row]:
        requests = [make(prompt, 0) for prompt in prompts]
        ask(judge, _distinct(requests), options, log, processes)
        rows = read_best_rows(log)
        return [rows[request.key] for request in requests]

    return Filtered(filtered.answers, llm_judge.judge(recipe, *filtered, replies))


def _write(
    generation: Generation,
    requests: list[Request],
    filtered: Filtered,
    refused: list[tuple[Prompt, str]],
    left: Left,
) -> StageOutput:
    """Write kept and dropped; a pure function of the raw logs and the recipe."""
    from distill.filters import answer_filters

    recipe, stage = generation.recipe, generation.stage
    log = generation.logs.answers.folder
    all_rows, torn = read_answers(generation.logs.answers)
    rows = best_rows(all_rows)
    num_others = num_of_other_seeds(requests, rows)
    if num_others:
        print(
            f"generate: {num_others:,} answers on disk were drawn with another seed and stay; "
            "generate.resample=true asks anew"
        )
    reasons = answer_filters.choose_shortest(*filtered, recipe.generate.keep_per_prompt)
    filtered = filtered._replace(reasons=reasons)
    kept, dropped = _kept_and_dropped(generation, requests, filtered, rows)
    dropped[:0] = [{"prompt": p.text, "language": p.language, "reason": r} for p, r in refused]
    counts = ", ".join(f"{name} {count:,}" for name, count in _by_reason(dropped).most_common())
    if not kept:
        way_out = f"look at {log} and relax `generate`, or raise generate.max_new_tokens"
        if not requests:
            way_out = "none was worth asking: look at the prompts, and at the languages they say"
        raise DataError(
            f"{stage}: no sample passed the filters ({len(dropped)} dropped: {counts}); {way_out}"
        )
    rates = answer_filters.pass_rates(*filtered) if recipe.generate.task else {}
    files = {
        "prompts.jsonl": _prompt_rows(requests, rates),
        "kept.jsonl": kept,
        "dropped.jsonl": dropped,
    }
    for name, file_rows in files.items():
        write_jsonl(stage / name, file_rows)
    print(f"generate: {len(kept):,} kept, {len(dropped):,} dropped: {counts or 'none'}")
    result = _result(generation, requests, filtered, kept, dropped, left, len(torn))
    if result.warning:
        print(f"generate: warning: {result.warning}", file=sys.stderr)
    return StageOutput(result, [stage / name for name in files])


def _prompt_rows(requests: list[Request], rates: dict[str, float]) -> list[Row]:
    """Return the prompts that were asked, with the share of their draws that were verified."""
    rows = {request.prompt.id: request.prompt.row() for request in requests}
    for prompt_id, rate in rates.items():
        rows[prompt_id]["pass_rate"] = rate
    return list(rows.values())


def _kept_and_dropped(
    generation: Generation, requests: list[Request], filtered: Filtered, rows: dict[str, Row]
) -> tuple[list[Row], list[Row]]:
    """Return the samples, as the student learns them, and the others with their reasons."""
    kept, dropped = [], []
    for request, answer, reason in zip(requests, *filtered, strict=True):
        prompt, row = request.prompt, rows[request.key]
        if reason is not None:
            dropped.append(
                {
                    "key": request.key,
                    "prompt": prompt.text,
                    "language": prompt.language,
                    "answer": row["text"],
                    "reason": reason,
                }
            )
            continue
        prompt_ids, answer_ids = generation.tokenizers.training_ids(
            generation.recipe, prompt.messages, request.prompt_ids, row["token_ids"], row["text"]
        )
        sample = Sample(
            request.key,
            prompt.id,
            prompt.text,
            prompt.language,
            prompt.reference,
            answer.answer_text,
            prompt_ids,
            answer_ids,
        )
        kept.append(sample.row())
    return kept, dropped


def _by_reason(dropped: list[Row]) -> Counter[str]:
    return Counter(row["reason"].partition(":")[0] for row in dropped)


def _result(
    generation: Generation,
    requests: list[Request],
    filtered: Filtered,
    kept: list[Row],
    dropped: list[Row],
    left: Left,
    num_broken_log_lines: int,
) -> GenerateResult:
    """Return what was asked, kept and dropped."""
    tokenizers, most = generation.tokenizers, generation.recipe.generate.max_reasoning_tokens
    prompts = {r.prompt.id: r.prompt for r in requests}
    tries = Counter(r.prompt.id for r in requests)
    num_refused = sum("key" not in row for row in dropped)
    num_long = sum(
        answer.num_reasoning_tokens > most
        for answer, reason in zip(*filtered, strict=True)
        if reason is None
    )
    return GenerateResult(
        num_prompts=len(prompts) + num_refused,
        num_asked=len(requests),
        num_kept=len(kept),
        num_dropped=len(dropped),
        dropped_by_reason=dict(_by_reason(dropped)),
        kept_by_language=dict(Counter(row["language"] for row in kept)),
        num_held_out=len(generation.held_out),
        num_answer_tokens=sum(len(row["answer_ids"]) for row in kept),
        num_broken_log_lines=num_broken_log_lines,
        vocab_size=len(tokenizers.student),
        format=chat.fingerprint_of_format(tokenizers.student),
        retokenized=tokenizers.difference,
        num_skipped=dict(left.by_reason),
        prompts_by_language=dict(Counter(p.language for p in prompts.values())),
        by_language=count_by_language(kept, dropped),
        prompts_by_tries=dict(sorted(Counter(tries.values()).items())),
        num_prompts_without_answer=len(prompts.keys() - {row["prompt_id"] for row in kept}),
        prompts_by_source=dict(Counter(p.source for p in prompts.values())),
        num_long_reasoning=num_long,
        seed=generation.recipe.seed,
        warning=long_reasoning_warning(num_long, len(kept), most),
        reading_notes=left.notes,
        precision=generation.teacher.type_told,
    )


def filter_answers(
    generation: Generation, requests: list[Request], rows: dict[str, Row]
) -> Filtered:
    """Return each answer as the filters see it, and why it is dropped. `rows`: by key."""
    from distill.filters import answer_filters

    recipe, tokenizers, held_out = generation.recipe, generation.tokenizers, generation.held_out
    candidates = [
        _candidate(recipe, request, rows[request.key], tokenizers) for request in requests
    ]
    context = FilterContext(
        recipe.generate,
        recipe.languages,
        grade=tasks.grader(recipe.generate),
        eval_index=EvalIndex(p.text for p in held_out),
    )
    reasons = answer_filters.filter_answers(candidates, context)
    reasons = [
        reason or _unlearnable(tokenizers, candidate, rows[request.key])
        for request, candidate, reason in zip(requests, candidates, reasons, strict=True)
    ]
    return Filtered(candidates, reasons)


def _unlearnable(tokenizers: Tokenizers, candidate: Answer, row: Row) -> str | None:
    """Return that an answer holds a control token of a model, if so: it could end the answer."""
    text = f"{candidate.reasoning or ''}\n{candidate.answer_text}"
    mark = tokenizers.mark_in_answer(text, row["token_ids"][:-1])  # a cut answer is dropped anyway
    return f"format: {mark!r}, a control token or a template's mark, is in it" if mark else None


def _candidate(recipe: Recipe, request: Request, row: Row, tokenizers: Tokenizers) -> Answer:
    reasoning, answer, complete = tokenizers.split_answer(recipe, request.prompt_ids, row["text"])
    if recipe.generate.reasoning == "drop":
        reasoning = None  # nobody learns it, so nothing in it can be wrong
    num_reasoning_tokens = 0
    if reasoning:
        ids = tokenizers.student(reasoning, add_special_tokens=False).input_ids
        num_reasoning_tokens = len(ids)
    return Answer(
        prompt=request.prompt.text,
        prompt_id=request.prompt.id,
        answer_text=answer,
        reasoning=reasoning,
        num_reasoning_tokens=num_reasoning_tokens,
        finish_reason=row["finish_reason"] if complete else "length",
        language=request.prompt.language,
        reference=request.prompt.reference,
        is_translation=request.prompt.is_translation,
        verify=request.prompt.verify,
        refusals=request.prompt.refusals,
    )


def fingerprint(recipe: Recipe) -> Fingerprint:
    answers = answers_fingerprint(recipe)
    return replace(answers, seed=recipe.seed) if recipe.generate.resample else answers


def cost(work: Workload) -> Cost:
    """Reckon the asking: what the teacher takes to answer here, or what goes over the network."""
    demand, capture = work.demand, work.recipe.capture
    tokens = work.num_requests * (demand.prompt + demand.answer)
    answer_bytes = 2 * BYTES_PER_TOKEN
    logged_bytes = 0.0
    if work.gives_log_probs:
        answer_bytes += JSON_BYTES_PER_LOG_PROB * capture.top_k
        logged_bytes = (
            signal_bytes_per_token(work.recipe, work.teacher.vocabulary) * 4 / 3
        )  # base64
    download = work.teacher_download
    if work.on_server:
        download = work.num_requests * demand.answer * answer_bytes
    return Cost(
        PROCESS_BYTES + work.asking_bytes,
        START_SECONDS + work.teacher_seconds(work.num_requests),
        disk=tokens * 12 + demand.num_answers * demand.answer * logged_bytes,
        download=download,
    )


STAGE = Stage(
    "generate",
    "the teacher answers the prompts; the answers are filtered",
    run,
    GenerateResult,
    fingerprint,
    cost=cost,
    shared=True,
    asks_teacher=True,
)
