"""The report's table, a row a model.

As HTML for the page and the notebook, as text for the terminal and the model card.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from distill.core.results import FileCheck, ModelFigures, TeacherFigures
from distill.reporting.measures import EXACT_MATCH, NLL, NLL_PER_BYTE, Measure
from distill.reporting.rendering import render_html
from distill.reporting.results import ROLES, RunResults

NONE = "–"  # the cell of what was not measured, or is not to be had


@dataclass(frozen=True, kw_only=True)
class ModelRow:
    """The figures of one model. None = not measured, or not to be had of this model.

    `exact_match`, `interval`, `agreement`, `refused` and `by_language` are shares, `nll` and `kl`
    nats a token of the student, `nll_per_byte` nats a byte of the text, `prefill_speed` and
    `decode_speed` tokens a second of one sequence. `unscored` says why there is no NLL, `unchecked`
    how many answers exact match leaves out.
    """

    model: str
    bytes: int | None
    bits_per_weight: float | None = None
    exact_match: float | None
    interval: Sequence[float] | None
    nll: float | None
    nll_per_byte: float | None = None
    unscored: str | None = None
    agreement: float | None = None
    kl: float | None = None
    failed: str | None = None
    refused: float
    peak_memory: int | None = None
    prefill_speed: float | None = None
    decode_speed: float | None = None
    tokens_per_second: float
    runtime: str
    by_language: dict[str, float]
    unchecked: int = 0

    @property
    def style(self) -> str:
        """Return the class of its row in the page."""
        if self.model == "student":
            return "student"
        return "failed" if self.failed else ""


@dataclass(frozen=True)
class Column:
    """One column: its heading, and the text of a row's cell."""

    heading: str
    text: Callable[[ModelRow], str]
    needs_task: bool = False
    of_this_machine: bool = False  # on the page only
    compares_tokenizers: bool = False  # on the page, and where tokenizers differ


def model_rows(results: RunResults) -> list[ModelRow]:
    """Return a row for each model of the evaluation, with the figures of evaluate and quantize.

    Nats a token of another tokenizer than the students' are left out.
    """
    rows = []
    for name, score in results.evaluate.models.items():
        rows.append(_model_row(results, name, score))
        if name == "teacher":
            rows += [_teacher_row(n, own) for n, own in results.evaluate.teachers.items()]
    return rows


def _teacher_row(name: str, own: TeacherFigures) -> ModelRow:
    """Return the row of one of several teachers: its figures on the prompts that it answers."""
    return ModelRow(
        model=f"teacher {name}",
        bytes=None,
        exact_match=own.exact_match,
        interval=own.interval,
        nll=None if own.tokenizers_differ else own.nll,
        nll_per_byte=own.nll_per_byte,
        unscored=own.unscored,
        refused=own.refused / own.num_examples,
        tokens_per_second=own.tokens_per_second,
        runtime=own.runtime,
        by_language=own.by_language,
        unchecked=own.unchecked,
    )


def _model_row(results: RunResults, name: str, score: ModelFigures) -> ModelRow:
    trained_here = name in ROLES
    in_other_tokens = name == "teacher" and results.evaluate.tokenizers_differ
    row = ModelRow(
        model=name,
        bytes=results.quantize.student_bytes if trained_here else None,
        exact_match=score.exact_match,
        interval=score.interval,
        nll=None if in_other_tokens else score.nll,
        nll_per_byte=score.nll_per_byte,
        unscored=score.unscored,
        refused=score.refused / results.evaluate.num_examples,
        tokens_per_second=score.tokens_per_second,
        runtime=score.runtime,
        by_language=score.by_language,
        unchecked=score.unchecked,
    )
    check = results.quantize.formats.get(name)
    return row if check is None else _with_check(row, check)


def _with_check(row: ModelRow, check: FileCheck) -> ModelRow:
    return replace(
        row,
        bytes=check.bytes,
        bits_per_weight=check.bits_per_weight,
        agreement=check.top_token_agreement,
        kl=check.kl,
        failed=check.failed,
        peak_memory=check.peak_memory,
        prefill_speed=check.prefill_speed,
        decode_speed=check.decode_speed,
    )


def number(value: float | None, form: str, scale: float = 1.0) -> str:
    """Return `scale` times the value in a format, or a dash where there is none."""
    return NONE if value is None else form.format(scale * value)


