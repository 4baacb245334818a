"""The table of models: the same figures for page, notebook, terminal and model card."""

from report_helpers import read_results

from distill.reporting.table import COLUMNS, model_rows, table_html, table_text


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


def test_a_teacher_that_could_not_be_scored_has_a_dash(manifests):
    manifests["evaluate"].result["models"]["teacher"]["nll"] = None
    rows = model_rows(read_results(manifests))
    teacher = next(line for line in table_text(rows).splitlines() if line.startswith("teacher"))
    assert teacher.split()[-4:] == ["–", "–", "–", "2,404"]


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
