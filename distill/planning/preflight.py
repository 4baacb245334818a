"""Ask what quantize.formats need of a student before the teacher has cost anything.

Here is what all formats need; what one family needs stands in its own file. Where the student's
files are not on this machine yet, the catalogue knows its widths, and the rest is asked at the
export.
"""

from distill.errors import DataError, MismatchError, MissingError
from distill.formats import FORMATS, W16A16
from distill.formats.gguf.preflight import problem_of as gguf_problem
from distill.formats.planned_student import PlannedStudent, is_mixture
from distill.llama_cpp import gguf_header
from distill.models import find
from distill.recipe import Recipe


def check_formats(recipe: Recipe) -> None:
    """Refuse formats that the student cannot have.

    Raises MismatchError, and MissingError for a package.
    """
    student = PlannedStudent(recipe)
    names = recipe.quantize.formats
    _check_widths(student)
    if names:
        _refuse_experts(student)
    families: dict[object, list[str]] = {}
    for name in names:
        families.setdefault(FORMATS[name].check, []).append(name)
    for family in families.values():
        FORMATS[family[0]].check(student, family)


def check_answering(recipe: Recipe) -> None:
    """Raise MismatchError if the student of rounds is to answer as a GGUF file, and cannot be one."""
    if recipe.rounds is None or recipe.rounds.student_as != "gguf":
        return
    student = PlannedStudent(recipe)
    if student.is_mixture:
        problem = f"student {recipe.student.model!r} is a mixture of experts"
    else:
        problem = gguf_problem(student, "q8_0")
    if problem is not None:
        raise MismatchError(
            f"{recipe.source}: rounds.student_as gguf: {problem}: set rounds.student_as=weights"
        )


def check_quantization(recipe: Recipe) -> None:
    """Raise MismatchError where the teacher's experts are to be quantized, before it is fetched.

    bitsandbytes packs linear layers, and all experts of a layer are one tensor.
    """
    teacher, section = recipe.teacher, recipe.teacher_section
    if teacher.quantization != "none" and is_mixture_of_experts(recipe):
        raise MismatchError(
            f"{recipe.source}: {section}.quantization {teacher.quantization}: {teacher.model} is a "
            "mixture of experts, which it would leave in 16 bits: set it to none, and take a GGUF file "
            f"of 4 bits ({section}.gguf) or a server ({section}.server)"
        )


def is_mixture_of_experts(recipe: Recipe) -> bool:
    """Return whether the teacher is loaded here and is one, as far as is known before it is fetched."""
    teacher = recipe.teacher
    if teacher.server or teacher.gguf or teacher.trust_remote_code:  # whose experts may be layers
        return False
    try:
        config = find.read_config(recipe.model_location(teacher.model), teacher.revision)
    except MissingError:
        config = None
    return is_mixture(config, teacher.model)


def check_gguf_teacher(recipe: Recipe) -> None:
    """Raise DataError if teacher.gguf is not a whole GGUF file, as far as its header says."""
    path = recipe.gguf_teacher
    if path is None:
        return
    try:
        gguf_header.read_tensor_infos(path)
    except DataError as error:
        raise DataError(f"teacher.gguf: {error}, or name another") from None


def check_scoring(recipe: Recipe) -> str | None:
    """Ask the server whether it scores given tokens, where rounds or capture need that of it.

    Returns a warning where it cannot be asked now. Raises ServerError, with the way out, where it
    does not: llama.cpp's server is one of those.
    """
    in_rounds = recipe.rounds is not None and recipe.capture.from_server
    if not (in_rounds or recipe.capture.scores_answers):
        return None
    from distill.teachers.server.scoring import ScoringTeacher

    try:
        ScoringTeacher(recipe).check()
    except MissingError as error:
        whose = "capture.from_server scores" if recipe.capture.scores_answers else "rounds"
        return f"{whose}: whether the server scores given tokens was not asked ({error})"
    return None


def wide_rows(recipe: Recipe) -> str | None:
    """Return a warning if a format holds larger types, its blocks not fitting the rows."""
    formats = [FORMATS[name] for name in recipe.quantize.formats if FORMATS[name].block > 1]
    if not formats:
        return None
    block = max(format.block for format in formats)
    incompatible = [
        f"student {name} {size}"
        for name, size in PlannedStudent(recipe).row_sizes.items()
        if size % block
    ]
    if not incompatible:
        return None
    names = ", ".join(format.name for format in formats)
    return (
        f"{', '.join(incompatible)}: not a multiple of {block}, so {names} will hold larger types "
        "in those tensors"
    )


def slow_types(recipe: Recipe) -> list[str]:
    """Return a warning for each bfloat16 of the recipe, for a CPU that has no instructions for it."""
    types = {"train.precision": recipe.train.precision}
    if not recipe.teacher.server and not recipe.teacher.gguf:
        types["teacher.dtype"] = recipe.teacher.dtype
    return [
        f"{name}: this processor has no instructions for bfloat16, which takes some ten times as long "
        f"on it as float32 ({name}=auto takes the faster)"
        for name, dtype in types.items()
        if dtype == "bfloat16"
    ]


def _check_widths(student: PlannedStudent) -> None:
    recipe = student.recipe
    try:
        sizes = student.row_sizes
    except KeyError:
        return  # a config of another kind: the plan says so when it asks for the size
    for format in (FORMATS[name] for name in recipe.quantize.formats):
        incompatible = [
            f"{name} {size}" for name, size in sizes.items() if size % format.row_multiple
        ]
        if incompatible:
            raise MismatchError(
                f"{recipe.source}: quantize.formats: {format.name} needs rows in multiples of "
                f"{format.row_multiple}, the student has {', '.join(incompatible)}: "
                "take int8 or GGUF"
            )


def _refuse_experts(student: PlannedStudent) -> None:
    if student.is_mixture:
        recipe = student.recipe
        named = "" if student.config is None else f" ({student.architecture})"
        raise MismatchError(
            f"{recipe.source}: quantize.formats: student {recipe.student.model!r} is a mixture of "
            f"experts{named}, which no format here can hold: "
            f"set quantize.formats: [] and deploy the folder quantize/{W16A16.name}"
        )
