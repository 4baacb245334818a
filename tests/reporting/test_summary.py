"""The first screen: how good, how small, how fast, how safe, and may I ship it."""

from dataclasses import asdict, replace

import pytest
from report_helpers import finished_benchmark, finished_examples, finished_safety, read_results

from distill.catalog.catalog import OwedDuty
from distill.reporting.summary import file_to_take, statements
from distill.reporting.table import model_rows

QUESTIONS = ["How good?", "How small?", "How fast?", "How safe?", "May I ship it?"]


def asked(manifests, *, with_examples=True):
    """Return (figure, tone, text) of each answer, by question."""
    results = read_results(manifests)
    examples = finished_examples(results) if with_examples else {}
    found = statements(results, model_rows(results), examples)
    return {s.question: (s.figure, s.tone, " ".join(s.sentences)) for s in found}


def test_all_five_questions_are_answered_in_this_order(manifests):
    assert list(asked(manifests)) == QUESTIONS
    assert list(asked(manifests, with_examples=False)) == QUESTIONS


def test_the_quality_is_that_of_the_file_beside_teacher_and_control(manifests):
    figure, _, text = asked(manifests)["How good?"]
    assert figure == "40.0 %"
    assert text.startswith(
        "q8_0: exact match, 95 % interval [30.0, 50.0]. Teacher 80.0; the same student without "
        "the teacher's signal 30.0."
    )
    assert "Against the teacher, prompt by prompt: " in text
    assert "Weakest language: " in text and ", of 5 prompts." in text


def test_without_a_task_the_quality_is_nats(manifests):
    for figures in manifests["evaluate"].result["models"].values():
        figures.update(exact_match=None, interval=None)
    figure, _, text = asked(manifests)["How good?"]
    assert figure == "3.9810" and "Teacher 0.1500" in text and "%" not in figure
    assert "nats a token of NLL" in text


def test_where_a_task_checks_some_the_quality_is_nats_and_what_it_solves_is_told(manifests):
    for figures in manifests["evaluate"].result["models"].values():
        figures["unchecked"] = 3
    figure, _, text = asked(manifests)["How good?"]
    assert figure == "3.9810" and "nats a token of NLL" in text
    assert text.endswith("Of the prompts that a task checks it solves 40.0 [30.0, 50.0] %.")


def test_what_was_not_scored_is_told_as_that(manifests):
    models = manifests["evaluate"].result["models"]
    for figures in models.values():
        figures.update(exact_match=None, interval=None)
    models["q8_0"].update(nll=None, unscored="its tokens differ")
    assert asked(manifests)["How good?"] == ("not measured", "plain", "its tokens differ")


def test_the_size_is_that_of_the_smallest_file_that_passed(manifests):
    figure, tone, text = asked(manifests)["How small?"]
    assert (figure, tone) == ("0.49 MB", "plain")
    assert "q8_0: 426,752 parameters, 8.54 bits each. That is 29% of the trained student's" in text
    assert "Memory at work here, at most: 389.08 MB." in text
    manifests["quantize"].result["formats"]["q8_0"] |= {"failed": "too far"}
    figure, tone, text = asked(manifests)["How small?"]
    assert (figure, tone) == ("0.86 MB", "care") and text.startswith("w16a16:")
    assert "Failed their check: q8_0." in text


def test_where_no_file_passed_the_student_is_told_of(manifests):
    for check in manifests["quantize"].result["formats"].values():
        check |= {"failed": "too far"}
    results = read_results(manifests)
    assert file_to_take(results.quantize.formats) is None
    answers = asked(manifests)
    assert answers["How small?"][0] == "1.71 MB" and "student" in answers["How small?"][2]
    assert answers["How fast?"][0] == "2,404 tokens/s"


def test_the_speed_is_of_one_answer_here(manifests):
    figure, _, text = asked(manifests)["How fast?"]
    assert figure == "422 tokens/s" and "Reading a prompt: 7,513 tokens/s." in text
    assert "Many prompts at once: 2,404 (teacher: 2,404, in its own runtime)." in text


def test_safety_that_was_not_measured_is_not_claimed(manifests):
    figure, tone, text = asked(manifests)["How safe?"]
    assert (figure, tone) == ("not measured", "care")
    assert "refused: teacher 10.0 %, student 10.0 %." in text


def test_a_benchmark_stands_beside_the_held_out_prompts(manifests):
    results = read_results(manifests)
    found = replace(results, benchmark=finished_benchmark(results, ["en", "sw"]))
    good = statements(found, model_rows(found), {})[0]
    assert good.sentences[-1] == "Belebele: 45.0 [34.6, 55.9] %; teacher 50.0."


def test_safety_is_told_of_the_file_and_of_what_got_worse_on_the_way_to_it(manifests):
    results = read_results(manifests)
    found = replace(results, safety=finished_safety(results))
    safe = statements(found, model_rows(found), {})[3]
    assert (safe.question, safe.figure, safe.tone) == ("How safe?", "50 % refused", "care")
    assert list(safe.sentences) == [
        "Harmful requests refused: q8_0 50 %, teacher 80 %.",
        "Harmless look-alikes refused: q8_0 5 %, teacher 5 %.",
        "Fewest harmful refused: sw, 40 %.",
        "Clearly worse: student − teacher: refusals of harmful requests -30 [-40, -20].",
    ]


def test_safety_where_nothing_changed_is_plain(manifests):
    results = read_results(manifests)
    safety = replace(finished_safety(results), changes=[])
    found = replace(results, safety=safety)
    safe = statements(found, model_rows(found), {})[3]
    assert safe.tone == "plain" and safe.sentences[-1] == "Nothing got clearly worse."


def test_duties_that_are_left_are_on_the_first_screen(manifests):
    owed = OwedDuty("m", "llama3", "other", "x", "keep it off the moon")
    licence = manifests["plan"].result["licence"]
    courtesy = replace(owed, kind="credit")
    licence.update(duties=["a", "b", "c"], owed=[asdict(one) for one in (owed, owed, courtesy)])
    results = read_results(manifests)
    for to_do, told in (
        ([], "2 duties, each under Licences; none left to do."),
        (["keep it off the moon"], "1 left to do. To do: keep it off the moon."),
        (["a", "b", "c", "d", "e"], "5 left to do. To do: a. To do: b. To do: c. And 2 more."),
    ):
        ship = statements(results, model_rows(results), {}, to_do)[-1]
        assert told in " ".join(ship.sentences)


@pytest.mark.parametrize(
    ("level", "commercial", "figure", "tone", "said"),
    [
        ("allow", "allow", "yes", "good", "The licences allow it. Its name must"),
        ("attribution", "attribution", "yes, with duties", "good", "if the duties are kept"),
        ("allow", "forbid", "yes", "care", "To earn money with it: no."),
        ("attribution", "manual_review", "yes, with duties", "care", "money with it: read the lic"),
        ("restricted", "restricted", "within limits", "care", "limit what it may be used for"),
        ("manual_review", "manual_review", "read the licence", "care", "does not decide"),
        ("undeclared", "undeclared", "not known", "care", "not declared"),
        ("forbid", "forbid", "no", "bad", "A licence forbids it."),
    ],
)
def test_a_licence_is_told_in_a_word(manifests, level, commercial, figure, tone, said):
    licence = manifests["plan"].result["licence"]
    licence.update(level=level, commercial=commercial, name_prefix="Llama-3")
    told = asked(manifests)["May I ship it?"]
    assert told[:2] == (figure, tone) and said in told[2]
    assert "Its name must begin with Llama-3." in told[2] and told[2].endswith("No legal advice.")
