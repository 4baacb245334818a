"""generate: the teacher answers the prompts; raw answers are kept for ever, verdicts are recomputed at will.

    generate/raw_prompts/    what the teacher wrote where it was asked for prompts (expand), as in raw/
    generate/raw/*.jsonl     every answer as it ended, append-only, keyed by content: nothing is asked twice
    generate/judged/         what the judge replied about each answer (judge_min_score), as in raw/
    generate/prompts.jsonl   the prompts that were asked, where each came from, and the share of its draws that were verified
    generate/kept.jsonl      the samples that passed every filter, as token ids
    generate/dropped.jsonl   the others, each with its reason

An answer's key holds the prompt, the teacher and the sampling values; its seed follows from the key.
"""

import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from distill import chat, tasks
from distill.chat.tokenizers import Tokenizers, tokenizers_of
from distill.core.jsonl import Row, write_jsonl
from distill.core.processes import Processes
from distill.core.results import GenerateResult
from distill.core.run_folder import Fingerprint, RunFolder, StageOutput
from distill.core.stage import Cost, Stage
from distill.data.samples import Prompt, Sample, count_by_language, mixed, split_prompts
from distill.errors import DataError
from distill.filters import answer_filters, prompt_filters
from distill.filters.base import Answer, FilterContext
from distill.filters.contamination import EvalIndex
from distill.filters.long_reasoning import long_reasoning_warning
from distill.planning.costs import (
    BYTES_PER_TOKEN,
    PROCESS_BYTES,
    START_SECONDS,
    Workload,
    signal_bytes_per_token,
)
from distill.recipe import Recipe
from distill.recipe.sections import Capture
from distill.synthesis import expansion, llm_judge
from distill.teachers.answers import ask
from distill.teachers.fingerprint import answers_fingerprint
from distill.teachers.log import Request, best_rows, num_of_other_seeds, read_answers, request_maker
from distill.teachers.server.budget import Ledger, Spent

JSON_BYTES_PER_LOG_PROB = 86.0  # of llama.cpp; vLLM writes less

Judged = tuple[
    list[Answer], list[str | None]
]  # each answer as the filters see it, and why it is dropped (None: kept)


def run(recipe: Recipe, folder: RunFolder, processes: Processes) -> StageOutput | None:
    stage = folder.stage("generate")
    tasks.grader(recipe.generate)  # what this machine lacks for it is said before anything is asked
    location = recipe.model_location(recipe.teacher.model)
    tokenizers = tokenizers_of(recipe)
    tokenizer = tokenizers.asked
    if not tokenizers.same and processes.is_main:
        print(
            f"generate: the student has another tokenizer ({tokenizers.difference}): it learns the answers' text in its own"
        )
    skipped: Counter[str] = Counter()
    prompts, held_out = split_prompts(recipe, skipped)
    spent = Spent(Ledger(stage, recipe.generate))
    expanded = expand(
        recipe, prompts, held_out, stage / "raw_prompts", location, tokenizer, processes, spent
    )
    if expanded is None:
        return None
    written, unfit = expanded
    # those of people first: of two that repeat each other theirs stays
    asked, refused = judge_prompts(recipe, [*prompts, *written], held_out)
    refused = [*unfit, *refused]
    raw = stage / "raw"
    make = request_maker(recipe, tokenizer)
    requests = [
        make(prompt, i) for prompt in asked for i in range(recipe.generate.samples_per_prompt)
    ]
    ask(recipe, requests, raw, location, tokenizer, processes, spent)
    requests = _draw_on(
        recipe, requests, make, held_out, raw, location, tokenizers, processes, spent
    )
    if processes.is_part:
        return None
    rows = best_rows(read_answers(raw)[0])
    judged = (
        judge_answers(recipe, requests, rows, held_out, tokenizers)
        if processes.is_main
        else ([], [])
    )
    if recipe.generate.judge_min_score is not None:
        judged = _grade(
            recipe,
            stage / "judged",
            processes.broadcast(judged),
            location,
            tokenizer,
            processes,
            spent,
        )
    output = None
    if processes.is_main:
        output = _write(recipe, stage, requests, judged, refused, held_out, tokenizers, skipped)
    processes.barrier()
    return output


