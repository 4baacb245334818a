"""A recipe's teachers in turn: one, or several with the prompts that are each one's own.

A stage goes through the routes, and does all of one teacher's work before the next one is loaded.
"""

from dataclasses import dataclass

from distill import chat
from distill.chat.tokenizers import Tokenizers, tokenizers_of_several
from distill.core.run_folder import RunFolder
from distill.recipe import Recipe
from distill.teachers import connect, connect_to_capture
from distill.teachers.base import Teacher


@dataclass(frozen=True)
class Route:
    """One teacher.

    `recipe`: the recipe as if it were the only one, without a signal where it gives text alone.
    `tokenizers`: its and the student's, None where they are still to be loaded.
    """

    recipe: Recipe
    tokenizers: Tokenizers | None = None

    @property
    def name(self) -> str:
        """Return its name; "" where it is the recipe's only teacher."""
        return self.recipe.route

    @property
    def prefix(self) -> str:
        """Return what begins a message about it: `qwen: `, nothing where it is the only one."""
        return f"{self.name}: " if self.name else ""

    @property
    def gives_signal(self) -> bool:
        return self.recipe.capture.signal != "none"

    @property
    def why_text(self) -> str | None:
        """Return why the student learns its text alone, although a signal is captured, or None."""
        if self.gives_signal or self.recipe.whole.capture.signal == "none":
            return None
        if self.recipe.teacher.text_only:
            return "it is asked for text alone (server_gives: text)"
        tokenizers = self.tokenizers
        if tokenizers is not None and tokenizers.difference is not None:
            return tokenizers.difference
        return "the recipe wants its text alone (gives: text)"

    def connect(self, folder: RunFolder | None = None, local_rank: int = 0) -> Teacher:
        """Return the teacher; nothing is loaded."""
        return self._with_tokenizers(connect(self.recipe, folder, local_rank))

    def connect_to_capture(self, folder: RunFolder | None = None, local_rank: int = 0) -> Teacher:
        """Return the teacher that the signal is taken from; nothing is loaded."""
        return self._with_tokenizers(connect_to_capture(self.recipe, folder, local_rank))

    def _with_tokenizers(self, teacher: Teacher) -> Teacher:
        if self.tokenizers is not None:
            teacher.tokenizers = self.tokenizers
        return teacher


def routes_of(recipe: Recipe) -> list[Route]:
    """Return the routes of a recipe, in its order.

    Raises what `tokenizers_of_several` raises.
    """
    if recipe.teachers is None:
        return [Route(recipe)]
    tokenizers = tokenizers_of_several(recipe)
    return [_route(view, tokenizers[view.route]) for view in recipe.views]


def _route(view: Recipe, tokenizers: Tokenizers) -> Route:
    """Return a teacher's route; a switch of thinking that its template does not have is not set."""
    text = view.capture.signal == "none" or not tokenizers.same
    switch = view.generate.enable_thinking
    if tokenizers.teacher is not None:
        switch = chat.thinking_of(tokenizers.teacher, switch)
    return Route(view.whole.view_of(view.teacher, text=text, enable_thinking=switch), tokenizers)


def students_tokenizers(recipe: Recipe) -> Tokenizers:
    """Return the student's tokenizer, and that of the teacher whose format it learns.

    Of several teachers it is the leading one's; where none has the student's tokenizer any one's.
    """
    if recipe.teachers is None:
        return connect(recipe).tokenizers
    found = list(tokenizers_of_several(recipe).values())
    return next((tokenizers for tokenizers in found if tokenizers.same), found[0])
