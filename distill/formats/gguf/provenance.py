"""What a GGUF file says of its own origin: name, licence, languages, the model that its weights began as, the data.

Keys: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md#general-metadata
"""

from distill.catalog import catalog
from distill.recipe import Recipe

Metadata = dict[str, str | int | list[str]]


def lineage(recipe: Recipe) -> Metadata:
    """`general.*` keys from recipe and catalogue. A licence that neither knows is left out, never guessed.

    The teacher is in the description: `base_model` is the model whose weights the student began with, if any.
    """
    teacher, base = recipe.teacher, recipe.student
    found: Metadata = {
        "general.name": recipe.name,
        "general.description": f"distilled from {_name(teacher.model)}",
        "general.languages": list(recipe.languages),
        "general.tags": ["distillation", "text-generation"],
    }
    parts = [catalog.spdx(teacher.model, teacher.licence)]
    if base.model is not None:
        parts.append(catalog.spdx(base.model, base.licence))
        found |= {"general.base_model.count": 1} | _origin(
            "general.base_model.0", base.model, base.revision
        )
    if None not in parts:
        found["general.license"] = " AND ".join(sorted({part for part in parts if part}))
    found["general.dataset.count"] = len(recipe.generate.prompts)
    for number, source in enumerate(recipe.generate.prompts):
        key = f"general.dataset.{number}"
        found |= (
            _origin(key, source.dataset, source.revision, "datasets/")
            if source.dataset
            else {f"{key}.name": _name(source.name)}
        )
    return found


def _origin(key: str, place: str, revision: str | None, kind: str = "") -> Metadata:
    found: Metadata = {f"{key}.name": _name(place)}
    if revision is not None:
        found[f"{key}.version"] = revision
    organization, _, name = place.partition("/")
    if name and not place.startswith((".", "/", "~")):  # a hub id
        found[f"{key}.organization"] = organization
        found[f"{key}.repo_url"] = f"https://huggingface.co/{kind}{place}"
    return found


def _name(place: str) -> str:
    """The last part of a hub id or of a path: a folder of this machine is nobody's business."""
    return place.rstrip("/").rpartition("/")[2]
