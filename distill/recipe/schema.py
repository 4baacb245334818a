"""What a section of the recipe is made of."""

from typing import Annotated, Any, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

Share = Annotated[float, Field(ge=0, le=1)]
PositiveShare = Annotated[float, Field(gt=0, le=1)]
SHARE_ERROR = 1e-6  # how far shares that add up to 1 may be from it


def field(default: Any, description: str, *, machine: bool = False, is_newer: bool = False) -> Any:
    """Return a field of a section.

    `machine`: it says how a machine does the work, not what comes out. `is_newer`: there are run
    folders that were made before it, as if it had its default; they stay valid.
    """
    marks: dict[str, Any] = {"machine": machine, "is_newer": is_newer}
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
        """Return the fields that decide what comes out, newer ones only where they are used."""
        values = self.model_dump(mode="json", exclude=self._marked("machine"))
        for name in self._marked("is_newer"):
            if getattr(self, name) == type(self).model_fields[name].default:
                values.pop(name, None)
        return values

    @classmethod
    def _marked(cls, mark: str) -> set[str]:
        """Return the names of the fields that are marked so (see `field`)."""
        marks = {name: info.json_schema_extra for name, info in cls.model_fields.items()}
        return {name for name, of in marks.items() if isinstance(of, dict) and of[mark]}
