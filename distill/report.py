"""report: one HTML file that can be mailed, the same table as text, and a model card.

    report/report.html     everything in one file, pictures inside
    report/MODEL_CARD.md   base, teacher, licences, data lineage, figures, limits
    report/LICENSE, NOTICE the licences' texts, as far as they are on this machine, and their notices
    report/refusals.svg    the card's picture of what changed in refusals, where the recipe asks

Nothing is measured here: every figure comes from another stage's manifest.
"""

from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from distill.core.files import write_atomic
from distill.core.jsonl import read_jsonl
from distill.core.processes import ALONE, Processes
from distill.core.results import Difference, ReportResult
from distill.core.run_folder import RunFolder, StageOutput
from distill.core.stage import Cost, Stage
from distill.planning.costs import PROCESS_BYTES, Workload
from distill.recipe import Recipe
from distill.reporting.measures import EXACT_MATCH, MEASURES, Measure, read_examples_of
from distill.reporting.results import RunResults, read_results, reads

if TYPE_CHECKING:
    from distill.reporting.table import ModelRow


def run(recipe: Recipe, folder: RunFolder, processes: Processes = ALONE) -> StageOutput:
    """Write page and model card, and return the table and the verdict.

    Raises MissingError if a stage before has not finished.
    """
    from distill.reporting.repeats import figures_text
    from distill.reporting.table import model_rows, table_html

    results = read_results(folder, recipe)
    rows = model_rows(results)
    verdict = gain(results)
    written = []
    for name, text in _files(recipe, folder, results, rows, verdict).items():
        path = folder.stage("report") / name
        path.unlink(missing_ok=True)  # of an earlier report
        if text is not None:
            write_atomic(path, text)
            written.append(path)
    result = ReportResult(
        table=[asdict(row) for row in rows],
        table_html=table_html(rows),
        text=f"{figures_text(results, rows)}\n\n{verdict}",
        verdict=verdict,
    )
    return StageOutput(result, written)


def _files(
    recipe: Recipe,
    folder: RunFolder,
    results: RunResults,
    rows: "list[ModelRow]",
    verdict: str,
) -> dict[str, str | None]:
    """Return the text of each file by its name; None: this run has no such file."""
    from distill.reporting.duties import left_to_do, notice_sentences
    from distill.reporting.examples import side_by_side
    from distill.reporting.licence_files import licence_file, licence_texts, notice_file
    from distill.reporting.model_card import model_card
    from distill.reporting.page import page
    from distill.reporting.plots import pictures_of
    from distill.reporting.safety import PICTURE
    from distill.reporting.safety_picture import card_picture
    from distill.reporting.summary import statements

    examples = read_examples_of(folder.stage("evaluate"), list(results.evaluate.models))
    pictures = pictures_of(folder.stage("train"), results, rows, examples)
    texts = licence_texts(recipe)
    answers = statements(results, rows, examples, left_to_do(results.licence, texts))
    asked = side_by_side(examples)
    dropped = [row for _, row in read_jsonl(folder.stage("generate") / "dropped.jsonl")]
    changes = results.safety.changes if results.safety is not None else []
    return {
        "report.html": page(recipe, results, rows, verdict, answers, pictures, asked, dropped),
        "MODEL_CARD.md": model_card(recipe, results, rows, verdict, answers),
        "LICENSE": licence_file(texts),
        "NOTICE": notice_file(texts, notice_sentences(results.licence)),
        PICTURE: card_picture(changes) if changes else None,
    }


def gain(results: RunResults) -> str:
    """Return by how much KD beat the control, or that it did not, and what the intervals are over.

    And the same of the rounds, against the student before them.
    """
    told = [_against_control(results), _against_before(results)]
    return " ".join(text for text in told if text)


def _against_control(results: RunResults) -> str:
    differences = results.evaluate.student_against_control
    if differences is None:
        if results.soft_weight == 0:
            return (
                "The student learnt the answers' text alone, which is what a control does: "
                "there is no gain to tell."
            )
        return (
            "There was no control (train.control: false), so what distillation gained is not known."
        )
    return _all_told(results, "KD", "the control", differences)


def _against_before(results: RunResults) -> str | None:
    """Return what the rounds brought, or None where there were none."""
    rounds, differences = results.rounds, results.evaluate.student_against_before
    if rounds is None or differences is None:
        return None
    if rounds.best == 0 and not rounds.repeats:
        return (
            "The rounds brought nothing better on the validation prompts: the student is the one "
            "that was trained before them."
        )
    return _all_told(results, "The rounds", "the student before them", differences)


def _all_told(results: RunResults, who: str, other: str, differences: dict[str, Difference]) -> str:
    sentences = [
        _comparison(who, other, measure, differences[measure.key])
        for measure in _measures(results)
        if measure.key in differences
    ]
    told = "; ".join(sentences) + "."
    num_repeats = len(results.repeats)
    if num_repeats == 1:
        return (
            f"{told} Each was trained once: the intervals are over the examples alone, and the "
            "training's own noise is not in them (train.repeats)."
        )
    return (
        f"Mean of {num_repeats} repeats of the training, intervals over repeats and examples: "
        f"{told} The files are those of the first repeat, not of the best."
    )


def _measures(results: RunResults) -> list[Measure]:
    """Return all, in the order in which they are told; exact match last where it is of some answers."""
    evaluated = results.evaluate
    num_unchecked = evaluated.models["student"].unchecked
    if not num_unchecked:
        return list(MEASURES)
    unit = f"{EXACT_MATCH.unit} ({evaluated.num_examples - num_unchecked} prompts are checked)"
    return [*(m for m in MEASURES if m is not EXACT_MATCH), replace(EXACT_MATCH, unit=unit)]


def _comparison(who: str, other: str, measure: Measure, found: Difference) -> str:
    difference, low, high = map(measure.tell, (found.difference, found.low, found.high))
    outcome = _outcome(measure, found)
    return f"{who} {outcome} {other}: {difference} {measure.unit}, 95 % interval [{low}, {high}]"


def _outcome(measure: Measure, found: Difference) -> str:
    """Return who was better, which is told only where the whole interval is on one side of zero."""
    is_more, is_less = found.low > 0, found.high < 0
    if not is_more and not is_less:
        return "did not clearly differ from"
    return "beat" if is_more == measure.more_is_better else "lost to"


def section(recipe: Recipe) -> dict[str, Any]:
    """Return what of the recipe decides the page and the card, beside what the stages found."""
    return {"report": recipe.report.identity()}


def cost(_: Workload) -> Cost:
    return Cost(PROCESS_BYTES, 2, disk=1e6)


STAGE = Stage(
    "report",
    "report.html and the model card",
    run,
    ReportResult,
    section,
    reads=reads,
    cost=cost,
    cheap=True,
)