def expand(
    recipe: Recipe,
    prompts: list[Prompt],
    held_out: list[Prompt],
    raw: Path,
    location: str,
    tokenizer: Any,
    processes: Processes,
    spent: Spent,
) -> tuple[list[Prompt], list[tuple[Prompt, str]]] | None:
    """(prompts that the teacher wrote, (prompt, reason) of those that are not usable), after asking for what is not there.

    None in a shard (`--shard`) while others have not written theirs: they could repeat ours, so no answer is paid for yet.
    """
    wanted, stop_ids = expansion.prompt_requests(recipe, tokenizer, prompts, held_out)
    if not wanted:
        return [], []
    options = recipe.generate.model_copy(update={**expansion.SAMPLING, "system_prompt": None})
    asking = recipe.model_copy(
        update={"generate": options, "capture": Capture()}
    )  # nobody learns from these
    make = request_maker(asking, tokenizer)
    requests = [make(w.prompt, w.sample_index, w.prompt_ids) for w in wanted]
    ask(
        asking,
        list({r.key: r for r in requests}.values()),
        raw,
        location,
        tokenizer,
        processes,
        spent,
        stop_ids,
    )
    rows = processes.broadcast(best_rows(read_answers(raw)[0]) if processes.is_main else {})
    if missing := sum(r.key not in rows for r in requests):
        if processes.is_main:
            print(
                f"generate: {missing} of {len(requests)} prompts that the teacher writes are other shards'; when all shards have "
                "ended, run them again: they will then divide the answers"
            )
        return None
    answered = [(w, r.prompt_ids, rows[r.key]) for w, r in zip(wanted, requests, strict=True)]
    return expansion.read(recipe, answered, tokenizer, prompts)


def judge_prompts(
    recipe: Recipe, prompts: list[Prompt], held_out: list[Prompt], *, are_all: bool = True
) -> tuple[list[Prompt], list[tuple[Prompt, str]]]:
    """Split prompts before they cost anything: those to ask, and (prompt, reason) for those not worth it or too many.

    are_all: False before the teacher has written its own: then the shares of sources cannot be told."""
    eval_index = EvalIndex(p.text for p in held_out)
    context = FilterContext(recipe.generate, recipe.languages, eval_index=eval_index)
    reasons = prompt_filters.filter_prompts(prompts, context)
    good = [p for p, reason in zip(prompts, reasons, strict=True) if reason is None]
    bad = [(p, reason) for p, reason in zip(prompts, reasons, strict=True) if reason is not None]
    if recipe.generate.mix is None or (recipe.generate.mix[0] == "source" and not are_all):
        return good, bad
    chosen = mixed(recipe.generate, good)
    ids = {p.id for p in chosen}
    bad += [
        (p, f"beyond_share: its {recipe.generate.mix[0]} has enough prompts")
        for p in good
        if p.id not in ids
    ]
    return chosen, bad


def _draw_on(
    recipe: Recipe,
    requests: list[Request],
    make: Callable[[Prompt, int], Request],
    held_out: list[Prompt],
    raw: Path,
    location: str,
    tokenizers: Tokenizers,
    processes: Processes,
    spent: Spent,
) -> list[Request]:
    """Rejection sampling: another draw for each prompt with too few good answers, round after round; return all requests.

    Which prompts those are follows from the log alone, so a killed or repeated run draws the same and asks nothing twice.
    """
    options = recipe.generate
    if options.max_tries is None:
        return requests
    tries: dict[str, list[Request]] = {}
    for request in requests:
        tries.setdefault(request.prompt.id, []).append(request)
    still_open = tries
    for sample_index in range(options.samples_per_prompt, options.max_tries):
        rows = best_rows(read_answers(raw)[0])
        missing = any(r.key not in rows for mine in still_open.values() for r in mine)
        if processes.any(
            missing
        ):  # on one rank and not on another where other jobs write meanwhile
            break  # only in a shard: the others' answers of this round are not here yet
        too_few = (
            _too_few(recipe, still_open, rows, held_out, tokenizers) if processes.is_main else []
        )
        still_open = {prompt_id: tries[prompt_id] for prompt_id in processes.broadcast(too_few)}
        more = [make(mine[0].prompt, sample_index) for mine in still_open.values()]
        if not more:
            break
        for request in more:
            tries[request.prompt.id].append(request)
        ask(recipe, more, raw, location, tokenizers.asked, processes, spent)
    return [request for mine in tries.values() for request in mine]


