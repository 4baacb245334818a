"""Which models are compared with which."""

from distill.core.comparisons import comparisons


def test_models_are_compared_in_the_order_they_were_made():
    names = ["teacher", "control", "student", "f16", "q4_0"]
    assert list(comparisons(names)) == [
        ("control", "teacher"),
        ("student", "teacher"),
        ("student", "control"),
        ("f16", "student"),
        ("q4_0", "student"),
    ]
    assert list(comparisons(["teacher", "student"])) == [("student", "teacher")]


def test_the_student_is_compared_with_each_teacher_and_with_itself_before_the_rounds():
    names = ["teacher-a", "teacher-b", "control", "before_rounds", "student", "q8_0"]
    assert comparisons(names) == [
        ("control", "teacher-a"),
        ("control", "teacher-b"),
        ("student", "teacher-a"),
        ("student", "teacher-b"),
        ("student", "control"),
        ("student", "before_rounds"),
        ("q8_0", "student"),
    ]
