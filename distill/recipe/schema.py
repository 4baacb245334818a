"""What a section of the recipe is made of."""

from typing import Annotated, Any, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

Share = Annotated[float, Field(ge=0, le=1)]
PositiveShare = Annotated[float, Field(gt=0, le=1)]
SHARE_ERROR = 1e-6  # how far shares that add up to 1 may be from it


def field(default: Any, description: str, *, machine: bool = False, later: bool = False) -> Any:
    """Return a field of a section.

    `machine`: it says how a machine does the work, not what comes out. `later`: there are run
    folders that were made before it was there, as if it had its default.
    """
    marks: dict[str, Any] = {"machine": machine, "later": later}
    return Field(default, description=description, json_schema_extra=marks)


class Section(BaseModel):
    """A part of the recipe that refuses keys it does not know, and is never changed.

    No number in it is infinite or none, beyond 64 bits, or a switch: `epochs: true` is not 1.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False
    )

    @field_validator("*", mode="before")
    @classmethod
    def _is_no_switch(cls, value: Any, info: ValidationInfo) -> Any:
        annotation = cls.model_fields[info.field_name or ""].annotation
        if isinstance(value, bool) and bool not in (annotation, *get_args(annotation)):
            raise ValueError(f"{str(value).lower()} is for switches, which this is not")
        return value

    @field_validator("*", mode="after")
    @classmethod
    def _fits_64_bits(cls, value: Any) -> Any:
        if isinstance(value, int) and abs(value) >= 1 << 63:
            raise ValueError("no number here has more than 64 bits")
        return value

    def identity(self) -> dict[str, Any]:
        """Return the fields that decide what comes out."""
        machine = self._marked("machine")
        return self._without_later(self.model_dump(mode="json", exclude=machine))

    def _marked(self, mark: str) -> set[str]:
        """Return the names of the fields that have the mark."""
        return {
            name
            for name, info in type(self).model_fields.items()
            if isinstance(info.json_schema_extra, dict) and info.json_schema_extra[mark]
        }

    def _without_later(self, values: dict[str, Any]) -> dict[str, Any]:
        """Return this section's values without the later fields that are as before they were there."""
        later = self._marked("later")
        fields = type(self).model_fields
        kept = {}
        for name, value in values.items():
            own = getattr(self, name)
            if name in later and own == fields[name].default:
                continue
            kept[name] = own._without_later(value) if isinstance(own, Section) else value
        return kept
