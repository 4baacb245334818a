"""All rounds of a student, one after another, until nothing better comes or one is red."""

import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from distill.core.files import FolderWriter
from distill.core.results import Round, RoundValidation
from distill.models import load
from distill.models.memory import free_memory
from distill.on_policy.one_round import first_round, next_round, red_of
from distill.on_policy.selection import best_round, why_ended
from distill.on_policy.work import Work


def make_rounds(work: Work) -> tuple[list[Round], str]:
    """Return the rounds, made where they are not on disk, and why they ended."""
    rounds = work.broadcast(lambda: stored_rounds(work))
    while (ended := _why_ended(work, rounds)) is None:
        made = next_round(work, rounds) if rounds else first_round(work)
        if work.processes.is_main:
            work.files(made.number).finish(made)
            tell(work, made)
        rounds = [*rounds, made]
        if work.processes.is_main:
            remove_old_weights(work, rounds)
        work.processes.barrier()
    return rounds, ended


def _why_ended(work: Work, rounds: Sequence[Round]) -> str | None:
    if not rounds:
        return None
    return why_ended(rounds, work.options.num_rounds, work.options.patience)


def stored_rounds(work: Work) -> list[Round]:
    """Return the rounds that are done and whole, by the recipe's limits of today."""
    rounds: list[Round] = []
    student = work.first_digest
    while not rounds or _why_ended(work, rounds) is None:
        number = len(rounds)
        made = work.files(number).read(work.made_from(number, student))
        if made is None:
            break
        if rounds:
            made = replace(made, red=red_of(work, made, rounds))
            if made.trained is None and made.red is None:
                break  # its guards have been relaxed: it goes on
        rounds.append(made)
        student = made.student
    return _with_whole_weights(work, rounds)


def _with_whole_weights(work: Work, rounds: list[Round]) -> list[Round]:
    """Return the rounds up to the first whose weights are needed, and gone or damaged."""
    while rounds:
        needed = {best_round(rounds), rounds[-1].number} - {0}
        bad = [
            n
            for n in sorted(needed)
            if rounds[n].trained and not work.files(n).has_student_of(rounds[n])
        ]
        if not bad:
            break
        print(f"  rounds: {work.files(bad[0]).student}: gone or damaged; made again")
        rounds = rounds[: bad[0]]
    return rounds


def remove_old_weights(work: Work, rounds: Sequence[Round]) -> None:
    """Remove the students that are neither the best nor the last: they could fill the disk."""
    kept = {best_round(rounds), rounds[-1].number, *_before_red(rounds)}
    for made in rounds:
        if made.number and made.number not in kept:
            shutil.rmtree(work.student(made.number), ignore_errors=True)


def _before_red(rounds: Sequence[Round]) -> list[int]:
    """Return the round from which a red one would begin anew, were its guards relaxed."""
    last = rounds[-1]
    return [last.number - 1] if last.red is not None and last.trained is None else []


def keep_best(work: Work, rounds: Sequence[Round]) -> Path:
    """Put the best round's student beside the rounds, in the type of its passes; return its folder."""
    path, source = work.place / "student", work.student(best_round(rounds))
    with FolderWriter(path) as temporary:
        if best_round(rounds) and work.placement.dtype == "bfloat16":
            _fill_in_bfloat16(work, source, temporary)
        else:
            shutil.copytree(source, temporary, copy_function=_link_or_copy, dirs_exist_ok=True)
    return path


def _fill_in_bfloat16(work: Work, source: Path, folder: Path) -> None:
    """Write the student of a round, which is in float32, to `folder` in bfloat16."""
    from distill.training.written import TRAINING, fill

    model = load.load_model(str(source), load.Placement("cpu", "bfloat16"))
    fill(folder, model, work.tokenizer, (source / TRAINING).read_text())
    del model
    free_memory()


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links, as of many USB sticks
        shutil.copy2(source, target)


def tell(work: Work, made: Round) -> None:
    """Print what a round came to."""
    parts = []
    if made.guards is not None:
        g = made.guards
        parts.append(
            f"{g.num_answers:,} answers of {g.mean_length:.0f} tokens, {g.cut:.1%} cut, "
            f"{g.loops:.1%} loop, {g.empty:.1%} empty, {g.other_language:.1%} in another language"
        )
        if g.logp_of_teacher is not None:
            parts.append(f"{g.logp_of_teacher:.3f} nats a token under the teacher")
        if g.same_likeliest is not None:
            parts.append(f"the same likeliest token at {g.same_likeliest:.1%}")
    if made.num_too_long:
        parts.append(
            f"{made.num_too_long:,} longer than train.max_length {work.longest} with their prompts, "
            "not learnt"
        )
    if made.num_samples:
        told = ", ".join(f"{num:,} {name}" for name, num in made.num_samples.items())
        parts.append(f"learnt from {told}")
    if made.validation is not None:
        parts.append(validation_text(made.validation))
    seconds = ", ".join(f"{name} {value:.1f} s" for name, value in made.seconds.items())
    print(f"rounds: {work.title(made.number)}: {'; '.join(parts)} ({seconds})", flush=True)
    if made.red is not None:
        print(
            f"rounds: warning: {work.title(made.number)} is red: {made.red}: the rounds end here, and "
            "the last good student is kept",
            file=sys.stderr,
            flush=True,
        )


def validation_text(validation: RoundValidation) -> str:
    text = f"validation: NLL {validation.nll_per_byte:.5f} nats a byte"
    if validation.exact_match is not None:
        text = f"{text}, exact match {validation.exact_match:.1%}"
    return text
