"""An entry of `teachers`: one of several teachers, and which prompts are its own."""

from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from distill.recipe.schema import field
from distill.recipe.sections.teacher import Teacher

# What an answer is checked by: a task's verifier, the other text of a translation, nothing
Check = Literal["market", "final_number", "math_answer", "python_tests", "translation", "none"]
SELECTORS = ("languages", "sources", "tasks")
# Limits on one teacher's server alone; those of `generate` are for all teachers together
OWN_LIMITS = ("max_requests", "max_tokens", "max_cost", "max_megabytes")


class RoutedTeacher(Teacher):
    """One of several teachers: the fields of `teacher`, and which prompts it answers.

    A prompt goes to the first teacher of the list whose selectors (languages, sources, tasks) all
    take it; one without selectors takes all that is left.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=40)] = field(
        ..., "What it is called in files, messages and the report"
    )
    languages: list[str] | None = field(
        None, "Takes prompts whose answers are in these languages; null = in any"
    )
    sources: list[str] | None = field(
        None,
        "Takes prompts of these sources: their file or data set as generate.prompts (or "
        "evaluate.prompts, evaluate.safety.prompts) names it; distill = our sets of evaluate.safety; "
        "null = of any",
    )
    tasks: list[Check] | None = field(
        None,
        "Takes prompts whose answers are checked so: by generate.task, as a translation, or by "
        "nothing (none); null = whichever",
    )
    gives: Literal["text"] | None = field(
        None,
        "text = the student learns its text alone, in the student's own tokens, whatever "
        "capture.signal says; null = its signal too, where it has the student's tokenizer",
    )
    max_requests: PositiveInt | None = field(
        None, "Server: as generate.max_requests, of this teacher alone", machine=True
    )
    max_tokens: PositiveInt | None = field(
        None, "Server: as generate.max_tokens, of this teacher alone", machine=True
    )
    max_cost: PositiveFloat | None = field(
        None, "Server: as generate.max_cost, of this teacher alone", machine=True
    )
    max_megabytes: PositiveFloat | None = field(
        None, "Server: as generate.max_megabytes, of this teacher alone", machine=True
    )
    price_prompt: NonNegativeFloat | None = field(
        None, "Price of a million prompt tokens; null = generate.price_prompt", machine=True
    )
    price_answer: NonNegativeFloat | None = field(
        None, "Price of a million answer tokens; null = generate.price_answer", machine=True
    )
    concurrency: PositiveInt | None = field(
        None, "Server: most requests at once; null = generate.concurrency", machine=True
    )

    @property
    def takes_all(self) -> bool:
        """Return whether it has no selector."""
        return all(getattr(self, selector) is None for selector in SELECTORS)

    @property
    def own_limits(self) -> dict[str, Any]:
        """Return the limits that are its own, by name."""
        values = {name: getattr(self, name) for name in OWN_LIMITS}
        return {name: value for name, value in values.items() if value is not None}

    @property
    def asks_for(self) -> dict[str, Any]:
        """Return what it has in place of the fields of `generate` of these names."""
        names = ("price_prompt", "price_answer", "concurrency")
        values = {name: getattr(self, name) for name in names}
        return {name: value for name, value in values.items() if value is not None}

    @model_validator(mode="after")
    def _selectors_select(self) -> "RoutedTeacher":
        for selector in SELECTORS:
            if getattr(self, selector) == []:
                raise ValueError(
                    f"{selector}: [] takes nothing: name some, or remove it to take any"
                )
        return self

    @model_validator(mode="after")
    def _limits_are_a_servers(self) -> "RoutedTeacher":
        if self.own_limits and self.server is None:
            name, value = next(iter(self.own_limits.items()))
            raise ValueError(f"{name} {value:g} without server limits nothing: remove it")
        return self
