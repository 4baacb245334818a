"""report: one HTML file that can be mailed, the same table as text, and a model card.

    report/report.html     everything in one file, pictures inside
    report/MODEL_CARD.md   base, teacher, licences, data lineage, figures, limits
    report/refusals.svg    the card's picture of what changed in refusals, where the recipe asks

Nothing is measured here: every figure comes from another stage's manifest.
"""

from dataclasses import asdict, dataclass

from distill.core.files import write_atomic
from distill.core.jsonl import read_jsonl
from distill.core.processes import ALONE, Processes
from distill.core.results import Difference, ReportResult
from distill.core.run_folder import Fingerprint, RunFolder, StageOutput
from distill.core.stage import Cost, Stage
from distill.planning.costs import PROCESS_BYTES, Workload
from distill.recipe import Recipe
from distill.reporting.results import RunResults, read_results, reads


def run(recipe: Recipe, folder: RunFolder, processes: Processes = ALONE) -> StageOutput:
    """Write page and model card, and return the table and the verdict.

    Raises MissingError if a stage before has not finished.
    """
    from distill.reporting.examples import read_examples
    from distill.reporting.model_card import model_card
    from distill.reporting.page import page
    from distill.reporting.plots import pictures_of
    from distill.reporting.repeats import figures_text
    from distill.reporting.safety import PICTURE
    from distill.reporting.safety_picture import changes_picture
    from distill.reporting.table import model_rows, table_html

    stage = folder.stage("report")
    results = read_results(folder, recipe)
    rows = model_rows(results)
    verdict = gain(results)
    pictures = pictures_of(folder.stage("train"), results, rows)
    files = [stage / "report.html", stage / "MODEL_CARD.md"]
    if results.safety is not None and results.safety.changes:
        drawn = changes_picture(results.safety.changes)
        pictures["What changed in refusals and bias"] = drawn
        files.append(stage / PICTURE)
        write_atomic(files[-1], drawn)
    examples = read_examples(folder.stage("evaluate"), results.evaluate)
    dropped = [row for _, row in read_jsonl(folder.stage("generate") / "dropped.jsonl")]

    write_atomic(files[0], page(recipe, results, rows, verdict, pictures, examples, dropped))
    write_atomic(files[1], model_card(recipe, results, rows, verdict))
    result = ReportResult(
        table=[asdict(row) for row in rows],
        table_html=table_html(rows),
        text=f"{figures_text(results, rows)}\n\n{verdict}",
        verdict=verdict,
    )
    return StageOutput(result, files)


@dataclass(frozen=True)
class Measure:
    """A figure by which student and control are compared, and how a difference of it is told."""

    key: str
    unit: str
    scale: int
    decimals: int
    more_is_better: bool

    def tell(self, value: float) -> str:
        return f"{value * self.scale:+.{self.decimals}f}"


MEASURES = (
    Measure("exact_match", "points of exact match", 100, 1, more_is_better=True),
    Measure("nll", "nats a token of NLL", 1, 4, more_is_better=False),
    Measure("nll_per_byte", "nats a byte of NLL", 1, 5, more_is_better=False),
)


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
        for measure in MEASURES
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


def _comparison(who: str, other: str, measure: Measure, found: Difference) -> str:
    difference, low, high = (
        measure.tell(value)
        for value in (
            found.difference,
            found.low,
            found.high,
        )
    )
    outcome = _outcome(measure, found)
    return f"{who} {outcome} {other}: {difference} {measure.unit}, 95 % interval [{low}, {high}]"


def _outcome(measure: Measure, found: Difference) -> str:
    """Return who was better, which is told only where the whole interval is on one side of zero."""
    is_more, is_less = found.low > 0, found.high < 0
    if not is_more and not is_less:
        return "did not clearly differ from"
    return "beat" if is_more == measure.more_is_better else "lost to"


def fingerprint(recipe: Recipe) -> Fingerprint:
    return Fingerprint({"report": recipe.report.identity()})


def cost(_: Workload) -> Cost:
    return Cost(PROCESS_BYTES, 2, disk=1e6)


STAGE = Stage(
    "report",
    "report.html and the model card",
    run,
    ReportResult,
    fingerprint,
    reads=reads,
    cost=cost,
    cheap=True,
)
