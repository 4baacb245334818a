"""The section `report`."""

from distill.recipe.schema import Section, field


class Report(Section):
    """report.html and the model card."""

    title: str | None = field(None, "Heading; null = the run's name")
