"""generate: the teacher answers the prompts.

Raw answers are never deleted; what is kept of them is decided anew whenever a filter changes.

    generate/raw_prompts/    what the teacher wrote where it was asked for prompts (expand), as in
                             raw/
    generate/raw/*.jsonl     every answer as it ended, append-only, keyed by content: nothing is
                             asked twice; with `given` those that nobody was asked for
    generate/judged/         what the judge replied about each answer (judge_min_score), as in raw/
    generate/held_out/       answers to prompts that nobody learns from (teachers/held_out.py)
    generate/prompts.jsonl   the prompts that were asked, where each came from, and the share of its
                             draws that were verified
    generate/kept.jsonl      the samples that passed every filter, as token ids
    generate/dropped.jsonl   the others, each with its reason

An answer's key holds the prompt, the teacher and the sampling values; its seed follows from the key
(teachers/keys.py).
"""

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace

from distill import tasks, teachers
from distill.chat.tokenizers import first_mark
from distill.conduct.sets import requests_of
from distill.core.jsonl import Row, write_jsonl
from distill.core.processes import Processes
from distill.core.results import GenerateResult
from distill.core.run_folder import RunFolder, StageOutput
from distill.core.stage import Cost, Stage
from distill.data.bad_rows import Left
from distill.data.prompts import split_prompts
from distill.data.routes import route_of_written, routed
from distill.data.samples import Prompt
from distill.errors import DataError
from distill.filters.base import FilterContext
from distill.filters.contamination import EvalIndex
from distill.planning.conversations import check_conversations
from distill.planning.costs import (
    PROCESS_BYTES,
    START_SECONDS,
    Workload,
    in_turn,
    signal_bytes_per_token,
)
from distill.planning.cuts import check_cuts
from distill.planning.demands import BYTES_PER_TOKEN, given_notes
from distill.planning.lengths import check_models, length_notes, within_context
from distill.planning.licences import require_permission
from distill.planning.vocabulary import check_vocabulary
from distill.recipe import Recipe
from distill.synthesis import llm_judge
from distill.teachers.answers import ask
from distill.teachers.base import Teacher
from distill.teachers.fingerprint import answers_inputs, answers_section
from distill.teachers.generation import (
    Answered,
    Generation,
    all_dropped_rows,
    num_by_reason,
    prompt_rows,
    result_of,
    sorted_out,
    told_of,
)
from distill.teachers.given import log_given
from distill.teachers.kept import Candidates, Filtered, unlearnable
from distill.teachers.keys import request_maker
from distill.teachers.launch import check_teachers_processes
from distill.teachers.log import read_best_rows, read_rows_of
from distill.teachers.logged_rows import ChosenRows
from distill.teachers.requests import Request, RequestOptions
from distill.teachers.routes import Route, routes_of
from distill.text.identification import by_script_only

JSON_BYTES_PER_LOG_PROB = 86.0  # of llama.cpp; vLLM writes less


def run(
    recipe: Recipe, folder: RunFolder, processes: Processes, *, teacher: Teacher | None = None
) -> StageOutput | None:
    """Ask for what is missing and filter it; `teacher`: the one to ask, if not the recipe's.

    Of several teachers one is asked after the other. Returns None on all processes but the first,
    and in a shard.
    """
    require_permission(recipe)
    tasks.grader(recipe.generate)  # what this machine lacks for it is said before anything is asked
    routes = [Route(recipe)] if teacher is not None else routes_of(recipe)
    asked = [teacher or route.connect(folder, processes.local_rank) for route in routes]
    for route, one in zip(routes, asked, strict=True):
        check_models(route.recipe, one)
    check_vocabulary(recipe, asked[0].tokenizers)
    check_cuts(recipe)  # the config came with the tokenizer, where plan could not read it
    if processes.is_main:
        _tell_tokenizers(routes, asked)
    left = Left()
    prompts, held_out = split_prompts(recipe, left)
    if unknown := by_script_only(recipe.languages):
        left.notes.append(f"languages: {unknown}")
    left.tell("generate", processes)
    stage = folder.stage("generate")
    if recipe.teachers is not None:
        requests_of(recipe)  # those that no teacher takes are told before anything is paid for
    generations = [
        Generation(route.recipe, one, processes, stage, held_out)
        for route, one in zip(routes, asked, strict=True)
    ]
    learnt, exam = routed(recipe, prompts), routed(recipe, held_out)
    for generation in generations:
        own, own_exam = learnt[generation.name], exam[generation.name]
        check_conversations(generation.recipe, generation.tokenizers, [*own, *own_exam])
        # of the prompts that are asked plan has told
        given = [prompt for prompt in own if prompt.is_given]
        left.notes += length_notes(generation.teacher, given, own_exam)
        left.notes += given_notes(generation.recipe, given)
    with ExitStack() as until_the_end:
        if len(generations) == 1:  # several are loaded in turn
            until_the_end.enter_context(asked[0])
        return _generate(recipe, generations, prompts, left)


