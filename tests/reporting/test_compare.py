"""`distill compare`: finished runs side by side, and differences only where they can be told."""

import shutil
import webbrowser

import page_helpers
import pytest
from browser_helpers import opened, require_browser
from run_helpers import call_distill

from distill.core.stored_json import read_json, write_json
from distill.errors import DataError, MissingError, RecipeError
from distill.reporting.compare import compare, comparison_text
from distill.reporting.compare_page import comparison_page, write_page
from distill.reporting.opening import open_page


@pytest.fixture
def runs(finished, tmp_path):
    """Two copies of a run, the second one's student better by one example, and its recipe another."""
    paths = [tmp_path / name for name in ("first", "second")]
    for path in paths:
        shutil.copytree(finished, path)
    student = paths[1] / "evaluate/student.json"
    figures = read_json(student, "")
    wrong = [example for example in figures["examples"] if not example["right"]]
    wrong[0]["right"] = True
    for example in figures["examples"]:
        example["nll"] -= 1.0
    write_json(student, figures)
    return paths


def changed(path, change):
    """Change every model's examples of a run."""
    for figures_path in (path / "evaluate").glob("*.json"):
        figures = read_json(figures_path, "")
        if "examples" in figures:
            for example in figures["examples"]:
                change(example)
            write_json(figures_path, figures)


def test_runs_stand_side_by_side_with_their_paired_differences(runs):
    comparison = compare([str(path) for path in runs])
    assert comparison.labels == ["first", "second"] and comparison.why_not == []
    figures = {line[0]: line[1:] for line in comparison.figures}
    for name in ("teacher", "student's parameters", "file: MB", "minutes of work", "licences"):
        assert figures[name][0] == figures[name][1] != "–"
    changes = {(c.model, c.measure.key, c.language): c.found for c in comparison.changes}
    num = len(read_json(runs[0] / "evaluate/student.json", "")["examples"])
    better = changes["student", "exact_match", None]
    assert better.difference == pytest.approx(1 / num) and better.low <= better.difference
    assert changes["student", "nll_per_byte", None].high < 0
    same = [found for (model, *_), found in changes.items() if model != "student"]
    assert same and all(found.difference == found.low == found.high == 0 for found in same)
    text = comparison_text(comparison)
    assert "minus first" in text and f"+{100 / num:.1f} [" in text
    assert "The recipes differ in nothing that decides a figure." in text


def test_fields_that_differ_are_told_and_no_others(runs):
    recipe = runs[1] / "recipe.yaml"
    text = recipe.read_text(encoding="utf-8")
    assert "learning_rate" in text
    lines = [
        "  learning_rate: 0.125" if line.startswith("  learning_rate:") else line
        for line in text.splitlines()
        if not line.startswith("# sha256 of the lines below")
    ]
    recipe.write_text("\n".join(lines) + "\n", encoding="utf-8")
    told = {line[0]: line[1:] for line in compare([str(path) for path in runs]).recipe}
    assert told["train.learning_rate"][1] == "0.125"
    assert all(first != second for first, second in told.values())
    assert not {"run_folder", "name"} & told.keys()


def test_other_held_out_prompts_are_not_compared(runs):
    changed(runs[1], lambda example: example.update(prompt=example["prompt"] + "!"))
    comparison = compare([str(path) for path in runs])
    assert comparison.changes == [] and len(comparison.why_not) == 2
    assert "held-out prompts 0 are among the" in comparison.why_not[0]
    assert comparison.why_not[0] in comparison_text(comparison)
    assert page_helpers.faults_of(comparison_page(comparison)) == []


def test_nats_of_other_answers_are_not_compared(runs):
    changed(runs[1], lambda example: example.update(num_bytes=example["num_bytes"] + 1))
    comparison = compare([str(path) for path in runs])
    assert {change.measure.key for change in comparison.changes} == {"exact_match"}
    assert "the held-out answers, which it is of, are not those of first" in comparison.why_not[0]


def test_runs_of_a_version_that_counted_no_bytes_are_not_compared_by_the_byte(runs):
    changed(runs[1], lambda example: example.pop("num_bytes"))
    comparison = compare([str(path) for path in runs])
    assert {change.measure.key for change in comparison.changes} == {"exact_match"}
    assert comparison.why_not[0].endswith("evaluated one of the two and counted no bytes")


def test_runs_of_one_name_are_told_apart_by_their_folders(finished, tmp_path):
    paths = [tmp_path / name / "run" for name in ("a", "b")]
    for path in paths:
        shutil.copytree(finished, path)
    assert compare([str(path) for path in paths]).labels == ["a/run", "b/run"]


def test_what_cannot_be_compared_is_refused(runs, tmp_path):
    first, second = map(str, runs)
    with pytest.raises(RecipeError, match="one run alone"):
        compare([first])
    with pytest.raises(RecipeError, match="stands there twice"):
        compare([first, second, f"{first}/"])
    with pytest.raises(MissingError, match="neither a run folder nor a recipe"):
        compare([first, str(tmp_path / "third")])
    (runs[0] / "evaluate/student.json").unlink()
    with pytest.raises(DataError, match=r"student\.json: broken \(gone\)"):
        compare([first, second])
    (runs[0] / "evaluate/manifest.json").unlink()
    with pytest.raises(MissingError, match="evaluate: not finished; run `distill evaluate"):
        compare([first, second])


def test_the_page_is_whole_and_readable_in_a_browser(runs, tmp_path):
    html = comparison_page(compare([str(path) for path in runs]))
    assert page_helpers.faults_of(html) == []
    program = require_browser()
    page = tmp_path / "compare.html"
    page.write_text(html, encoding="utf-8")
    with opened(program, tmp_path / "profile") as window:
        page_helpers.look(window, page, tmp_path)


def test_a_file_that_is_no_such_page_is_not_written_over(tmp_path):
    mine = tmp_path / "mine.html"
    mine.write_text("<p>mine</p>")
    with pytest.raises(RecipeError, match="not made by `distill compare`; name another"):
        write_page(mine, "x")
    assert mine.read_text() == "<p>mine</p>"
    with pytest.raises(RecipeError, match="a folder; name a file with --page"):
        write_page(tmp_path, "x")


def test_the_command_prints_the_table_and_writes_the_page_again_and_again(runs, tmp_path, capsys):
    page = tmp_path / "page.html"
    for _ in range(2):
        assert call_distill(["compare", *map(str, runs), "--page", str(page)]) == 0
        said = capsys.readouterr().out
        assert "student: exact match %" in said and said.endswith(f"page: {page}\n")
        assert "<h1>first · second</h1>" in page.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("opens", "said"),
    [(True, "opened in the browser: "), (False, "no browser was found here; open this file")],
)
def test_a_page_is_opened_or_its_path_is_told(monkeypatch, tmp_path, opens, said):
    asked = []
    monkeypatch.setattr(webbrowser, "open", lambda url: asked.append(url) or opens)
    page = tmp_path / "a page.html"
    told = open_page(page)
    assert told.startswith(said) and told.endswith(str(page))
    assert asked[0] == page.as_uri() and "a%20page.html" in asked[0]


def test_the_report_command_opens_the_page(finished, monkeypatch, capsys):
    monkeypatch.setattr(webbrowser, "open", lambda url: False)
    assert (
        call_distill(["report", str(finished / "recipe.yaml"), f"run_folder={finished}", "--open"])
        == 0
    )
    assert f"open this file in one: {finished / 'report/report.html'}" in capsys.readouterr().out
