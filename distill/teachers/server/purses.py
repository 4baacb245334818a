"""The budget of a teacher: the recipe's limits, and where there are several its own beside them."""

from distill.recipe import Recipe
from distill.recipe.sections import RoutedTeacher
from distill.teachers.log import AnswerLogs
from distill.teachers.server.budget import Budget, Prices, Purse, UsageLog, Whose


def budget_of(recipe: Recipe, logs: AnswerLogs) -> Budget:
    """Return the budget of the recipe's teacher.

    Of one of several: what any of them used counts towards the recipe's limits, each at its prices,
    and what it used itself towards its own.
    """
    teacher = recipe.teacher
    if not recipe.route or not isinstance(teacher, RoutedTeacher):
        return Budget(recipe.generate, logs.usage_log())
    own = None
    if teacher.own_limits:
        own = Purse(teacher.name, teacher.own_limits, usage_log_of(recipe, logs))
    return Budget(recipe.generate, logs.usage_log(_prices_of_all(recipe)), own)


def usage_log_of(recipe: Recipe, logs: AnswerLogs) -> UsageLog:
    """Return what the recipe's teacher used; of one of several what it used itself."""
    if not recipe.route:
        return logs.usage_log()
    return logs.usage_log(_prices_of_all(recipe), only=_whose(recipe))


def _prices_of_all(recipe: Recipe) -> dict[Whose, Prices]:
    return {_whose(view): _prices(view) for view in recipe.whole.views}


def _whose(view: Recipe) -> Whose:
    """Return what the rows of its answers have as `teacher` and `server_model`."""
    return view.teacher.model, view.teacher.served_name


def _prices(view: Recipe) -> Prices:
    return Prices(view.generate.price_prompt, view.generate.price_answer)
