"""The student's model card: what a person must know, and must pass on, before using it.

The front matter is the hub's: https://huggingface.co/docs/hub/model-cards
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import ModelCardData

from distill.catalog import catalog
from distill.core.final_student import student_stage
from distill.core.results import FileCheck
from distill.formats import FORMATS
from distill.recipe import Recipe
from distill.reporting.benchmarks import card_lines
from distill.reporting.duties import duty_lines, lines_to_show, student_title
from distill.reporting.licence_files import licence_texts
from distill.reporting.rendering import render_markdown
from distill.reporting.repeats import figures_text
from distill.reporting.results import RunResults
from distill.reporting.rounds import rounds_sentence
from distill.reporting.safety import SafetyText
from distill.reporting.summary import Statement, kind_of_exam
from distill.reporting.table import ModelRow, tokenizers_meet
from distill.shaping.cutting import told


@dataclass(frozen=True)
class HubLicence:
    """A licence as a hub's metadata has it.

    One that the hub has no identifier for is `other`, with a name and a link to its text: here to a
    file beside the card.
    """

    identifier: str | None = None
    name: str | None = None
    link: str | None = None


@dataclass(frozen=True)
class TeacherLine:
    """A teacher as the card names it. `taught`: of several, how much, and whether its text alone."""

    model: str
    revision: str | None
    runtime: str
    taught: str


@dataclass(frozen=True)
class File:
    """A quantized file as the card lists it; `path` is relative to the run folder."""

    path: str
    runtimes: str
    megabytes: str
    bits_per_weight: float
    failed: str | None


def model_card(
    recipe: Recipe,
    results: RunResults,
    rows: list[ModelRow],
    verdict: str,
    answers: Sequence[Statement] = (),
) -> str:
    """Return the card: front matter for a model hub, then Markdown. `answers` stand first."""
    student = results.initialize
    metadata = card_metadata(recipe)
    texts = licence_texts(recipe)
    body = render_markdown(
        "model_card.md.jinja",
        title=student_title(recipe, results.licence),
        lines_to_show=lines_to_show(results.licence),
        modified_on=results.modified_on,
        num_parameters=student.num_parameters,
        teachers_named=recipe.teachers_named,
        teachers=[_teacher(view, results) for view in recipe.views],
        starting_point=_starting_point(recipe, results),
        cuts=told(student.cuts, student.nll_before_cuts),
        generate=results.generate,
        exam=kind_of_exam(recipe),
        sources=[source.name for source in recipe.generate.prompts],
        training=_training(recipe, results.generate.retokenized),
        num_steps=results.train.roles["student"].num_steps,
        rounds=rounds_sentence(results.rounds) if results.rounds else "",
        student_stage=student_stage(recipe),
        student_bits=round(8 * results.quantize.student_bytes / student.num_parameters),
        files=[_file(name, check) for name, check in results.quantize.formats.items()],
        licence=results.licence,
        duties=duty_lines(results.licence, texts),
        declares_data=any(source.licence for source in recipe.generate.prompts),
        data_licences=_data_licences(recipe),
        accepted=_accepted(recipe, results),
        needs_licence_file=metadata.license == "other",
        safety=SafetyText.of(results.safety, results.gates),
        missing_texts=[text for text in texts if text.text is None],
        num_examples=results.evaluate.num_examples,
        num_given=results.evaluate.num_given,
        num_repeats=len(results.repeats),
        table=figures_text(results, rows),
        tokenizers_meet=tokenizers_meet(rows),
        verdict=verdict,
        answers=answers,
        benchmarks=card_lines(results.benchmark) if results.benchmark else [],
    )
    return f"---\n{metadata.to_yaml()}\n---\n\n{body}"


def card_metadata(recipe: Recipe) -> ModelCardData:
    """Return the front matter.

    Base model and data sets are named if they are the hub's: a folder of this machine means nothing
    there. The body names them all.
    """
    datasets = [_hub_id(source.dataset) for source in recipe.generate.prompts]
    licence = _hub_licence(recipe)
    base = _hub_id(recipe.student.model)
    # a student that began from a model's weights and was trained on, whatever was cut before, and
    # whatever files were made of it: https://huggingface.co/docs/hub/model-cards#specifying-a-base-model
    relation = None if base is None else "finetune"
    return ModelCardData(
        base_model=base,
        base_model_relation=relation,
        datasets=list(dict.fromkeys(name for name in datasets if name)) or None,
        language=list(recipe.languages),
        library_name="transformers",
        license=licence.identifier,
        license_name=licence.name,
        license_link=licence.link,
        pipeline_tag="text-generation",
        tags=["distillation"],
    )


def _hub_id(name: str | None) -> str | None:
    """Return the name if it is a hub id; the others are folders, as the recipe tells them apart."""
    return None if name is None or name.startswith((".", "/", "~")) else name


def _hub_licence(recipe: Recipe) -> HubLicence:
    """Return what the hub is told of the licences of teacher, base, judge and data, which hold together.

    Where neither catalogue nor recipe knows the licence of one of them, nothing is told: it is
    never guessed. Raise RecipeError for a declared one that is not in the catalogue.
    """
    models = [
        (view.teacher.model, view.teacher.licence, view.teacher.revision) for view in recipe.views
    ]
    student = recipe.student
    if student.model is not None:
        models.append((student.model, student.licence, student.revision))
    if recipe.generate.judge_model is not None:
        models.append((recipe.generate.judge_model, recipe.generate.judge_licence, None))
    licences = [catalog.licence_keys(*model) for model in models]
    undeclared = any(one.dataset and one.licence is None for one in recipe.generate.prompts)
    if not all(licences) or undeclared:
        return HubLicence()
    keys = sorted({key for of_model in licences for key in of_model})
    of_hub = {catalog.licence(key).hub for key in keys}
    limits = _limits_of_data(recipe)
    if len(of_hub) == 1 and None not in of_hub and not limits:
        return HubLicence(of_hub.pop())
    return HubLicence("other", name="-and-".join([*keys, *limits]), link="LICENSE")


def _limits_of_data(recipe: Recipe) -> list[str]:
    """Return the licences of data that limit what may be done with the student."""
    keys = {source.licence for source in recipe.generate.prompts if source.licence is not None}
    mild = ("allow", "attribution")
    return sorted(key for key in keys if catalog.data_licence(key).level not in mild)


def _data_licences(recipe: Recipe) -> list[str]:
    """Return the licence of each source of prompts, as the recipe declares it, with its text."""
    return [f"`{source.name}`: {_linked(source.licence)}" for source in recipe.generate.prompts]


def _linked(key: str | None) -> str:
    if key is None:
        return "not declared"
    terms = catalog.data_licence(key)
    return key if terms.link is None else f"[{terms.name}]({terms.link})"


def _accepted(recipe: Recipe, results: RunResults) -> list[str]:
    """Return the lines of the reason why what a licence forbids was done, where that is so."""
    if results.licence.level != "forbid" or recipe.licence_accepted is None:
        return []
    return recipe.licence_accepted.splitlines()


LAYERS = {
    "even": "{num} evenly spaced layers of {model}",
    "last": "the first {num} layers of {model}",
    "block_influence": "{num} layers of {model}, chosen by block influence",
    "nll": "{num} layers of {model}, chosen greedily by NLL",
}


def _starting_point(recipe: Recipe, results: RunResults) -> str:
    student, trim = recipe.student, results.trim
    tokens = ""
    if trim is not None:
        tokens = f", with {trim.vocab_size:,} of its {trim.parent_vocab_size:,} tokens"
    if student.method == "random":
        return f"random weights of a Qwen3 shape{tokens.replace('its', 'the')}"
    model = f"{student.model} (revision {student.revision or 'not pinned'})"
    if student.method == "layers":
        num = results.initialize.num_layers
        model = LAYERS[student.layers_by].format(num=num, model=model)
    return model + tokens


def _teacher(view: Recipe, results: RunResults) -> TeacherLine:
    teacher, taught = view.teacher, ""
    for share in results.generate.teachers:
        if share.name == view.route:
            taught = f": {share.num_kept:,} of the answers"
    for signal in results.capture.teachers:
        if signal.name == view.route and signal.why_text is not None:
            taught += f", learnt from their text alone ({signal.why_text})"
    return TeacherLine(teacher.model, teacher.revision, _teacher_runtime(view), taught)


def _teacher_runtime(recipe: Recipe) -> str:
    """Return how the teacher was run."""
    if recipe.teacher.gguf:
        scored = ", its tokens scored by a server" if recipe.capture.scores_answers else ""
        return f"run by llama.cpp as the file {Path(recipe.teacher.gguf).name}{scored}"
    if recipe.teacher.server:
        return "asked on a server"
    return f"run locally, quantization {recipe.teacher.quantization}"


def _training(recipe: Recipe, tokenizer_difference: str | None) -> str:
    """Return the losses and their weights."""
    train = recipe.train
    own = ""
    if tokenizer_difference:
        own = f", in the student's own tokenizer ({tokenizer_difference})"
    if recipe.capture.signal == "none":
        return f"cross-entropy on the text of the answers{own}"
    if recipe.capture.signal == "chunks":
        return (
            f"likelihood of byte-aligned chunks (ALM, weight {train.soft_weight}), cross-entropy\n"
            f"  (weight {train.hard_weight}){own}"
        )
    return (
        f"{train.divergence} on the {recipe.capture.signal} signal (weight {train.soft_weight}), "
        f"cross-entropy\n  (weight {train.hard_weight}), "
        f"hidden states (weight {train.hidden_weight})"
    )


def _file(name: str, check: FileCheck) -> File:
    format = FORMATS[name]
    return File(
        path=str(format.path(Path("quantize"))),
        runtimes=f"{check.runtime} and vLLM" if format.in_vllm else check.runtime,
        megabytes=f"{check.bytes / 1e6:,.2f}",
        bits_per_weight=check.bits_per_weight,
        failed=check.failed,
    )
