"""What a plan says of a student that is cut out of a bigger model, before anything is spent."""

import math

from distill.catalog import catalog
from distill.planning.costs import Workload
from distill.planning.sizes import num_tables
from distill.recipe import Recipe
from distill.recipe.sections import Student
from distill.shaping.calibration import (
    ANSWER_TOKENS,
    BATCH_TOKENS,
    NUM_SEQUENCES,
    PROMPT_TOKENS,
)
from distill.shaping.cutting import is_cut, reads_samples
from distill.shaping.experts import no_experts, refuse_other_experts
from distill.shaping.feed_forward import not_dense, refuse_other_widths
from distill.shaping.layer_choice import SEARCH_SEQUENCES
from distill.shaping.layers import num_kept_of

HEALED_SHARE = 1 / 3  # of the layers that may go in one cut; more takes billions of tokens to heal

# of one layer in float32 while it is read: a mixture's experts are put together, then gate and up
READ_LAYERS = 2.5
# of a mixture, copied when it is saved: gate and up of its experts, which its files have apart
SAVED_SHARE = 2 / 3
READ_SPEED = 0.6e9  # bytes of float32 a second, by one core, out of files that memory holds
ROOM_SHARE = 0.7  # of the memory that is free, for a whole model that is then read once
HEAD_READS = 2  # before an NLL is measured, to see that logits follow from the hidden states


def check_cuts(recipe: Recipe) -> None:
    """Raise MismatchError for a cut that the student's model cannot have, by its config.json.

    Where that is not on this machine yet, the catalogue tells mixtures from dense models, and the
    rest is asked when it is.
    """
    from distill.formats.planned_student import PlannedStudent  # which reads numpy

    planned = PlannedStudent(recipe)
    config, student = planned.text_config, recipe.student
    if not config:
        _check_by_catalogue(recipe)
        return
    if student.num_experts is not None:
        refuse_other_experts(planned.architecture, config, student.num_experts)
    if student.ffn_width is not None:
        refuse_other_widths(planned.architecture, config, student.ffn_width)


def _check_by_catalogue(recipe: Recipe) -> None:
    """Raise MismatchError for a cut of experts where there are none, or of neurons where there are."""
    student = recipe.student
    known = catalog.find(student.model or "")
    if known is None:
        return
    if student.ffn_width is not None and known.active is not None:
        raise not_dense(known.id)
    is_dense = known.params is not None and known.active is None
    if student.num_experts is not None and is_dense:
        raise no_experts(known.id)


def deep_cut(recipe: Recipe, num_layers: int) -> str | None:
    """Return a warning where more than a third of the layers go, None elsewhere.

    `num_layers`: of the model that is cut.
    """
    student = recipe.student
    if student.method != "layers":
        return None
    kept = num_kept_of(num_layers, student.layer_share)
    if num_layers - kept <= HEALED_SHARE * num_layers:
        return None
    least = -(-2 * num_layers // 3)
    return (
        f"student.layer_share {student.layer_share} keeps {kept} of {num_layers} layers: a cut of "
        f"more than a third does not heal without long training. {least / num_layers:.2f} keeps "
        f"{least}; what else is to go costs less in student.vocabulary and student.ffn_width"
    )


def making_bytes(work: Workload) -> float:
    """Return the bytes of the weights that are in memory while the student is made.

    Of a model that is cut (models/on_disk.py) those are the tables by token, the layer that is read,
    and the student as far as it is made. All of it where it has room and samples go through it, where
    `nll` runs each layer hundreds of times, and where it is packed in its files.
    """
    source, student = work.student_source, work.student.parameters
    if source is None:
        return 4 * student
    from distill.formats.planned_student import PlannedStudent  # which reads numpy

    planned = PlannedStudent(work.recipe)
    saved = student * (1 + SAVED_SHARE * planned.is_mixture)
    is_packed = "quantization_config" in (planned.config or {})
    if not is_cut(work.recipe.student) or is_packed or _is_read_once(work):
        return 4 * max(source.parameters, saved)
    tables = source.head * num_tables(work.recipe)
    layer = (source.parameters - tables) / source.layers
    return 4 * max(tables + student + READ_LAYERS * layer, saved)


def has_room(num_bytes: float, free: float) -> bool:
    """Return whether a model that samples go through is read once, of so many bytes in float32."""
    return num_bytes <= ROOM_SHARE * free


def searches(student: Student) -> bool:
    """Return whether layers are tried one by one, which has all of them in memory."""
    return student.method == "layers" and student.layers_by == "nll"


def _is_read_once(work: Workload) -> bool:
    source, machine, student = work.student_source, work.machine, work.recipe.student
    assert source is not None  # a model that is cut
    free = min(machine.memory, machine.gpu_memory) if machine.gpu else machine.memory
    fits = reads_samples(student) and has_room(4 * source.parameters, free)
    return fits or searches(student)


def choice_seconds(work: Workload) -> float:
    """Return the seconds in which cuts are chosen by what the model makes of samples.

    In each pass over them the layers are read for every batch, unless there is room for all; whether
    there is, `initialize` sees when it begins.
    """
    student, source = work.recipe.student, work.student_source
    if source is None or not reads_samples(student):
        return 0.0
    prompt = min(work.demand.prompt, PROMPT_TOKENS)
    answer = min(work.demand.answer, ANSWER_TOKENS)
    num_tokens = NUM_SEQUENCES * (prompt + answer)
    num_passes = _num_passes(student)
    passes = 2 * num_passes * num_tokens * source.parameters
    num_reads = num_passes * (HEAD_READS + math.ceil(num_tokens / BATCH_TOKENS))
    if searches(student):
        passes += _search(work, SEARCH_SEQUENCES * (prompt + answer), SEARCH_SEQUENCES * answer)
    if _is_read_once(work):
        num_reads = 0  # beyond its loading
    return passes / work.machine.flops + num_reads * 4 * source.parameters / READ_SPEED


def _num_passes(student: Student) -> int:
    """Return how often samples go through the model: an NLL before all cuts, and after each one.

    One more chooses what goes, but for layers that are chosen by their numbers, or by NLL.
    """
    of_width = bool(student.num_experts) + bool(student.ffn_width)
    of_layers = student.method == "layers"
    num_choices = of_width + (of_layers and student.layers_by == "block_influence")
    return 1 + of_width + of_layers + num_choices


def _search(work: Workload, num_tokens: float, num_answer_tokens: float) -> float:
    """Return the arithmetic of the greedy search: each trial runs half the layers, and the head."""
    source = work.student_source
    assert source is not None  # layers of a model
    kept = num_kept_of(source.layers, work.recipe.student.layer_share)
    sizes = range(kept + 1, source.layers + 1)
    layer = (source.parameters - source.head) / source.layers
    layers = sum(size * size / 2 for size in sizes) * layer * num_tokens
    heads = sum(sizes) * source.head * num_answer_tokens
    return 2 * (layers + heads)
