"""Which models of a run are compared with which."""

from collections.abc import Sequence

TEACHER, CONTROL, BEFORE_ROUNDS, STUDENT = "teacher", "control", "before_rounds", "student"


def comparisons(models: Sequence[str]) -> list[tuple[str, str]]:
    """Return (model, what it is compared with) for all models but the teachers.

    The control with each teacher, the student with those, the control and itself before the rounds,
    each file with the student. `models`: names in the report's order; of several teachers
    `teacher-<name>`.
    """
    teachers = [name for name in models if name.split("-")[0] == TEACHER]
    pairs = []
    for model in models:
        if model == CONTROL:
            pairs += [(model, teacher) for teacher in teachers]
        elif model == STUDENT:
            others = [name for name in models if name in (CONTROL, BEFORE_ROUNDS)]
            pairs += [(model, other) for other in [*teachers, *others]]
        elif model not in teachers and STUDENT in models and model != BEFORE_ROUNDS:
            pairs.append((model, STUDENT))
    return pairs
