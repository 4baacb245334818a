"""The report reads the stages' results by name: what it does not show may come and go."""

import pytest
from pydantic import ValidationError
from report_helpers import read_results


def test_the_results_are_read_from_the_manifests(manifests):
    results = read_results(manifests)
    assert results.generate.num_kept == 52 and results.licence.level == "allow"
    assert results.train.roles["student"].kept_step == 14
    assert results.quantize.formats["q8_0"].tensor_types == {"Q8_0": 15, "F32": 9}
    assert results.evaluate.models["teacher"].nll == 0.15
    assert results.soft_weight == 0.5 and results.training_machine == "a laptop"
    assert [run.stage for run in results.stage_runs] == list(manifests)


def test_a_run_without_control_signal_or_task_has_less_to_read(manifests):
    captured = manifests["capture"].result
    captured.clear()
    captured.update({"signal": "none", "num_tokens": 0, "bytes_per_token": 0.0})
    del manifests["evaluate"].result["student_against_control"]
    for figures in manifests["evaluate"].result["models"].values():
        for name in ("exact_match", "interval", "by_language"):
            del figures[name]
    results = read_results(manifests)
    assert results.capture.num_unknown == 0 and results.capture.hidden_size is None
    assert results.capture.removed_mass_mean is results.capture.split_loss is None
    assert results.evaluate.student_against_control is None
    assert results.evaluate.models["student"].exact_match is None


def test_a_figure_that_is_not_there_is_named(manifests):
    del manifests["generate"].result["num_kept"]
    with pytest.raises(ValidationError, match="num_kept"):
        read_results(manifests)