def _too_few(
    recipe: Recipe,
    tries: dict[str, list[Request]],
    rows: dict[str, Row],
    held_out: list[Prompt],
    tokenizers: Tokenizers,
) -> list[str]:
    """Ids of the prompts that want another draw. What a server refused once, it would refuse again."""
    requests = [request for mine in tries.values() for request in mine]
    _, reasons = judge_answers(recipe, requests, rows, held_out, tokenizers)
    num_kept = Counter(
        r.prompt.id for r, reason in zip(requests, reasons, strict=True) if reason is None
    )
    refused = {r.prompt.id for r in requests if rows[r.key]["finish_reason"] == "error"}
    return [
        i for i in tries if num_kept[i] < recipe.generate.samples_per_prompt and i not in refused
    ]


def _grade(
    recipe: Recipe,
    log: Path,
    judged: Judged,
    location: str,
    tokenizer: Any,
    processes: Processes,
    spent: Spent,
) -> Judged:
    """The same, with the reasons of the judge; it is asked as the teacher is, into a log of its own."""
    options, asking = recipe.generate, llm_judge.asking(recipe)
    make = request_maker(asking, tokenizer)
    if (
        options.judge_server
        and options.max_cost
        and not (options.judge_price_prompt or options.judge_price_answer)
        and processes.is_main
    ):
        print(
            "generate: the judge's server counts as free towards max_cost: where it is not, set generate.judge_price_prompt and "
            "generate.judge_price_answer"
        )

    def replies(prompts: list[Prompt]) -> list[Row]:
        # another model's tokenizer is not known: it gets the conversation, not its ids
        requests = [make(p, 0, [] if recipe.generate.judge_server else None) for p in prompts]
        ask(
            asking,
            list({r.key: r for r in requests}.values()),
            log,
            location,
            tokenizer,
            processes,
            spent,
        )
        rows = best_rows(read_answers(log)[0])
        return [rows[r.key] for r in requests]

    return judged[0], llm_judge.judge(recipe, *judged, replies)


