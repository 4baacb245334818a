"""What we know about models and licences, and what a teacher and a student's base allow together.

The facts are in the YAML files beside this one, which facts.py reads. Not legal advice.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from distill.catalog import facts
from distill.catalog.facts import Level, Licence, ModelFacts, Template
from distill.errors import RecipeError, did_you_mean, nearest_names

LEVELS: tuple[Level, ...] = get_args(Level)  # mild to strict
Use = Literal["outputs", "logits"]

_MEANING: dict[Level, str] = {
    "allow": "allowed",
    "attribution": "allowed, with duties",
    "restricted": "allowed with limits on use",
    "manual_review": "not decided: read the licence",
    "forbid": "forbidden",
    "undeclared": "not declared",
}
_LEARNING = {
    "outputs": "learning from its answers",
    "logits": "learning from its probabilities",
    "weights": "starting from its weights",
}


@dataclass(frozen=True)
class LicenceVerdict:
    """What the licences of teacher and base allow together: the strictest of both counts.

    `level` is about training and publishing the student, `commercial` about earning money with it.
    `name_prefix` is what the student's name must begin with.
    """

    level: Level
    commercial: Level
    sentences: list[str]
    duties: list[str]
    name_prefix: str | None = None


def find(model_id: str) -> ModelFacts | None:
    """Return the model of exactly this hub id, or None.

    Ids differ by a letter and by a licence, so nothing is guessed.
    """
    return facts.models().get(model_id)


def teachers() -> list[ModelFacts]:
    """Return every model of the catalogue once, in the file's order."""
    return list(dict.fromkeys(facts.models().values()))


def near(model_id: str) -> list[str]:
    """Return up to three ids like this one, for a message.

    Where an id lacks its owner alone, those that it may be, and no others.
    """
    known = facts.models()
    ending = f"/{model_id.lower()}"
    without_owner = [known_id for known_id in known if known_id.lower().endswith(ending)]
    return without_owner[:3] or nearest_names(model_id, known, num_hints=3)


def template(model: ModelFacts) -> Template | None:
    """Return what is known of the model's chat template."""
    return facts.templates()[model.template] if model.template is not None else None


def answer_marks() -> tuple[tuple[str, str], ...]:
    """Return every pair of marks that a family writes round its answers, each once."""
    pairs = (template.answer for template in facts.templates().values())
    return tuple(dict.fromkeys(pair for pair in pairs if pair is not None))


def source(model: ModelFacts) -> str:
    """Return where the model's facts are from, and the day on which they were checked."""
    content = facts.teachers_file()
    return f"{content.sources[model.family]} (checked {content.as_of})"


def licence(key: str) -> Licence:
    """Return the licence of this key.

    Raises RecipeError, naming the nearest, for a key that is not in licences.yaml.
    """
    known = facts.licences()
    if key not in known:
        hint = did_you_mean(key, known) or f"known: {', '.join(known)}"
        raise RecipeError(f"licence {key!r} is not in the catalogue; {hint}")
    return known[key]


def spdx(model_id: str, declared: str | None) -> str | None:
    """Return the SPDX identifier of a model's licence.

    It is the catalogue's, else that of the licence which the recipe declares, else None.
    """
    model = find(model_id)
    key = model.licence if model is not None else declared
    return licence(key).spdx if key is not None else None


def verdict(
    teacher_id: str,
    student_base_id: str | None,
    *,
    declared_teacher: str | None = None,
    declared_base: str | None = None,
    use: Use = "logits",
) -> LicenceVerdict:
    """Return whether a student that starts from `student_base_id` may learn the teacher's `use`.

    `student_base_id` None is a student of random weights. A licence declared in the recipe counts
    where the catalogue does not know the model; where both speak, the stricter counts. Raises
    RecipeError for a declared licence that is not in licences.yaml.
    """
    teacher = find(teacher_id)
    base = find(student_base_id) if student_base_id is not None else None
    related = teacher is not None and base is not None and teacher.family == base.family
    parts = _verdicts("teacher", teacher_id, declared_teacher, use, related)
    if student_base_id is not None:
        parts += _verdicts("student", student_base_id, declared_base, "weights", related)
    return strictest(parts)


def strictest(parts: Sequence[LicenceVerdict]) -> LicenceVerdict:
    """Return what several verdicts allow together: the strictest level, all sentences and duties."""
    return LicenceVerdict(
        level=_strictest([part.level for part in parts]),
        commercial=_strictest([part.commercial for part in parts]),
        sentences=_once([sentence for part in parts for sentence in part.sentences]),
        duties=_once([duty for part in parts for duty in part.duties]),
        name_prefix=next((part.name_prefix for part in parts if part.name_prefix), None),
    )


def _strictest(levels: list[Level]) -> Level:
    return max(levels, key=LEVELS.index)


def _once(texts: list[str]) -> list[str]:
    return list(dict.fromkeys(texts))


def _verdicts(
    section: str, model_id: str, declared: str | None, use: str, related: bool
) -> list[LicenceVerdict]:
    """Return a verdict for each licence of this model: the catalogue's, and the declared one."""
    model = find(model_id)
    verdicts = []
    if model is not None:
        verdicts.append(_known_verdict(model_id, model, use, related))
    if declared is not None and (model is None or declared != model.licence):
        verdicts.append(_licence_verdict(model_id, licence(declared), use, related))
        if model is not None:
            verdicts[-1].sentences.append(
                f"{model_id}: the recipe declares {declared}, the catalogue says {model.licence}; "
                "the stricter counts"
            )
    return verdicts or [_undeclared(section, model_id)]


def _known_verdict(model_id: str, model: ModelFacts, use: str, related: bool) -> LicenceVerdict:
    """Return the verdict of a model of the catalogue, with what else to know about it."""
    verdict = _licence_verdict(model_id, licence(model.licence), use, related)
    if model.checked != "verified":
        source = "from memory" if model.checked == "memory" else "from a report"
        verdict.sentences.append(
            f"{model_id}: we know its licence {source} only; "
            "check its model card before you publish"
        )
    if model.note:
        verdict.sentences.append(f"{model_id}: {model.note}")
    return verdict


def _undeclared(section: str, model_id: str) -> LicenceVerdict:
    message = (
        f"{model_id}: its licence is not in the catalogue; read its model card and declare it "
        f"in the recipe, e.g. `{section}.licence: apache-2.0`"
    )
    return LicenceVerdict("undeclared", "undeclared", [message], [])


def _licence_verdict(model_id: str, terms: Licence, use: str, related: bool) -> LicenceVerdict:
    """Return what one licence says of one model. `use`: outputs, logits or weights."""
    level = _level(terms, use, related)
    sentence = (
        f"{model_id} ({terms.key}): {_LEARNING[use]} is {_MEANING[level]}; "
        f"commercial use of the student is {_MEANING[terms.commercial]}"
    )
    if terms.note:
        sentence += f" ({terms.note})"
    duties = terms.duties_weights if use == "weights" else terms.duties_outputs
    return LicenceVerdict(
        level,
        terms.commercial,
        [sentence],
        [f"{model_id}: {duty}" for duty in duties],
        terms.name_prefix,
    )


def _level(terms: Licence, use: str, related: bool) -> Level:
    """Return how far the licence allows the use.

    `related`: the student starts from a model of the teacher's family.
    """
    if use == "weights":
        return terms.weights
    if related and terms.same_family_outputs is not None:
        return terms.same_family_outputs
    return terms.outputs if use == "outputs" else terms.logits