def _tell_tokenizers(routes: Sequence[Route], asked: Sequence[Teacher]) -> None:
    for route, teacher in zip(routes, asked, strict=True):
        if not teacher.tokenizers.same:
            print(
                f"generate: {route.prefix}the student has another tokenizer "
                f"({teacher.tokenizers.difference}): it learns the answers' text in its own"
            )


def _generate(
    recipe: Recipe, generations: Sequence[Generation], prompts: list[Prompt], left: Left
) -> StageOutput | None:
    from distill.filters.prompt_filters import select_prompts

    processes = generations[0].processes
    expanded = _expand_all(generations, prompts, left)
    if expanded is None:
        return None
    written, unfit = expanded
    # those of people first: of two that repeat each other theirs stays
    chosen, refused = select_prompts(
        recipe,
        [*prompts, *written],
        generations[0].held_out,
        find_mark=lambda messages: first_mark([g.tokenizers for g in generations], messages),
    )
    parts = routed(recipe, chosen)
    answered: list[Answered] = []
    beyond: list[tuple[Prompt, str]] = []
    for generation in generations:
        with _turn(generation):
            of_route = _answers(generation, parts[generation.name], beyond)
        if of_route is not None:
            answered.append(of_route)
    if processes.is_partial_job:
        return None
    output = None
    if processes.is_main:
        output = _write(recipe, answered, [*unfit, *refused, *beyond], left)
    processes.barrier()
    return output


def _turn(generation: Generation) -> ExitStack:
    """Return what unloads one of several teachers at its end: the next one may need its memory."""
    stack = ExitStack()
    if generation.name:
        stack.enter_context(generation.teacher)
    return stack


def _answers(
    generation: Generation, prompts: list[Prompt], beyond: list[tuple[Prompt, str]]
) -> Answered | None:
    """Ask a teacher its prompts and filter its answers; None in a shard.

    What its context does not hold is added to `beyond`.
    """
    recipe, processes = generation.recipe, generation.processes
    chosen, too_long = within_context(generation.teacher, prompts)
    beyond += too_long
    requests = _draw(generation, chosen)
    if processes.is_partial_job:
        return None
    filtered = Filtered([], [])
    if processes.is_main:
        rows = read_best_rows(generation.logs.answers)
        filtered = filter_answers(generation, requests, rows)
    if recipe.generate.judge_min_score is not None:
        # every process asks about what the main one has read, so here the answers are held
        told = processes.broadcast(Filtered(list(filtered.answers), filtered.reasons))
        filtered = Filtered(filtered.answers, _judge(generation, told))
    return Answered(generation, requests, filtered)


