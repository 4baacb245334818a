"""The texts of licences that go with the student: the files LICENSE and NOTICE beside its card.

The model's own files count first, for they bear its copyright line; else the text that is shipped with
us, where a licence is one that everybody uses word for word.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from distill.catalog import catalog, facts
from distill.errors import MissingError
from distill.models import find
from distill.recipe import Recipe

LONGEST = 1 << 20  # bytes of a file that may be a licence


@dataclass(frozen=True)
class LicenceText:
    """The licence of one model. `text` is None where it is not on this machine.

    `origin` says where the text is from, or where it must be fetched. `is_shipped`: it is ours, and
    has no copyright line of the model. `notices`: what the model's NOTICE files say.
    """

    model: str
    title: str
    text: str | None
    origin: str
    notices: tuple[str, ...] = ()
    is_shipped: bool = False


def licence_texts(recipe: Recipe) -> list[LicenceText]:
    """Return the licence of each teacher, of the student's base and of the judge, each model once."""
    teachers, student, judge = recipe.views, recipe.student, recipe.generate.judge_model
    models = [(one.teacher.model, one.teacher.licence, one.teacher.revision) for one in teachers]
    if student.model is not None:
        models.append((student.model, student.licence, student.revision))
    if judge is not None:
        models.append((judge, recipe.generate.judge_licence, None))
    found = [_licence_text(recipe, *model) for model in models]
    return list({text.model: text for text in found}.values())


def licence_file(texts: Sequence[LicenceText]) -> str | None:
    """Return the content of LICENSE; None where not one text is here."""
    parts = [
        f"{'=' * 78}\n{text.model}: {text.title}\n({text.origin})\n{'=' * 78}\n\n{text.text.strip()}\n"
        for text in texts
        if text.text is not None
    ]
    return "\n\n".join(parts) or None


def notice_file(texts: Sequence[LicenceText], sentences: Sequence[str]) -> str | None:
    """Return the content of NOTICE: the sentences that licences ask for, the models' own notices."""
    notices = [notice.strip() for text in texts for notice in text.notices]
    parts = dict.fromkeys([*sentences, *notices])
    return "\n\n".join(parts) + "\n" if parts else None


def _licence_text(
    recipe: Recipe, model: str, declared: str | None, revision: str | None
) -> LicenceText:
    terms = [catalog.licence(key) for key in catalog.licence_keys(model, declared, revision)]
    title = " and ".join(one.name for one in terms) or "its licence is not known to distill"
    files = _files_of(recipe, model, revision)
    notices = tuple(text for name, text in files.items() if _begins(name, "NOTICE"))
    own = {name: text for name, text in files.items() if not _begins(name, "NOTICE")}
    if any(_begins(name, "LICEN") for name in own):
        origin = f"of {model}: {', '.join(own)}"
        return LicenceText(model, title, "\n\n".join(own.values()), origin, notices)
    shipped = [facts.licence_text(one) for one in terms]
    if shipped and None not in shipped:
        text = "\n\n".join([*filter(None, shipped), *own.values()])
        origin = "the text that everybody uses; the copyright line is in the model's own repository"
        return LicenceText(model, title, text, origin, notices, is_shipped=True)
    links = [one.link for one in terms if one.link]
    where = f"the file LICENSE of {model}" + (f" ({', '.join(links)})" if links else "")
    return LicenceText(model, title, None, where, notices)


def _begins(name: str, word: str) -> bool:
    return name.upper().startswith(word)


def _files_of(recipe: Recipe, model: str, revision: str | None) -> dict[str, str]:
    """Return the text of each licence file in the model's folder, by name; none if it is not here."""
    try:
        folder = find.folder_here(recipe.model_location(model), revision)
    except MissingError:
        return {}
    if folder is None:
        return {}
    paths = [path for path in sorted(folder.iterdir()) if find.is_licence_file(path.name)]
    return {path.name: _read(path) for path in paths if _may_be_read(path)}


def _may_be_read(path: Path) -> bool:
    return path.is_file() and path.stat().st_size <= LONGEST


def _read(path: Path) -> str:
    return path.read_bytes().decode("utf-8-sig", errors="replace")
