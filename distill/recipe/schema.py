"""What a section of the recipe is made of."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

Share = Annotated[float, Field(ge=0, le=1)]
PositiveShare = Annotated[float, Field(gt=0, le=1)]
SHARE_ERROR = 1e-6  # how far shares that add up to 1 may be from it


def field(default: Any, description: str, *, machine: bool = False) -> Any:
    """Return a field of a section.

    `machine`: it says how a machine does the work, not what comes out.
    """
    return Field(default, description=description, json_schema_extra={"machine": machine})


class Section(BaseModel):
    """A part of the recipe that refuses keys it does not know, and is never changed."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)

    def identity(self) -> dict[str, Any]:
        """Return the fields that decide what comes out."""
        fields = type(self).model_fields
        machine = {
            name
            for name, info in fields.items()
            if isinstance(info.json_schema_extra, dict) and info.json_schema_extra["machine"]
        }
        return self.model_dump(mode="json", exclude=machine)
