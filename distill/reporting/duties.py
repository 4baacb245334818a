"""How the model card fulfils what the licences ask for, duty by duty."""

from collections.abc import Sequence

from distill.catalog import catalog
from distill.catalog.catalog import LicenceVerdict, OwedDuty, begun_with
from distill.recipe import Recipe
from distill.reporting.licence_files import LicenceText

FULFILLED = {
    "name": "Done: in the title.",
    "attribution": "Done: under the title; show it in your product, too.",
    "notice": "Done: in `NOTICE` beside this card.",
    "use": "Done: this card passes it on.",
    "threshold": "It holds for whoever uses the student.",
    "changes": "Done: in the first paragraph.",
    "credit": "Done: under Lineage, and here.",
    "other": "To do: by whoever publishes or uses the student.",
}


def student_title(recipe: Recipe, verdict: LicenceVerdict) -> str:
    """Return what page and card call the student: its title or name, begun as licences want it."""
    return begun_with(verdict.name_prefix, recipe.report.title or recipe.name)


def lines_to_show(verdict: LicenceVerdict) -> list[str]:
    """Return the lines that licences want to be shown, each once."""
    return list(dict.fromkeys(duty.says for duty in verdict.owed if duty.kind == "attribution"))


def notice_sentences(verdict: LicenceVerdict) -> list[str]:
    """Return the sentences that licences want in the file NOTICE, each once."""
    return list(dict.fromkeys(duty.says for duty in verdict.owed if duty.kind == "notice"))


def duty_lines(verdict: LicenceVerdict, texts: Sequence[LicenceText]) -> list[str]:
    """Return each duty with how it is fulfilled here, or by whom it is to be.

    The verdict of an older run knows them in words alone.
    """
    if not verdict.owed:
        return verdict.duties
    return [f"{duty.model}: {duty.sentence}. {_fulfilled(duty, texts)}" for duty in verdict.owed]


def left_to_do(verdict: LicenceVerdict, texts: Sequence[LicenceText]) -> list[str]:
    """Return the duties, in words and each once, that are not fulfilled by what the report wrote."""
    left = [duty.sentence for duty in verdict.owed if "To do" in _fulfilled(duty, texts)]
    return list(dict.fromkeys(left))


def _fulfilled(duty: OwedDuty, texts: Sequence[LicenceText]) -> str:
    return _of_text(duty, texts) if duty.kind == "text" else FULFILLED[duty.kind]


def _of_text(duty: OwedDuty, texts: Sequence[LicenceText]) -> str:
    """Return whether LICENSE holds the text, and what is still to be added to it."""
    text = next((text for text in texts if text.model == duty.model), None)
    if text is None:
        return "**To do**: put it into `LICENSE` beside this card."
    if text.text is None:
        return f"**To do**: it was not on this machine; put {text.origin} into `LICENSE`."
    if text.is_shipped:
        return (
            "Done: in `LICENSE` beside this card, as everybody uses it. **To do**: no file of the "
            "model on this machine holds it, so add the copyright line and the notices of its own "
            "repository, where it has them."
        )
    if _lacks_llamas(duty, text.text):
        link = catalog.licence(duty.licence).link
        return (
            f"**To do**: the model's own file is another licence; put {link} into `LICENSE`, too."
        )
    return "Done: in `LICENSE` beside this card."


def _lacks_llamas(duty: OwedDuty, text: str) -> bool:
    """Return whether Llama's licence is owed beside the maker's own, and only that one is there."""
    is_owed = duty.licence.startswith("mit-llama") and "Llama" in duty.says
    return is_owed and "llama" not in text.lower()
