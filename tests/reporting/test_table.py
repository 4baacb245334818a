"""The table of models: the same figures for page, notebook, terminal and model card."""

from report_helpers import read_results

from distill.reporting.measures import EXACT_MATCH, NLL
from distill.reporting.table import (
    COLUMNS,
    measure_of,
    model_rows,
    table_html,
    table_text,
    tokenizers_meet,
)


def without_task(manifests):
    for figures in manifests["evaluate"].result["models"].values():
        for name in ("exact_match", "interval", "by_language"):
            del figures[name]


def test_a_row_joins_the_figures_of_evaluate_and_quantize(manifests):
    rows = {row.model: row for row in model_rows(read_results(manifests))}
    assert list(rows) == ["teacher", "control", "student", "w16a16", "q8_0"]
    assert rows["q8_0"].bytes == 490112 and rows["q8_0"].kl == 5e-06 and rows["q8_0"].nll == 3.981
    assert rows["student"].bytes == rows["control"].bytes == 1707008
    assert rows["teacher"].bytes is None and rows["student"].agreement is None
    assert rows["student"].refused == 0.1


def test_text_and_page_show_the_same_figures(manifests):
    rows = model_rows(read_results(manifests))
    lines = table_text(rows).splitlines()
    assert " ".join(lines[0].split()) == (
        "model MB bits/weight exact match % 95 % interval NLL KL same top token % tokens/s"
    )
    assert lines[1] == "-" * len(lines[0])
    assert " ".join(lines[-1].split()) == (
        "q8_0 0.49 8.54 40.0 30.0 – 50.0 3.9810 0.00001 98.25 2,404"
    )
    assert lines[2].split()[:3] == ["teacher", "–", "–"]
    page = table_html(rows)
    assert "<th>NLL</th>" in page and page.count("<tr") == 6
    assert '<tr class="student"><td>student</td><td>1.71</td>' in page
    for cell in ("0.49", "8.54", "40.0", "30.0 – 50.0", "3.9810", "0.00001", "98.25", "2,404"):
        assert f"<td>{cell}</td>" in page


def test_only_the_page_shows_what_belongs_to_this_machine(manifests):
    rows = model_rows(read_results(manifests))
    headings = [column.heading for column in COLUMNS if column.of_this_machine]
    assert headings == ["refused %", "memory MB", "prefill/s", "decode/s"]
    for heading in headings:
        assert f"<th>{heading}</th>" in table_html(rows) and heading not in table_text(rows)


def test_without_a_task_there_is_no_exact_match(manifests):
    without_task(manifests)
    rows = model_rows(read_results(manifests))
    for text in (table_html(rows), table_text(rows)):
        assert "exact match" not in text and "interval" not in text and "NLL" in text


def test_where_a_task_checks_some_the_models_are_compared_by_their_nll(manifests):
    assert measure_of(model_rows(read_results(manifests))) is EXACT_MATCH
    for figures in manifests["evaluate"].result["models"].values():
        figures["unchecked"] = 7
    rows = model_rows(read_results(manifests))
    assert measure_of(rows) is NLL
    text = table_text(rows)
    assert "exact match %" in text and text.endswith(
        "exact match: without 7 held-out prompts whose answers no task checks"
    )


def test_a_teacher_that_could_not_be_scored_has_a_dash(manifests):
    manifests["evaluate"].result["models"]["teacher"]["nll"] = None
    rows = model_rows(read_results(manifests))
    teacher = next(line for line in table_text(rows).splitlines() if line.startswith("teacher"))
    assert teacher.split()[-4:] == ["–", "–", "–", "2,404"]


def in_other_tokens(manifests):
    """The teacher's tokenizer is not the students'."""
    result = manifests["evaluate"].result
    result["tokenizers_differ"] = True
    for figures in result["models"].values():
        figures["nll_per_byte"] = figures["nll"] / 4


def test_nats_of_other_tokens_are_compared_by_the_byte_alone(manifests):
    in_other_tokens(manifests)
    rows = model_rows(read_results(manifests))
    assert [row.nll for row in rows] == [None, 3.99, 3.98, 3.982, 3.981]
    assert [row.nll_per_byte for row in rows][:2] == [0.0375, 0.9975] and tokenizers_meet(rows)
    heading, _, teacher, control, *_ = table_text(rows).splitlines()
    assert " NLL NLL/byte KL " in " ".join(heading.split())
    assert teacher.split()[-5:-3] == ["–", "0.03750"]
    assert control.split()[-5:-3] == ["3.9900", "0.99750"]
    assert "<td>–</td><td>0.03750</td>" in table_html(rows) and "0.1500" not in table_html(rows)


def test_of_one_tokenizer_the_page_shows_both_and_the_terminal_one(manifests):
    in_other_tokens(manifests)
    manifests["evaluate"].result["tokenizers_differ"] = False
    rows = model_rows(read_results(manifests))
    assert not tokenizers_meet(rows) and "NLL/byte" not in table_text(rows)
    assert "<td>0.1500</td><td>0.03750</td>" in table_html(rows)


def test_a_run_of_a_version_that_counted_no_bytes_has_dashes_on_the_page(manifests):
    rows = model_rows(read_results(manifests))
    assert {row.nll_per_byte for row in rows} == {None} and not tokenizers_meet(rows)
    assert "<td>0.1500</td><td>–</td>" in table_html(rows)


def test_why_a_model_has_no_nll_stands_below_the_table(manifests):
    manifests["evaluate"].result["models"]["teacher"].update(nll=None, unscored="no way")
    text = table_text(model_rows(read_results(manifests)))
    assert text.splitlines()[-1] == "teacher has no NLL: no way"


def test_a_share_of_zero_is_a_figure(manifests):
    manifests["quantize"].result["formats"]["q8_0"]["top_token_agreement"] = 0.0
    assert table_text(model_rows(read_results(manifests))).splitlines()[-1].split()[-2] == "0.00"


def test_a_file_that_failed_says_so(manifests):
    manifests["quantize"].result["formats"]["q8_0"]["failed"] = "too <far"
    rows = model_rows(read_results(manifests))
    assert table_text(rows).splitlines()[-1] == "q8_0 FAILED its check: too <far"
    assert '<tr class="failed"><td>q8_0 (failed)</td>' in table_html(rows)


def test_the_table_escapes_what_is_in_it(manifests):
    models = manifests["evaluate"].result["models"]
    models["<script>x</script>"] = models.pop("q8_0")
    page = table_html(model_rows(read_results(manifests)))
    assert "<td>&lt;script&gt;x&lt;/script&gt;</td>" in page and "<script" not in page