def _expand_all(
    generations: Sequence[Generation], prompts: list[Prompt], left: Left
) -> tuple[list[Prompt], list[tuple[Prompt, str]]] | None:
    """Do what `expand` does with each teacher in turn, before any is asked for answers.

    Which prompts are worth asking is told from those of all.
    """
    written: list[Prompt] = []
    unfit: list[tuple[Prompt, str]] = []
    is_missing = False
    for number, generation in enumerate(generations):
        with _turn(generation):
            # what is left out of files is counted once
            expanded = expand(generation, prompts, Left() if number else left)
        if expanded is None:
            is_missing = True
            continue
        written += expanded[0]
        unfit += expanded[1]
    return None if is_missing else (written, unfit)


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
    if generation.name:
        whole = recipe.whole
        writers = [route_of_written(whole, w.source, w.prompt.language) for w in wanted]
        wanted = [w for w, name in zip(wanted, writers, strict=True) if name == generation.name]
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
    keys = [request.key for request in requests]
    rows = processes.broadcast(read_rows_of(log, keys) if processes.is_main else {})
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
    """Ask for the prompts' answers, and by rejection sampling for more; return all requests.

    Nobody is asked for those that are given.
    """
    options = RequestOptions.of(generation.recipe)
    make = request_maker(generation.teacher, options)
    num_samples = generation.recipe.generate.samples_per_prompt
    given = [make(prompt, 0) for prompt in prompts if prompt.is_given]
    to_ask = [prompt for prompt in prompts if not prompt.is_given]
    requests = [make(prompt, i) for prompt in to_ask for i in range(num_samples)]
    where = generation.logs.answers, generation.processes
    log_given(generation.teacher, given, options, *where)
    if requests:  # else the log need not be read again
        ask(generation.teacher, requests, options, *where)
    return _draw_on(generation, requests, options) + given


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
    generation: Generation, tries: dict[str, list[Request]], rows: ChosenRows
) -> list[str]:
    """Return the ids of the prompts that want another draw.

    What a server refused once, it would refuse again.
    """
    requests = [request for drawn in tries.values() for request in drawn]
    reasons = filter_answers(generation, requests, rows).reasons
    num_kept = Counter(
        r.prompt.id for r, reason in zip(requests, reasons, strict=True) if reason is None
    )
    refused = {r.prompt.id for r in requests if rows.head(r.key)["finish_reason"] == "error"}
    wanted = generation.recipe.generate.samples_per_prompt
    return [i for i in tries if num_kept[i] < wanted and i not in refused]


def _is_first(recipe: Recipe) -> bool:
    """Return whether this is the first teacher of the recipe, for what is told once."""
    return recipe.route in ("", recipe.whole.views[0].route)


def _judge(generation: Generation, filtered: Filtered) -> list[str | None]:
    """Return the reasons with those of the judge, which is asked into a log of its own."""
    recipe, processes, log = generation.recipe, generation.processes, generation.logs.verdicts
    if processes.is_main and _is_first(recipe) and llm_judge.counts_as_free(recipe.generate):
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

    return llm_judge.judge(recipe, *filtered, replies)


def _write(
    recipe: Recipe,
    answered: Sequence[Answered],
    refused: list[tuple[Prompt, str]],
    left: Left,
) -> StageOutput:
    """Write kept and dropped; a pure function of the raw logs and the recipe."""
    stage = answered[0].generation.stage
    log = answered[0].generation.logs.answers.folder
    written = [sorted_out(of_teacher) for of_teacher in answered]
    if num_others := sum(one.num_of_other_seeds for one in written):
        print(
            f"generate: {num_others:,} answers on disk were drawn with another seed and stay; "
            "generate.resample=true asks anew"
        )
    requests = [request for one in answered for request in one.requests]
    dropped = told_of(written, refused)
    counts = ", ".join(f"{name} {count:,}" for name, count in num_by_reason(dropped).most_common())
    num_kept = sum(1 for one in written for _ in one.kept_requests)
    if not num_kept:
        way_out = f"look at {log} and relax `generate`, or raise generate.max_new_tokens"
        if all(request.prompt.is_given for request in requests):
            way_out = f"look at the answers in {log} and relax `generate`"
        if not requests:
            way_out = "none was worth asking: look at the prompts, and at the languages they say"
        raise DataError(
            f"{stage}: no sample passed the filters ({len(dropped)} dropped: {counts}); {way_out}"
        )
    files = {
        "prompts.jsonl": prompt_rows(requests, written),
        "kept.jsonl": (row for one in written for row in one.kept()),
        "dropped.jsonl": all_dropped_rows(refused, written),
    }
    for name, file_rows in files.items():
        write_jsonl(stage / name, file_rows)
    print(f"generate: {num_kept:,} kept, {len(dropped):,} dropped: {counts or 'none'}")
    result = result_of(recipe, written, refused, left)
    for share in result.teachers:
        given = f", and {share.num_given_kept:,} that are given" if share.num_given_kept else ""
        print(
            f"generate: {share.name}: {share.num_kept:,} kept of {share.num_asked:,} answers{given}"
        )
    if result.warning:
        print(f"generate: warning: {result.warning}", file=sys.stderr)
    return StageOutput(result, [stage / name for name in files])


