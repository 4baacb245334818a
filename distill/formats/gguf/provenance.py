"""What a GGUF file says of its own origin: name, licence, languages, base model, data.

Keys: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md#general-metadata
"""

from distill.catalog import catalog
from distill.catalog.catalog import begun_with, longest
from distill.recipe import Recipe

Metadata = dict[str, str | int | list[str]]


def provenance(recipe: Recipe) -> Metadata:
    """Return the `general.*` keys from recipe and catalogue.

    A licence that neither knows is left out, never guessed. The teacher is in the description:
    `base_model` is the model whose weights the student began with, if any.
    """
    teachers, base = [view.teacher for view in recipe.views], recipe.student
    names = dict.fromkeys(_name(teacher.model) for teacher in teachers)
    keys: Metadata = {
        "general.name": _student_name(recipe),
        "general.description": f"distilled from {' and '.join(names)}",
        "general.languages": list(recipe.languages),
        "general.tags": ["distillation", "text-generation"],
    }
    parts = [catalog.spdx(teacher.model, teacher.licence, teacher.revision) for teacher in teachers]
    if base.model is not None:
        parts.append(catalog.spdx(base.model, base.licence, base.revision))
        keys["general.base_model.count"] = 1
        keys |= _origin("general.base_model.0", base.model, base.revision)
    if None not in parts:
        keys["general.license"] = " AND ".join(sorted({part for part in parts if part}))
    keys["general.dataset.count"] = len(recipe.generate.prompts)
    for number, source in enumerate(recipe.generate.prompts):
        key = f"general.dataset.{number}"
        if source.dataset:
            keys |= _origin(key, source.dataset, source.revision, "datasets/")
        else:
            keys[f"{key}.name"] = _name(source.name)
    return keys


def _student_name(recipe: Recipe) -> str:
    """Return the run's name, begun as the licences of teachers, base and judge want it to be."""
    teachers, base = [view.teacher for view in recipe.views], recipe.student
    models = [(one.model, one.licence, one.revision) for one in teachers]
    if base.model is not None:
        models.append((base.model, base.licence, base.revision))
    if recipe.generate.judge_model is not None:
        models.append((recipe.generate.judge_model, recipe.generate.judge_licence, None))
    return begun_with(longest([catalog.name_prefix(*model) for model in models]), recipe.name)


def _origin(key: str, location: str, revision: str | None, kind: str = "") -> Metadata:
    """Return name, version and address of a model or data set, a folder or a hub id."""
    keys: Metadata = {f"{key}.name": _name(location)}
    if revision is not None:
        keys[f"{key}.version"] = revision
    organization, _, name = location.partition("/")
    if name and not location.startswith((".", "/", "~")):  # a hub id
        keys[f"{key}.organization"] = organization
        keys[f"{key}.repo_url"] = f"https://huggingface.co/{kind}{location}"
    return keys


def _name(location: str) -> str:
    """Return the last part of a hub id or a path: paths of this machine are not published."""
    return location.rstrip("/").rpartition("/")[2]
