"""With what the student answers: its weights, or a GGUF file of them in llama.cpp.

The faster of them here, measured once on a few short answers; what was found is kept beside the
rounds, so that a run that goes on goes on with the same. The file is of 8 bits: there an answer does
not depend on those beside it, and it is within some 1e-4 nats a token of the weights.
"""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from distill.core import shutdown
from distill.core.processes import ALONE
from distill.core.stored_json import broken, read_json, write_json
from distill.data.samples import Prompt
from distill.errors import DistillError
from distill.on_policy.student_answers import Student, request_options
from distill.on_policy.work import Work
from distill.teachers.keys import request_maker
from distill.teachers.requests import AnswerJob

FILE_TYPE = "q8_0"
NUM_ANSWERS, NUM_TOKENS = 16, 16  # that are measured on
WAY_OUT = "delete it and run the same command: it is measured again"


def answering_student(work: Work, number: int, digest: str, prompts: Sequence[Prompt]) -> Student:
    """Return the student of a round as it answers; its GGUF file is written where it is one."""
    student = Student(work.student(number), digest, work.placement)
    with_gguf = replace(student, gguf=gguf_of(work, digest))

    def chosen() -> bool:
        is_gguf = answered_with(work, student, with_gguf, prompts) == "gguf"
        if is_gguf:
            write_student(student, with_gguf)
        return is_gguf

    return with_gguf if work.broadcast(chosen) else student


def gguf_of(work: Work, digest: str) -> Path:
    """Return where the file of the student with this digest is while it answers."""
    return work.stage / f"answering-{digest[:16]}.gguf"


def remove_files(work: Work) -> None:
    """Remove the files that students answered with."""
    for path in work.stage.glob("answering-*.gguf"):
        path.unlink()


def write_student(student: Student, with_gguf: Student) -> None:
    """Write the student's file, where it is not there.

    Raises what write_gguf raises.
    """
    from distill.formats.gguf.write import write_gguf

    assert with_gguf.gguf is not None
    if not with_gguf.gguf.is_file():
        write_gguf(student.folder, with_gguf.gguf, FILE_TYPE)


def answered_with(
    work: Work, student: Student, with_gguf: Student, prompts: Sequence[Prompt]
) -> str:
    """Return "weights" or "gguf": what the recipe says, or what was measured to be faster."""
    if (known := _known(work)) is not None:
        return known
    found, note = _measured(work, student, with_gguf, prompts)
    print(f"rounds: the student answers with {note}", flush=True)
    write_json(_path(work), {"answered_with": found, "measured": note})
    return found


def stored_choice(work: Work) -> str:
    """Return what the students answered with; their weights where none has answered yet."""
    return _known(work) or "weights"


def _known(work: Work) -> str | None:
    """Return what the recipe says, or what was measured here before; None where nothing was."""
    asked_for = work.options.student_as
    if asked_for != "auto":
        return asked_for
    try:
        found = read_json(_path(work), WAY_OUT).get("answered_with")
    except FileNotFoundError:
        return None
    if found not in ("weights", "gguf"):
        raise broken(_path(work), "answered_with is neither weights nor gguf", WAY_OUT)
    return found


def _path(work: Work) -> Path:
    return work.stage / "student_as.json"


def _measured(
    work: Work, student: Student, with_gguf: Student, prompts: Sequence[Prompt]
) -> tuple[str, str]:
    """Return (what is faster, how it is told)."""
    if work.placement.device != "cpu":
        return "weights", "its weights, on the GPU"
    try:
        write_student(student, with_gguf)
        in_llama_cpp = _tokens_per_second(work, with_gguf, prompts)
    except DistillError as error:
        shutdown.check()  # what stops the run says nothing of llama.cpp
        return "weights", f"its weights: llama.cpp cannot run it ({error})"
    with_weights = _tokens_per_second(work, student, prompts)
    note = f"{with_weights:,.0f} tokens/s with its weights, {in_llama_cpp:,.0f} in llama.cpp"
    if in_llama_cpp > with_weights:
        return "gguf", f"a GGUF file in llama.cpp ({note})"
    return "weights", f"its weights ({note})"


def _tokens_per_second(work: Work, student: Student, prompts: Sequence[Prompt]) -> float:
    """Return the speed of some short answers, loading apart."""
    options = request_options(work.recipe).with_sampling(max_new_tokens=NUM_TOKENS)
    lengths: list[int] = []
    with student.as_teacher(work.recipe, work.folder, work.processes.local_rank) as asked:
        make = request_maker(asked, options)
        requests = [make(prompt, 0) for prompt in prompts[:NUM_ANSWERS]]
        asked.load()
        job = AnswerJob(
            iter(asked.blocks(requests, options, ALONE)),
            options,
            {},
            lambda _, completion: lengths.append(len(completion.token_ids or [])),
            lambda _: None,
        )
        started = time.monotonic()
        asked.answer(job)
        seconds = time.monotonic() - started
    return sum(lengths) / max(seconds, 1e-9)