def _write(
    recipe: Recipe,
    stage: Path,
    requests: list[Request],
    judged: Judged,
    refused: list[tuple[Prompt, str]],
    held_out: list[Prompt],
    tokenizers: Tokenizers,
    skipped: Counter[str],
) -> StageOutput:
    """Write kept and dropped; a pure function of the raw logs and the recipe."""
    all_rows, broken = read_answers(stage / "raw")
    rows, num_long = best_rows(all_rows), 0
    if others := num_of_other_seeds(requests, rows):
        print(
            f"generate: {others:,} answers on disk were drawn with another seed and stay; generate.resample=true asks anew"
        )
    candidates, reasons = (
        judged[0],
        answer_filters.choose_shortest(*judged, recipe.generate.keep_per_prompt),
    )
    kept, dropped = (
        [],
        [{"prompt": p.text, "language": p.language, "reason": why} for p, why in refused],
    )
    for request, candidate, reason in zip(requests, candidates, reasons, strict=True):
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
        num_long += candidate.num_reasoning_tokens > recipe.generate.max_reasoning_tokens
        kept.append(
            Sample(
                request.key,
                prompt.id,
                prompt.text,
                prompt.language,
                prompt.reference,
                candidate.answer_text,
                *tokenizers.lesson(
                    recipe, prompt.messages, request.prompt_ids, row["token_ids"], row["text"]
                ),
            ).row()
        )
    by_reason = Counter(d["reason"].partition(":")[0] for d in dropped)
    if not kept:
        counts = ", ".join(f"{reason} {count}" for reason, count in by_reason.most_common())
        raise DataError(
            f"{stage}: no sample passed the filters ({len(dropped)} dropped: {counts}); look at "
            f"{stage / 'raw'} and relax `generate`, or raise generate.max_new_tokens"
        )
    prompts = list({r.prompt.id: r.prompt for r in requests}.values())
    rates = answer_filters.pass_rates(candidates, reasons) if recipe.generate.task else {}
    write_jsonl(
        stage / "prompts.jsonl",
        [p.row() | ({"pass_rate": rates[p.id]} if p.id in rates else {}) for p in prompts],
    )
    write_jsonl(stage / "kept.jsonl", kept)
    write_jsonl(stage / "dropped.jsonl", dropped)
    result = GenerateResult(
        num_prompts=len({r.prompt.id for r in requests}) + len(refused),
        num_asked=len(requests),
        num_kept=len(kept),
        num_dropped=len(dropped),
        dropped_by_reason=dict(by_reason),
        kept_by_language=dict(Counter(s["language"] for s in kept)),
        num_held_out=len(held_out),
        num_answer_tokens=sum(len(s["answer_ids"]) for s in kept),
        num_broken_log_lines=len(broken),
        vocab_size=len(tokenizers.student),
        format=chat.fingerprint_of_format(tokenizers.student),
        retokenized=tokenizers.difference,
        num_skipped=dict(skipped),
        prompts_by_language=dict(Counter(p.language for p in prompts)),
        by_language=count_by_language(kept, dropped),
        prompts_by_tries=dict(
            sorted(Counter(Counter(r.prompt.id for r in requests).values()).items())
        ),
        num_prompts_without_answer=len(
            {r.prompt.id for r in requests} - {s["prompt_id"] for s in kept}
        ),
        prompts_by_source=dict(Counter(p.source for p in prompts)),
        num_long_reasoning=num_long,
        seed=recipe.seed,
        warning=long_reasoning_warning(num_long, len(kept), recipe.generate.max_reasoning_tokens),
    )
    if result.warning:
        print(f"generate: warning: {result.warning}", file=sys.stderr)
    return StageOutput(
        result, [stage / name for name in ("prompts.jsonl", "kept.jsonl", "dropped.jsonl")]
    )


def judge_answers(
    recipe: Recipe,
    requests: list[Request],
    rows: dict[str, Row],
    held_out: list[Prompt],
    tokenizers: Tokenizers,
) -> Judged:
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
    if not tokenizers.same:
        reasons = [
            reason or _untellable(tokenizers.student, c)
            for c, reason in zip(candidates, reasons, strict=True)
        ]
    return candidates, reasons


def _untellable(tokenizer: Any, candidate: Answer) -> str | None:
    """Why an answer cannot be told in the student's tokenizer, if so."""
    mark = chat.own_mark(tokenizer, f"{candidate.reasoning or ''}\n{candidate.answer_text}")
    return f"format: {mark!r}, a token of the student's own, is in it" if mark else None


def _candidate(recipe: Recipe, request: Request, row: Row, tokenizers: Tokenizers) -> Answer:
    opened = chat.opens_thinking(tokenizers.asked, request.prompt_ids)
    reasoning, answer, complete = chat.split_thinking(row["text"], opened=opened)
    if recipe.generate.reasoning == "drop":
        reasoning = None  # nobody learns it, so nothing in it can be wrong
    return Answer(
        prompt=request.prompt.text,
        prompt_id=request.prompt.id,
        answer_text=answer,
        reasoning=reasoning,
        num_reasoning_tokens=len(tokenizers.student(reasoning, add_special_tokens=False).input_ids)
        if reasoning
        else 0,
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
    if capture.from_server:
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
