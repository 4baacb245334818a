"""What we know about models and licences, and what a teacher and a student's base allow together.

The facts are in the YAML files beside this one, which facts.py reads. Not legal advice.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeVar, get_args

from distill.catalog import facts
from distill.catalog.facts import DataLicence, DutyKind, Level, Licence, ModelFacts, Template
from distill.errors import RecipeError, did_you_mean, nearest_names, shown

Terms = TypeVar("Terms", Licence, DataLicence)
LEVELS: tuple[Level, ...] = get_args(Level)  # mild to strict
Use = Literal["outputs", "logits"]
SHORTEST_COMMIT = 7  # characters of a commit by which it is told from others

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
class OwedDuty:
    """A duty that a model or data set brings with it: `kind` and `says` as in licences.yaml.

    `sentence` is the duty in words, without the model.
    """

    model: str
    licence: str
    kind: DutyKind
    says: str
    sentence: str


@dataclass(frozen=True)
class LicenceVerdict:
    """What the licences of teacher, base and data allow together: the strictest counts.

    `level` is about training and publishing the student, `commercial` about earning money with it.
    `name_prefix` is what the student's name must begin with (see `begun_with`). `duties` are in words, `owed` are the
    same, so that the model card can fulfil them; verdicts of older runs have the words alone.
    """

    level: Level
    commercial: Level
    sentences: list[str]
    duties: list[str]
    name_prefix: str | None = None
    owed: list[OwedDuty] = field(default_factory=list)


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
    return _known(key, facts.licences(), f"licence {shown(key)}")


def spdx(model_id: str, declared: str | None, revision: str | None = None) -> str | None:
    """Return the SPDX identifier of a model's licence.

    It is the catalogue's, else that of the licence which the recipe declares, else None.
    """
    keys = licence_keys(model_id, declared, revision)
    return licence(keys[0]).spdx if keys else None


def verdict(
    teacher_id: str,
    student_base_id: str | None,
    *,
    declared_teacher: str | None = None,
    declared_base: str | None = None,
    use: Use = "logits",
    teacher_revision: str | None = None,
    base_revision: str | None = None,
) -> LicenceVerdict:
    """Return whether a student that starts from `student_base_id` may learn the teacher's `use`.

    `student_base_id` None is a student of random weights. A licence declared in the recipe counts
    where the catalogue does not know the model; where both speak, the stricter counts. Raises
    RecipeError for a declared licence that is not in licences.yaml.
    """
    parts = [
        teacher_verdict(
            teacher_id,
            student_base_id,
            declared=declared_teacher,
            use=use,
            revision=teacher_revision,
        )
    ]
    if student_base_id is not None:
        parts.append(base_verdict(student_base_id, declared=declared_base, revision=base_revision))
    return strictest(parts)


def teacher_verdict(
    teacher_id: str,
    student_base_id: str | None,
    *,
    declared: str | None = None,
    use: Use = "logits",
    revision: str | None = None,
    where: str = "teacher.licence",
) -> LicenceVerdict:
    """Return what the teacher's licence allows; that of the base beside it is another verdict.

    `where`: the field in which the recipe declares its licence.
    """
    teacher = find(teacher_id)
    base = find(student_base_id) if student_base_id is not None else None
    related = teacher is not None and base is not None and teacher.family == base.family
    return strictest(_verdicts(where, teacher_id, declared, use, related, revision))


def base_verdict(
    model_id: str, *, declared: str | None = None, revision: str | None = None
) -> LicenceVerdict:
    """Return what the licence of the model whose weights the student begins with allows."""
    return strictest(_verdicts("student.licence", model_id, declared, "weights", False, revision))


def data_licence(key: str) -> DataLicence:
    """Return the licence of data of this key.

    Raises RecipeError, naming the nearest, for a key that is not in licences.yaml.
    """
    return _known(key, facts.data_licences(), f"licence {shown(key)} of data")


def _known(key: str, known: Mapping[str, Terms], what: str) -> Terms:
    if key not in known:
        hint = did_you_mean(key, known) or f"known: {', '.join(known)}"
        raise RecipeError(f"{what} is not in the catalogue; {hint}")
    return known[key]


def data_verdict(name: str, key: str | None) -> LicenceVerdict:
    """Return what the licence that a source of prompts declares allows; `key` None: none is.

    Raises RecipeError, naming the nearest, for a key that is not in licences.yaml.
    """
    if key is None:
        sentence = (
            f"the licence of the data {name} is not declared: read its card and declare it, "
            "`licence: KEY` beside `dataset`"
        )
        return LicenceVerdict("undeclared", "undeclared", [sentence], [])
    terms = data_licence(key)
    sentence = (
        f"{name} ({key}): training on it is {_MEANING[terms.level]}; "
        f"commercial use of the student is {_MEANING[terms.commercial]}"
    )
    duties: list[tuple[DutyKind, str | None]] = [("credit", terms.credit), ("other", terms.limit)]
    owed = [OwedDuty(name, key, kind, says, says) for kind, says in duties if says is not None]
    told = [f"{name}: {duty.sentence}" for duty in owed]
    return LicenceVerdict(terms.level, terms.commercial, [sentence], told, owed=owed)


def strictest(parts: Sequence[LicenceVerdict]) -> LicenceVerdict:
    """Return what several verdicts allow together: the strictest level, all sentences and duties."""
    return LicenceVerdict(
        level=_strictest([part.level for part in parts]),
        commercial=_strictest([part.commercial for part in parts]),
        sentences=_once([sentence for part in parts for sentence in part.sentences]),
        duties=_once([duty for part in parts for duty in part.duties]),
        name_prefix=longest([part.name_prefix for part in parts]),
        owed=list(dict.fromkeys(duty for part in parts for duty in part.owed)),
    )


def licence_keys(
    model_id: str, declared: str | None = None, revision: str | None = None
) -> list[str]:
    """Return the keys of the licences that hold for a model: the catalogue's, and the declared one.

    None where neither knows it. Raises RecipeError for a declared one that is not in licences.yaml.
    """
    declares = [] if declared is None else [licence(declared).key]
    model = find(model_id)
    if model is None:
        return declares
    known, _ = _licence_at(model, declared, revision)
    return list(dict.fromkeys([known, *declares]))


def name_prefix(model_id: str, declared: str | None, revision: str | None) -> str | None:
    """Return what the name of a student of this model must begin with, if anything."""
    keys = licence_keys(model_id, declared, revision)
    duties = [duty for key in keys for duty in licence(key).duties]
    return longest([duty.says for duty in duties if duty.kind == "name"])


def begun_with(prefix: str | None, name: str) -> str:
    """Return the student's name as a licence wants it to begin."""
    return name if prefix is None or name.startswith(prefix) else f"{prefix} {name}"


