"""What GGUF needs of a student: an architecture and a tokenizer that llama.cpp has.

The questions are those that the export itself asks; where the student's files are not on this
machine yet, they are asked at the export.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path

from distill.errors import MismatchError, MissingError
from distill.formats.planned_student import PlannedStudent
from distill.models import find, load


def check_student(student: PlannedStudent, names: Sequence[str]) -> None:
    """Refuse a student that cannot be written in the GGUF formats `names`. Raises MismatchError."""
    from distill import formats

    where = f"{student.recipe.source}: quantize.formats"
    if problem := _architecture_problem(student, names):
        way_out = f"Take the formats {formats.other_folders()}, or none: quantize.formats: []"
        raise MismatchError(f"{where}: {problem}. {way_out}")
    if problem := _tokenizer_problem(student):
        raise MismatchError(f"{where}: {problem}")


def problem_of(student: PlannedStudent, name: str) -> str | None:
    """Return why a student cannot be written in a GGUF format, None where nothing speaks against it."""
    return _architecture_problem(student, [name]) or _tokenizer_problem(student)


def _architecture_problem(student: PlannedStudent, names: Sequence[str]) -> str | None:
    from distill.formats.gguf.architectures import ARCHITECTURES, LANGUAGE_MODELS, problems

    if student.config is None:
        return None
    published = student.architecture
    start = f"student {student.recipe.student.model!r} is a {published}"
    architecture = LANGUAGE_MODELS.get(published, published)
    if architecture not in ARCHITECTURES:
        return (
            f"{start}, which cannot be written to GGUF ({', '.join(names)}) here; "
            f"known: {', '.join(ARCHITECTURES)}"
        )
    if "model_type" in student.text_config:
        from transformers import AutoConfig

        options = {k: v for k, v in student.text_config.items() if k != "architectures"}
        if reasons := problems(AutoConfig.for_model(**options), architecture):
            return f"{start}; llama.cpp's has no {'; no '.join(reasons)}"
    return None


def _tokenizer_problem(student: PlannedStudent) -> str | None:
    """Write the student's tokenizer as the export finds it; a random student has the teacher's."""
    from distill.formats.gguf.chat_template import require_same
    from distill.formats.gguf.vocabulary import read_vocabulary

    recipe = student.recipe
    source = recipe.teacher if recipe.student.model is None else recipe.student
    location = recipe.model_location(source.model or "")
    try:
        find.read_config(location, source.revision)
        tokenizer = load.load_tokenizer(location, source.revision)
    except MissingError:
        return None  # not on this machine yet
    num_ids = student.text_config.get("vocab_size") or len(tokenizer)
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        try:
            read_vocabulary(Path(folder), num_ids)
            if getattr(tokenizer, "chat_template", None):
                require_same(tokenizer, recipe.generate)
        except (MismatchError, MissingError) as error:
            return str(error).replace(folder, location)
    return None
