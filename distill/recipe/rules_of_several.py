"""What does not go together in a recipe with several teachers: one function a subject.

Each takes the recipe and raises ValueError with what is wrong, the values, and the way out.
"""

from typing import TYPE_CHECKING

from distill.errors import shown
from distill.recipe.sections import OURS

if TYPE_CHECKING:
    from distill.recipe.recipe import Recipe
    from distill.recipe.sections import RoutedTeacher


def check_names_of_teachers(recipe: "Recipe") -> None:
    """Refuse two teachers of one name, also where only capitals differ: files are called by it."""
    seen: set[str] = set()
    for teacher in recipe.teachers or ():
        if teacher.name.lower() in seen:
            raise ValueError(f"teachers: two are called {teacher.name}: give one another name")
        seen.add(teacher.name.lower())


def check_reach_of_teachers(recipe: "Recipe") -> None:
    """Refuse a teacher after one that takes all, and what a selector names that the recipe has not.

    Whether a prompt comes to each of them `plan` says: that takes the prompts.
    """
    takes_all: str | None = None
    for teacher in recipe.teachers or ():
        if takes_all is not None:
            raise ValueError(
                f"teachers: {teacher.name} comes after {takes_all}, which has no selector and takes "
                f"all: put {takes_all} last, or give it languages, sources or tasks"
            )
        if teacher.takes_all:
            takes_all = teacher.name
        for code in teacher.languages or ():
            if code not in recipe.languages:
                raise ValueError(
                    f"teachers: {teacher.name}: language {code} is not in the recipe's languages "
                    f"{recipe.languages}: add it there, or take it out here"
                )
        _check_selected_sources(recipe, teacher)
        for task in teacher.tasks or ():
            if task not in ("translation", "none", recipe.generate.task):
                raise ValueError(
                    f"teachers: {teacher.name}: tasks: {task}: generate.task is "
                    f"{recipe.generate.task or 'null'}: take that, translation, or none"
                )


def _check_selected_sources(recipe: "Recipe", teacher: "RoutedTeacher") -> None:
    sources = [*recipe.generate.prompts, *(recipe.evaluate.prompts or ())]
    safety = recipe.evaluate.safety
    ours = [OURS] if safety is not None and safety.sets else []
    sources += [] if safety is None else safety.prompts or ()
    names = list(dict.fromkeys([*(source.name for source in sources), *ours]))
    for name in teacher.sources or ():
        if name not in names:
            raise ValueError(
                f"teachers: {teacher.name}: sources: {shown(name)}: there is no such source of "
                f"prompts; there are {shown(', '.join(names))}"
            )


def check_servers_of_teachers(recipe: "Recipe") -> None:
    """Refuse two entries for one model on servers: their answers and costs could not be told apart."""
    seen: dict[tuple[str, str | None], str] = {}
    for teacher in recipe.teachers or ():
        if not teacher.answers_on_server:
            continue
        who = (teacher.model, teacher.served_name)
        if who in seen:
            raise ValueError(
                f"teachers: {seen[who]} and {teacher.name} are the same model on a server: make one "
                "of them with the languages of both, or give each its server_model"
            )
        seen[who] = teacher.name


def check_prices_of_teachers(recipe: "Recipe") -> None:
    """Refuse a limit on the cost of a teacher that costs nothing."""
    for teacher in recipe.teachers or ():
        priced = {**recipe.generate.model_dump(), **teacher.asks_for}
        if teacher.max_cost is not None and not (priced["price_prompt"] or priced["price_answer"]):
            raise ValueError(
                f"teachers: {teacher.name}: max_cost {teacher.max_cost:g} without prices stops "
                "nothing: set its price_prompt and price_answer (of a million tokens), or "
                "max_tokens instead"
            )


def check_signal_of_teachers(recipe: "Recipe") -> None:
    """Refuse a signal that no teacher gives."""
    signal = recipe.capture.signal
    if signal == "none" or any(view.capture.signal != "none" for view in recipe.views):
        return
    raise ValueError(
        f"capture.signal {signal}, and every one of the teachers gives text alone: set capture.signal "
        "to none, train.soft_weight to 0 and train.hard_weight to 1, or remove gives (or "
        "server_gives) of one"
    )


def check_rounds_of_teachers(recipe: "Recipe") -> None:
    """Refuse rounds: one teacher scores what the student writes."""
    if recipe.rounds is not None:
        raise ValueError(
            "rounds with teachers: one teacher scores the student's own answers: set rounds to null, "
            "or name one teacher (teacher: in place of teachers:)"
        )


def check_parts_of_teachers(recipe: "Recipe") -> None:
    """Refuse teachers that are held by teams of different sizes: a launch has one size."""
    parts = {t.name: t.num_parts for t in recipe.teachers or () if t.num_parts > 1}
    if len({*parts.values()}) > 1:
        named = ", ".join(f"teachers.{name}.tensor_parallel {num}" for name, num in parts.items())
        raise ValueError(
            f"{named}: the processes of a launch are divided in one way: give all of them the same, "
            "or null to those that one device holds"
        )


def check_chunks_of_teachers(recipe: "Recipe") -> None:
    """Refuse chunks: a student learns them of one teacher."""
    if recipe.capture.signal == "chunks":
        raise ValueError(
            "capture.signal chunks with teachers: chunks are of one teacher: set capture.signal to "
            "sampled (whoever has the student's tokenizer gives it, the others their text), or name "
            "one teacher (teacher: in place of teachers:)"
        )


# In this order; the first that is broken is reported
RULES_OF_SEVERAL = (
    check_names_of_teachers,
    check_reach_of_teachers,
    check_servers_of_teachers,
    check_prices_of_teachers,
    check_signal_of_teachers,
    check_rounds_of_teachers,
    check_parts_of_teachers,
    check_chunks_of_teachers,
)
