"""The budget of a teacher: the recipe's limits, and where there are several its own beside them."""

from distill.recipe import Recipe
from distill.recipe.sections import RoutedTeacher
from distill.teachers.log import AnswerLogs
from distill.teachers.server.budget import Budget, Prices, Purse, Whose


def budget_of(recipe: Recipe, logs: AnswerLogs) -> Budget:
    """Return the budget of the recipe's teacher.

    Of one of several: what any of them used counts towards the recipe's limits, each at its prices,
    and what it used itself towards its own.
    """
    teacher = recipe.teacher
    if not recipe.route or not isinstance(teacher, RoutedTeacher):
        return Budget(recipe.generate, logs.usage_log())
    prices = {_whose(view): _prices(view) for view in recipe.whole.views}
    own = None
    if teacher.own_limits:
        used = logs.usage_log(prices, only=_whose(recipe))
        own = Purse(teacher.name, teacher.own_limits, used)
    return Budget(recipe.generate, logs.usage_log(prices), own)


def _whose(view: Recipe) -> Whose:
    """Return what the rows of its answers have as `teacher` and `server_model`."""
    return view.teacher.model, view.teacher.served_name


def _prices(view: Recipe) -> Prices:
    return Prices(view.generate.price_prompt, view.generate.price_answer)
