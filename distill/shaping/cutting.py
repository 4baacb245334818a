"""The cuts of a student that is made of another model: which, in what order, and what each costs.

Layers go first, then experts, then neurons of the feed-forward: what is ranked later is ranked in the
model that the student will be. Key/value heads and the hidden width stay as they are.

The model's layers may be on the disk (models/on_disk.py): then one of them is in memory at a time, in
float32, beside the embedding, the head and the student as far as it is made, and is read for each
batch of samples; where layers are chosen by `nll`, all of them are, since each runs hundreds of times.
"""

from collections.abc import Sequence
from typing import Any

from distill.core.results import Cut
from distill.data.samples import Sample
from distill.models import on_disk
from distill.models.families import EXPERTS, first_of
from distill.recipe import Recipe
from distill.recipe.sections import Student
from distill.shaping.calibration import Calibration, mean_nll
from distill.shaping.experts import keep_busiest
from distill.shaping.feed_forward import keep_strongest
from distill.shaping.layer_choice import chosen_layers
from distill.shaping.layers import keep_layers

NAMES = {
    "layers": "layers",
    "experts": "experts a layer",
    "feed-forward": "neurons of the feed-forward",
}
MEASURED = ("block_influence", "nll")  # of student.layers_by: those that read calibration text


def is_cut(student: Student) -> bool:
    """Return whether the student is a part of its model, the vocabulary apart."""
    return student.method == "layers" or bool(student.ffn_width or student.num_experts)


def reads_samples(student: Student) -> bool:
    """Return whether a cut is chosen by what the model makes of the run's samples."""
    chooses_layers = student.method == "layers" and student.layers_by in MEASURED
    return chooses_layers or bool(student.ffn_width or student.num_experts)


def cut(
    recipe: Recipe,
    model: Any,
    tokenizer: Any,
    samples: Sequence[Sample] | None,
    device: str = "cpu",
) -> tuple[list[Cut], float | None]:
    """Cut a model on the CPU in place, and return (what was cut, NLL before, nats a token).

    What is left of it is in memory then, wherever its layers were.

    `samples`: those of the run, None where no cut reads them (`reads_samples`); the NLLs are None
    then. `device`: where they go through it. Raises MismatchError for a family that cannot be cut so.
    """
    if samples is None:
        cuts = _cuts(recipe.student, model, None)
        on_disk.keep(model)
        return cuts, None
    calibration = Calibration.of(recipe, samples, tokenizer)
    on_disk.move(model, device)
    before = mean_nll(model, calibration)
    cuts = _cuts(recipe.student, model, calibration)
    on_disk.move(model, "cpu")
    on_disk.keep(model)
    return cuts, before


def _cuts(student: Student, model: Any, calibration: Calibration | None) -> list[Cut]:
    cuts = []
    if student.method == "layers":
        cuts.append(_cut_layers(student, model, calibration))
    if student.num_experts is not None and calibration is not None:
        cuts.append(_cut_experts(student.num_experts, model, calibration))
    if student.ffn_width is not None and calibration is not None:
        cuts.append(_cut_feed_forward(student.ffn_width, model, calibration))
    return cuts


def _cut_layers(student: Student, model: Any, calibration: Calibration | None) -> Cut:
    before = model.config.get_text_config().num_hidden_layers
    kept = chosen_layers(model, student.layer_share, student.layers_by, calibration)
    keep_layers(model, kept)
    return Cut("layers", before, len(kept), student.layers_by, kept, _nll(model, calibration))


def _cut_experts(num_experts: int, model: Any, calibration: Calibration) -> Cut:
    config = model.config.get_text_config()
    before, used = first_of(config.to_dict(), EXPERTS), config.num_experts_per_tok
    keep_busiest(model, num_experts, calibration)
    note = None
    if config.num_experts_per_tok < used:
        note = f"a token goes to {config.num_experts_per_tok} experts instead of {used}"
    nll = mean_nll(model, calibration)
    return Cut("experts", before, num_experts, "what they add", nll=nll, note=note)


def _cut_feed_forward(width: int, model: Any, calibration: Calibration) -> Cut:
    before = model.config.get_text_config().intermediate_size
    keep_strongest(model, width, calibration)
    nll = mean_nll(model, calibration)
    return Cut("feed-forward", before, width, "activations", nll=nll)


def told(cuts: Sequence[Cut], nll_before: float | None) -> list[str]:
    """Return a line for each cut: what is left, chosen by what, and what it cost before training."""
    lines, last = [], nll_before
    for made in cuts:
        kept = "" if made.kept is None else f" ({_ranges(made.kept)})"
        line = f"{made.after:,} of {made.before:,} {NAMES[made.what]} kept{kept}"
        line += f", chosen by {made.chosen_by}"
        if last is not None and made.nll is not None:
            line += f"; NLL of the samples' answers {last:.3f} -> {made.nll:.3f} nats a token"
        line += f"; {made.note}" if made.note else ""
        last = made.nll
        lines.append(line)
    return lines


def _ranges(numbers: Sequence[int]) -> str:
    """Return "0-3, 8" for 0, 1, 2, 3, 8."""
    ranges: list[list[int]] = []
    for number in numbers:
        if ranges and ranges[-1][1] == number - 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in ranges)


def _nll(model: Any, calibration: Calibration | None) -> float | None:
    return None if calibration is None else mean_nll(model, calibration)