def filter_answers(
    generation: Generation, requests: list[Request], rows: Mapping[str, Row]
) -> Filtered:
    """Return each answer as the filters see it, and why it is dropped. `rows`: by key.

    The answers stay in the log.
    """
    from distill.filters import answer_filters

    recipe, tokenizers, held_out = generation.recipe, generation.tokenizers, generation.held_out
    candidates = Candidates(recipe, requests, rows, tokenizers)
    context = FilterContext(
        recipe.generate,
        recipe.languages,
        grade=tasks.grader(recipe.generate),
        eval_index=EvalIndex(p.text for p in held_out),
        teachers=_names_of_teachers(recipe.whole),
    )
    prompt_ids = [request.prompt.id for request in requests]
    reasons = answer_filters.filter_answers(candidates, context, prompt_ids)
    for number, request in enumerate(requests):
        if reasons[number] is None:
            row = rows[request.key]
            given = request.prompt.answer
            reasons[number] = unlearnable(tokenizers, candidates[number], row, given)
    return Filtered(candidates, reasons)


def _names_of_teachers(recipe: Recipe) -> tuple[str, ...]:
    """Return what several teachers may call themselves; of one alone its family's names are known."""
    from distill.filters.identity import names_of_model

    named = [names_of_model(teacher.model) for teacher in recipe.teachers or ()]
    return tuple(dict.fromkeys(name for names in named for name in names))


def seed(recipe: Recipe) -> int:
    """Return the recipe's seed where it asks for other answers with another one."""
    return recipe.seed if recipe.generate.resample else 0


def cost(work: Workload) -> Cost:
    """Reckon the asking: what the teachers take to answer here, or what goes over the network."""
    asking = in_turn([_cost_of_turn(part) for part in work.turns])
    return replace(asking, seconds=START_SECONDS + asking.seconds)


def _cost_of_turn(work: Workload) -> Cost:
    """Return what asking one teacher takes."""
    demand, capture = work.demand, work.recipe.capture
    tokens = work.num_requests * (demand.prompt + demand.answer)
    answer_bytes = 2 * BYTES_PER_TOKEN
    logged_bytes = 0.0
    if work.gives_log_probs:
        answer_bytes += JSON_BYTES_PER_LOG_PROB * capture.top_k
        logged_bytes = (
            signal_bytes_per_token(work.recipe, work.teacher.vocabulary) * 4 / 3
        )  # base64
    traffic = work.num_requests * demand.answer * answer_bytes if work.on_server else 0.0
    return Cost(
        PROCESS_BYTES + work.asking_bytes,
        work.teacher_seconds(work.num_requests),
        disk=tokens * 12 + demand.num_answers * demand.answer * logged_bytes,
        download=0.0 if work.on_server else work.teacher_download,
        traffic=traffic,
    )


STAGE = Stage(
    "generate",
    "the teacher answers the prompts; the answers are filtered",
    run,
    GenerateResult,
    answers_section,
    answers_inputs,
    seed,
    cost=cost,
    check_launch=check_teachers_processes,
    shared=True,
    asks_teacher=True,
)
