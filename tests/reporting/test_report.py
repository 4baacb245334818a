"""The verdict: what distillation gained over the control, as far as the interval allows to say."""

from report_helpers import read_results

from distill.report import gain

ONCE = (
    " Each was trained once: the intervals are over the examples alone, and the training's own noise "
    "is not in them (train.repeats)."
)


def told(manifests, **differences):
    manifests["evaluate"].result["student_against_control"] = {
        key: dict(zip(("difference", "low", "high"), values, strict=True))
        for key, values in differences.items()
    }
    return gain(read_results(manifests))


def test_a_student_beats_its_control_only_where_the_whole_interval_does(manifests):
    assert told(manifests, exact_match=(0.1, 0.05, 0.15), nll=(-0.01, -0.02, 0.001)) == (
        "KD beat the control: +10.0 points of exact match, 95 % interval [+5.0, +15.0]; "
        "KD did not clearly differ from the control: -0.0100 nats a token of NLL, "
        "95 % interval [-0.0200, +0.0010]." + ONCE
    )


def test_of_repeats_their_mean_is_told_and_which_of_them_is_in_use(manifests):
    repeat = {role: manifests["evaluate"].result["models"][role] for role in ("student", "control")}
    manifests["evaluate"].result["repeats"] = [repeat, repeat]
    text = told(manifests, exact_match=(0.1, 0.05, 0.15), nll=(-0.01, -0.02, 0.001))
    assert text.startswith(
        "Mean of 3 repeats of the training, intervals over repeats and examples: KD beat the control: "
        "+10.0 points of exact match, 95 % interval [+5.0, +15.0]; KD did not clearly differ"
    )
    assert text.endswith("The files are those of the first repeat, not of the best.")
    assert "noise" not in text


def test_more_exact_matches_are_better_and_more_nats_are_worse(manifests):
    assert told(manifests, nll=(-0.2, -0.3, -0.1)).startswith("KD beat the control: -0.2000 nats")
    assert told(manifests, nll=(0.2, 0.1, 0.3)).startswith("KD lost to the control: +0.2000 nats")
    assert told(manifests, exact_match=(-0.2, -0.3, -0.1)).startswith("KD lost to the control")
    assert told(manifests, nll=(0.2, 0.0, 0.3)).startswith("KD did not clearly differ")


def test_the_gain_is_told_by_the_byte_too_where_it_was_measured(manifests):
    assert told(manifests, nll=(-0.2, -0.3, -0.1), nll_per_byte=(-0.05, -0.06, -0.04)) == (
        "KD beat the control: -0.2000 nats a token of NLL, 95 % interval [-0.3000, -0.1000]; "
        "KD beat the control: -0.05000 nats a byte of NLL, 95 % interval [-0.06000, -0.04000]."
        + ONCE
    )


def test_what_a_task_checks_of_some_prompts_is_told_last(manifests):
    for figures in manifests["evaluate"].result["models"].values():
        figures["unchecked"] = 4
    num = manifests["evaluate"].result["num_examples"]
    assert told(manifests, exact_match=(0.1, 0.05, 0.15), nll=(-0.2, -0.3, -0.1)).startswith(
        "KD beat the control: -0.2000 nats a token of NLL, 95 % interval [-0.3000, -0.1000]; KD beat "
        f"the control: +10.0 points of exact match ({num - 4} prompts are checked), 95 % interval"
    )


def test_without_a_control_no_gain_is_told(manifests):
    del manifests["evaluate"].result["student_against_control"]
    assert gain(read_results(manifests)) == (
        "There was no control (train.control: false), so what distillation gained is not known."
    )
    manifests["train"].section["train"]["soft_weight"] = 0
    assert gain(read_results(manifests)) == (
        "The student learnt the answers' text alone, which is what a control does: there is no gain to tell."
    )