def longest(prefixes: Sequence[str | None]) -> str | None:
    """Return the longest: `Llama 3` is a name that begins with `Llama`, too."""
    return max((prefix for prefix in prefixes if prefix), key=len, default=None)


def _strictest(levels: list[Level]) -> Level:
    return max(levels, key=LEVELS.index)


def _once(texts: list[str]) -> list[str]:
    return list(dict.fromkeys(texts))


def _licence_at(
    model: ModelFacts, declared: str | None, revision: str | None
) -> tuple[str, str | None]:
    """Return the licence that a model has at a revision, and what is to be said about it.

    Where the licence changed and the revision is none that we know, a declared one that it once had
    is believed if the revision is pinned; else the strictest counts, of equals the newest.
    """
    if not model.history:
        return model.licence, None
    had = {entry.licence: entry.since for entry in model.history}
    told = ", ".join(f"{key} from {since}" for key, since in had.items())
    for entry in model.history:
        if revision and any(_same_revision(revision, known) for known in entry.revisions):
            return entry.licence, f"its licence changed ({told}): revision {revision} decides"
    if revision is not None and declared in had:
        return (
            declared,
            f"its licence changed ({told}): the recipe says which revision {revision} has",
        )
    key = max(reversed(had), key=lambda key: _rank(licence(key)))
    way_out = "pin the revision, and declare the licence that its LICENSE file says"
    return key, f"its licence changed ({told}): {key} counts, the strictest of them; {way_out}"


def _same_revision(given: str, known: str) -> bool:
    """Return whether a revision is the known one, by name or by the beginning of the commit."""
    return given == known or (len(given) >= SHORTEST_COMMIT and known.startswith(given))


def _rank(terms: Licence) -> tuple[int, ...]:
    levels = (terms.outputs, terms.logits, terms.weights, terms.commercial)
    return tuple(sorted((LEVELS.index(level) for level in levels), reverse=True))


def _verdicts(
    where: str,
    model_id: str,
    declared: str | None,
    use: str,
    related: bool,
    revision: str | None,
) -> list[LicenceVerdict]:
    """Return a verdict for each licence of this model: the catalogue's, and the declared one.

    The stricter comes first.
    """
    model = find(model_id)
    keys = licence_keys(model_id, declared, revision)
    if not keys:
        return [_undeclared(where, model_id)]
    verdicts = [_licence_verdict(model_id, licence(key), use, related) for key in keys]
    if model is not None:
        _, change = _licence_at(model, declared, revision)
        verdicts[0].sentences.extend(_what_else(model_id, model, change))
    if model is not None and len(keys) > 1:
        verdicts[-1].sentences.append(
            f"{model_id}: the recipe declares {declared}, the catalogue says {keys[0]}; "
            "the stricter counts"
        )
    return sorted(verdicts, key=lambda verdict: -LEVELS.index(verdict.level))


def _what_else(model_id: str, model: ModelFacts, change: str | None) -> list[str]:
    """Return what else there is to know about the licence of a model of the catalogue."""
    found = []
    if model.checked != "verified":
        source = "from memory" if model.checked == "memory" else "from a report"
        found.append(
            f"{model_id}: we know its licence {source} only; "
            "check its model card before you publish"
        )
    if change:
        found.append(f"{model_id}: {change}")
    if model.note:
        found.append(f"{model_id}: {model.note}")
    return found


def _undeclared(where: str, model_id: str) -> LicenceVerdict:
    message = (
        f"{model_id}: its licence is not in the catalogue; read its model card and declare it "
        f"in the recipe, e.g. `{where}: apache-2.0`; until then nobody can say what may "
        "be done with the student"
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
    sentences = [sentence]
    if terms.checked != "verified":
        sentences.append(
            f"{terms.key}: we know its terms from {_read(terms)} only; read them before you publish"
        )
    duties = terms.duties_of(use)
    return LicenceVerdict(
        level,
        terms.commercial,
        sentences,
        [f"{model_id}: {duty.sentence}" for duty in duties],
        next((duty.says for duty in duties if duty.kind == "name"), None),
        [OwedDuty(model_id, terms.key, d.kind, d.says, d.sentence) for d in duties],
    )


def _read(terms: Licence) -> str:
    return "memory" if terms.checked == "memory" else terms.source


def _level(terms: Licence, use: str, related: bool) -> Level:
    """Return how far the licence allows the use.

    `related`: the student starts from a model of the teacher's family.
    """
    if use == "weights":
        return terms.weights
    if related and terms.same_family_outputs is not None:
        return terms.same_family_outputs
    return terms.outputs if use == "outputs" else terms.logits
