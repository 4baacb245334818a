"""The section `processes`: those of one launch, and how long they wait for each other."""

from pydantic import PositiveFloat

from distill.recipe.schema import Section, field


class Launch(Section):
    """The processes of one launch (`accelerate launch`, Slurm)."""

    patience: PositiveFloat = field(
        30.0,
        "Minutes in which a rank that the others wait for may do nothing at all, before all end, so "
        "that the run can be started again; it is named after 5 minutes. At the start all ranks "
        "must have come within as many",
        machine=True,
        is_newer=True,
    )
