"""One round: the student answers, the teacher scores those very tokens, the student learns.

One model is in memory at a time. Nothing that is on disk is answered or scored again.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from distill import teachers
from distill.core.digests import digest
from distill.core.jsonl import write_jsonl
from distill.core.results import Round, RoundGuards, RoundValidation
from distill.data.samples import Sample
from distill.data.stored_samples import read_samples
from distill.errors import MismatchError
from distill.models import load
from distill.models.memory import free_memory
from distill.on_policy import guards as guarding
from distill.on_policy.learning import RoundLesson, learn
from distill.on_policy.mix import mixed
from distill.on_policy.own_answers import OwnAnswer, own_answers
from distill.on_policy.prompts import prompts_of_round
from distill.on_policy.round_files import RoundFiles
from distill.on_policy.student_answers import answers_of, student_digest
from distill.on_policy.student_as import answering_student, remove_files
from distill.on_policy.validation import validate
from distill.on_policy.work import Work
from distill.signals.header import SignalHeader
from distill.signals.store import SignalStore, sequence_key
from distill.signals.stores import SignalStores
from distill.teachers.listening import (
    Listening,
    columns_of,
    folder_of_signal,
    header_of,
    listen,
    sequence_of,
)


def first_round(work: Work) -> Round:
    """Return round 0: the trained student itself, validated."""
    seconds: dict[str, float] = {}
    student = work.broadcast(lambda: work.first_digest)
    made_from = work.made_from(0, student)
    with timed(seconds, "validation"):
        validation = _validated(work, 0)
    return Round(0, made_from, student, validation=validation, seconds=seconds)


def next_round(work: Work, rounds: Sequence[Round]) -> Round:
    """Make the round after those that are done; what an earlier process did of it is not done again."""
    number, before = rounds[-1].number + 1, rounds[-1]
    made = Round(number, work.made_from(number, before.student), before.student)
    if work.processes.is_main:
        work.files(number).begin(made.made_from)
    work.processes.barrier()
    with timed(made.seconds, "answers"):
        answers = _answers(work, before)
    fitting = [a for a in answers if a.sample and len(a.sample.ids) <= work.longest]
    num_learnt = sum(answer.sample is not None for answer in answers)
    made = replace(made, guards=guarding.guards_of(answers), num_too_long=num_learnt - len(fitting))
    red = red_of(work, made, rounds)
    if not fitting:
        red = red or _nothing_learnt(work, num_learnt)
    if red is not None:
        return replace(made, red=red)
    return _taught(work, made, rounds, fitting)


def _nothing_learnt(work: Work, num_too_long: int) -> str:
    """Return why no answer is learnt from; `num_too_long`: that could be, were they shorter."""
    text = "no answer of the student can be learnt from"
    if num_too_long:
        text += (
            f": {num_too_long:,} are longer than train.max_length {work.longest} with their prompts "
            "(raise it, or lower rounds.max_new_tokens)"
        )
    return text


def _taught(
    work: Work, made: Round, rounds: Sequence[Round], answers: Sequence[OwnAnswer]
) -> Round:
    """Return the round, its student trained on these answers and validated."""
    before, files = rounds[-1], work.files(made.number)
    samples = [answer.sample for answer in answers if answer.sample is not None]
    assert made.guards is not None
    if work.processes.is_main:
        write_jsonl(files.samples, (sample.row() for sample in samples))
    earlier = [s for n in range(1, made.number) for s in read_samples(work.files(n).samples)]
    with timed(made.seconds, "scoring"):
        store = _scored(work, samples, earlier)
        guards = _compared(work, before, made.guards, answers, store)
    of_origin = {"current": samples, "earlier": earlier, "teacher": work.learn}
    chosen = mixed(of_origin, work.options.mix, made.number, work.seed)
    with timed(made.seconds, "training"):
        _learn(work, before, made.number, chosen, store)
    with timed(made.seconds, "validation"):
        validation = _validated(work, made.number)
    made = replace(
        made,
        student=work.broadcast(lambda: student_digest(files.student)),
        guards=guards,
        validation=validation,
        num_samples={name: len(part) for name, part in chosen.items()},
        trained=work.broadcast(files.trained),
    )
    return replace(made, red=red_of(work, made, rounds))


def first_guards(rounds: Sequence[Round], guards: RoundGuards) -> RoundGuards:
    """Return the figures of round 1's answers; `guards`: of those of the round that is made."""
    return next((r.guards for r in rounds if r.guards is not None), guards)


