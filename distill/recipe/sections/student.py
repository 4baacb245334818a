"""The section `student`: the model that learns, before training."""

from typing import Literal

from pydantic import PositiveInt, model_validator

from distill.recipe.paths import PathText
from distill.recipe.schema import PositiveShare, Section, field


class Student(Section):
    """The small model that learns, before training."""

    method: Literal["base", "layers", "random"] = field(
        ...,
        "base = a model as it is; layers = evenly kept layers of a bigger one; random = a new "
        "one of a given shape",
    )
    model: PathText | None = field(None, "Folder or hub id (base, layers)")
    revision: str | None = field(None, "Hub revision of that model")
    licence: str | None = field(
        None, "Licence key of that model, where the catalogue does not know it"
    )
    layer_share: PositiveShare = field(0.5, "Share of the layers to keep (layers)")
    num_layers: PositiveInt = field(2, "random: transformer layers")
    hidden_size: PositiveInt = field(
        256, "random: width; multiples of 256 can have every GGUF type"
    )
    intermediate_size: PositiveInt = field(256, "random: feed-forward width")
    num_heads: PositiveInt = field(8, "random: query heads")
    num_kv_heads: PositiveInt = field(2, "random: key/value heads")
    head_dim: PositiveInt = field(32, "random: width of a head")

    @model_validator(mode="after")
    def _method_has_its_model(self) -> "Student":
        if self.method != "random" and self.model is None:
            raise ValueError(f"method: {self.method} needs student.model")
        if self.method == "random" and self.model is not None:
            raise ValueError(
                "method: random takes its tokenizer from the teacher: remove student.model"
            )
        return self

    @model_validator(mode="after")
    def _heads_share_keys_evenly(self) -> "Student":
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"num_heads {self.num_heads} is not a multiple of num_kv_heads {self.num_kv_heads}"
            )
        return self
