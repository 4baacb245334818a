"""The benchmarks in the report: what a reader must know of the figures stands beside them."""

from dataclasses import replace

from report_helpers import finished_benchmark, read_results

from distill.reporting.benchmarks import benchmark_tables


def test_answers_that_never_came_are_told_with_the_way_out(manifests):
    result = finished_benchmark(read_results(manifests), ["en"])
    assert not [note for note in benchmark_tables(result).notes if "no answer" in note]
    first, *rest = result.scores
    scores = [replace(first, num_unanswered=7), *rest]
    notes = benchmark_tables(replace(result, scores=scores)).notes
    (told,) = (note for note in notes if "no answer" in note)
    assert told.startswith("7 of 40 questions (belebele, en) got no answer of teacher")
    assert "max_new_tokens" in told