def red_of(work: Work, made: Round, rounds: Sequence[Round]) -> str | None:
    """Return which figure of a round is red, by the recipe's limits. `rounds`: those before it."""
    limits, first = work.options.guards, rounds[0].validation
    red = None
    if made.guards is not None:
        red = guarding.red_of_answers(made.guards, first_guards(rounds, made.guards), limits)
    if red is None and made.validation is not None and first is not None:
        red = guarding.red_of_validation(made.validation, first, limits)
    return red


@contextmanager
def timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    """Note how long the block took, and give back what its model held."""
    started = time.monotonic()
    yield
    seconds[name] = round(time.monotonic() - started, 1)
    free_memory()


def _answers(work: Work, before: Round) -> list[OwnAnswer]:
    """Return what is learnt of each answer of the last round's student."""
    options = work.options
    prompts = prompts_of_round(
        work.prompts,
        {sample.prompt_id for sample in work.validation},
        options.prompts_per_round,
        before.number + 1,
        work.recipe.seed,
    )
    student = answering_student(work, before.number, before.student, prompts)
    drawn = answers_of(student, work.recipe, work.folder, work.stage, prompts, work.processes)
    if work.processes.is_main:
        remove_files(work)
    return own_answers(work.recipe, work.tokenizer, drawn)


def _scored(work: Work, samples: Sequence[Sample], earlier: Sequence[Sample]) -> SignalStores:
    """Return the signals of these samples and of the teacher's own; score what has none yet."""
    processes = work.processes
    captured, trimmed = work.captured_store, work.trimmed
    capture = work.recipe.capture.model_copy(update={"hidden_states": "none"})
    recipe = work.recipe.model_copy(update={"capture": capture})
    with teachers.connect_to_score(recipe, work.folder, processes.local_rank) as teacher:
        header = header_of(teacher, trimmed)
        for name, before, now in captured.header.differences(header):
            if name != "hidden_size":
                raise MismatchError(
                    f"{captured.folder}: {name} was {before!r} at capture, is {now!r} now, and a "
                    "round mixes both: run where the signal was captured, or use --redo capture"
                )
        shards = folder_of_signal(work.signals, header)
        columns = columns_of(teacher, trimmed, work.folder)
        listening = Listening(
            teacher, header, columns, shards, work.stage / "leases", "rounds: scoring"
        )
        for part in (samples, _gone(earlier, SignalStores([captured, _store(shards, header)]))):
            sequences = {s.key: s for s in (sequence_of(sample, trimmed) for sample in part)}
            new = [sequence for key, sequence in sequences.items() if key not in captured]
            processes.barrier()
            listen(listening, new, processes)
    processes.barrier()
    return SignalStores([captured, _store(shards, header)])


def _store(shards: Path, header: SignalHeader) -> SignalStore:
    return SignalStore(shards, header, skip_broken=True)


def _gone(samples: Sequence[Sample], store: SignalStores) -> list[Sample]:
    """Return the samples of earlier rounds whose signals are not there any more."""
    return [s for s in samples if sequence_key(s.ids, len(s.prompt_ids)) not in store]


def _compared(
    work: Work,
    before: Round,
    guards: RoundGuards,
    answers: Sequence[OwnAnswer],
    store: SignalStores,
) -> RoundGuards:
    """Return the guards with those of teacher and student at the tokens of some answers."""

    def compare() -> RoundGuards:
        return guarding.with_teacher(
            guards,
            guarding.compared(answers),
            store,
            _loaded(work, before.number),
            work.tokenizer,
            work.stop_ids,
            work.recipe.teacher.batch_tokens,
        )

    return work.broadcast(compare)


def _learn(
    work: Work, before: Round, number: int, chosen: dict[str, list[Sample]], store: SignalStores
) -> None:
    files: RoundFiles = work.files(number)
    if work.broadcast(files.has_whole_student):
        return
    own = [*chosen["current"], *chosen["earlier"]]
    start = work.student(before.number)
    lesson = RoundLesson(own, chosen["teacher"], work.validation, store, start)
    learn(
        work.recipe,
        lesson,
        files.place,
        work.tokenizer,
        work.processes,
        placement=work.placement,
        stop_ids=work.stop_ids,
        seed=int(digest("round", str(work.seed), str(number))[:8], 16) >> 1,
        number=number,
        title=work.title(number),
    )


def _validated(work: Work, number: int) -> RoundValidation:
    def measure() -> RoundValidation:
        label = f"rounds: validation of {work.title(number)}"
        return validate(work.recipe, work.validation_set, _loaded(work, number), label)

    return work.broadcast(measure)


def _loaded(work: Work, number: int) -> Any:
    """Return the student of a round, as it is trained."""
    return load.load_model(
        str(work.student(number)), work.placement, local_rank=work.processes.local_rank
    )
