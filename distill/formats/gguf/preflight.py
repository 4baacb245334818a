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
    if student.config is not None:
        _check_architecture(student, names)
    _check_tokenizer(student)


def _check_architecture(student: PlannedStudent, names: Sequence[str]) -> None:
    from distill import formats
    from distill.formats.gguf.architectures import ARCHITECTURES, LANGUAGE_MODELS, problems

    recipe, published = student.recipe, student.architecture
    start = f"{recipe.source}: quantize.formats: student {recipe.student.model!r} is a {published}"
    way_out = f"Take the formats {formats.other_folders()}, or none: quantize.formats: []"
    architecture = LANGUAGE_MODELS.get(published, published)
    if architecture not in ARCHITECTURES:
        raise MismatchError(
            f"{start}, which cannot be written to GGUF ({', '.join(names)}) here; "
            f"known: {', '.join(ARCHITECTURES)}. {way_out}"
        )
    if "model_type" in student.text_config:
        from transformers import AutoConfig

        options = {k: v for k, v in student.text_config.items() if k != "architectures"}
        if reasons := problems(AutoConfig.for_model(**options), architecture):
            raise MismatchError(f"{start}; llama.cpp's has no {'; no '.join(reasons)}. {way_out}")


def _check_tokenizer(student: PlannedStudent) -> None:
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
        return  # not on this machine yet
    num_ids = student.text_config.get("vocab_size") or len(tokenizer)
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        try:
            read_vocabulary(Path(folder), num_ids)
            if getattr(tokenizer, "chat_template", None):
                require_same(tokenizer, recipe.generate)
        except (MismatchError, MissingError) as error:
            message = str(error).replace(folder, location)
            raise MismatchError(f"{recipe.source}: quantize.formats: {message}") from None