def _name(row: ModelRow) -> str:
    return f"{row.model} (failed)" if row.failed else row.model


def _megabytes(row: ModelRow) -> str:
    return NONE if row.bytes is None else f"{row.bytes / 1e6:,.2f}"


def _interval(row: ModelRow) -> str:
    if row.interval is None:
        return NONE
    low, high = row.interval
    return f"{100 * low:.1f} – {100 * high:.1f}"


COLUMNS = (
    Column("model", _name),
    Column("MB", _megabytes),
    Column("bits/weight", lambda row: number(row.bits_per_weight, "{:.2f}")),
    Column("exact match %", lambda row: number(row.exact_match, "{:.1f}", 100), needs_task=True),
    Column("95 % interval", _interval, needs_task=True),
    Column("NLL", lambda row: number(row.nll, "{:.4f}")),
    Column("NLL/byte", lambda row: number(row.nll_per_byte, "{:.5f}"), compares_tokenizers=True),
    Column("KL", lambda row: number(row.kl, "{:.5f}")),
    Column("same top token %", lambda row: number(row.agreement, "{:.2f}", 100)),
    Column("tokens/s", lambda row: number(row.tokens_per_second, "{:,.0f}")),
    Column("refused %", lambda row: number(row.refused, "{:.1f}", 100), of_this_machine=True),
    Column("memory MB", lambda row: number(row.peak_memory, "{:,.0f}", 1e-6), of_this_machine=True),
    Column("prefill/s", lambda row: number(row.prefill_speed, "{:,.0f}"), of_this_machine=True),
    Column("decode/s", lambda row: number(row.decode_speed, "{:,.1f}"), of_this_machine=True),
)


def tokenizers_meet(rows: Sequence[ModelRow]) -> bool:
    """Return whether some NLL can be compared by the byte alone, for it is of other tokens."""
    return any(row.nll is None and row.nll_per_byte is not None for row in rows)


def measure_of(rows: Sequence[ModelRow]) -> Measure:
    """Return by what the models are compared: exact match, or NLL where no task checks all answers.

    That is by the byte where models of different tokenizers meet.
    """
    if rows[0].exact_match is not None and not rows[0].unchecked:
        return EXACT_MATCH
    return NLL_PER_BYTE if tokenizers_meet(rows) else NLL


def page_columns(rows: list[ModelRow]) -> list[Column]:
    """Return the columns of the page: all, but those of a task only where there was one."""
    had_task = rows[0].exact_match is not None
    return [column for column in COLUMNS if had_task or not column.needs_task]


def table_html(rows: list[ModelRow]) -> str:
    """Return the table alone, as a notebook shows it."""
    return render_html("model_table.html.jinja", columns=page_columns(rows), rows=rows)


def table_text(rows: list[ModelRow]) -> str:
    """Return the table for a terminal, without what belongs to this machine.

    NLL a byte is left out where NLL a token says the same. Below the table is a line for each file
    that failed its check, for each model that has no NLL, and for what exact match leaves out.
    """
    needs_bytes = tokenizers_meet(rows)
    columns = [
        column
        for column in page_columns(rows)
        if not column.of_this_machine and (needs_bytes or not column.compares_tokenizers)
    ]
    headings = [column.heading for column in columns]
    cells = [headings, *([column.text(row) for column in columns] for row in rows)]
    failed = [f"{row.model} FAILED its check: {row.failed}" for row in rows if row.failed]
    unscored = [f"{row.model} has no NLL: {row.unscored}" for row in rows if row.unscored]
    return "\n".join([text_lines(cells), *failed, *unscored, *unchecked_lines(rows)])


def unchecked_lines(rows: Sequence[ModelRow]) -> list[str]:
    """Return the sentence on what exact match leaves out; none where it leaves out nothing."""
    num = rows[0].unchecked
    if not num:
        return []
    return [f"exact match: without {num} held-out prompts whose answers no task checks"]


def text_lines(cells: Sequence[list[str]]) -> str:
    """Return a table for a terminal, with a rule below its first line, the headings."""
    widths = [max(map(len, column_cells)) for column_cells in zip(*cells, strict=True)]
    lines = [_text_line(line, widths) for line in cells]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def _text_line(cells: list[str], widths: list[int]) -> str:
    """Return the cells side by side, the first one left in its column, the others right."""
    first = cells[0].ljust(widths[0])
    others = [cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True)]
    return "  ".join([first, *others])
