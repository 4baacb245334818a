"""How the model card fulfils what the licences ask for, duty by duty."""

from collections.abc import Sequence

from distill.catalog.catalog import LicenceVerdict, OwedDuty
from distill.reporting.licence_files import LicenceText


def lines_to_show(verdict: LicenceVerdict) -> list[str]:
    """Return the lines that licences want to be shown, each once."""
    return list(dict.fromkeys(duty.says for duty in verdict.owed if duty.kind == "attribution"))


def notice_sentences(verdict: LicenceVerdict) -> list[str]:
    """Return the sentences that licences want in the file NOTICE, each once."""
    return list(dict.fromkeys(duty.says for duty in verdict.owed if duty.kind == "notice"))


def duty_lines(verdict: LicenceVerdict, title: str, texts: Sequence[LicenceText]) -> list[str]:
    """Return each duty with how it is fulfilled here, or by whom it is to be.

    The verdict of an older run knows them in words alone.
    """
    if not verdict.owed:
        return verdict.duties
    return [
        f"{duty.model}: {duty.sentence}. {_fulfilled(duty, title, texts)}" for duty in verdict.owed
    ]


def _fulfilled(duty: OwedDuty, title: str, texts: Sequence[LicenceText]) -> str:
    if duty.kind == "name":
        return _of_name(duty, title)
    if duty.kind == "text":
        return _of_text(duty, texts)
    return {
        "attribution": "Done: under the title; show it in your product, too.",
        "notice": "Done: in `NOTICE` beside this card.",
        "use": "Done: this card passes it on.",
        "threshold": "It holds for whoever uses the student.",
        "changes": "Done: in the first paragraph.",
        "credit": "Done: under Lineage, and here.",
    }.get(duty.kind, "To do: by whoever publishes or uses the student.")


def _of_name(duty: OwedDuty, title: str) -> str:
    if title.startswith(duty.says):
        return "Done: in the title."
    return f'**To do**: the title does not; set `report.title: "{duty.says} ..."`.'


def _of_text(duty: OwedDuty, texts: Sequence[LicenceText]) -> str:
    for text in texts:
        if text.model == duty.model and text.text is not None:
            return "Done: in `LICENSE` beside this card."
        if text.model == duty.model:
            return f"**To do**: it was not on this machine; put {text.origin} into `LICENSE`."
    return "**To do**: put it into `LICENSE` beside this card."
