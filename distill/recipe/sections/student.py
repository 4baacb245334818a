"""The section `student`: the model that learns, before training."""

from typing import Any, Literal

from pydantic import PositiveFloat, PositiveInt, model_validator

from distill.errors import shown
from distill.recipe.paths import PathText
from distill.recipe.schema import PositiveShare, Section, Share, field
from distill.recipe.sources import FILES, Column, Source

UNCHOSEN = "even"  # how layers were kept before layers_by: as runs of that time have it
FFN_STEP = 256  # neurons: a block of llama.cpp's k-quants


class CountedText(Section):
    """Text of one language, in which the tokens that it needs are counted."""

    file: PathText | None = field(
        None,
        "A .txt, or .jsonl, .parquet, .csv or .tsv with a column; relative to the recipe's folder",
    )
    dataset: PathText | None = field(None, "Name for `datasets`, or a folder (./, / or ~)")
    config: str | None = field(None, "dataset: its configuration, often a language")
    split: str = field("train", "dataset: its split")
    revision: str | None = field(None, "dataset: pin a commit to make the run repeatable")
    column: str = field("text", "The column of the text (not of a .txt)")
    language: str = field(..., "The text's language")

    @model_validator(mode="after")
    def _has_one_place(self) -> "CountedText":
        if (self.file is None) == (self.dataset is None):
            raise ValueError("give either file or dataset")
        if self.file is None:
            return self
        if not self.file.lower().endswith(FILES):
            raise ValueError(f"file {shown(self.file)} does not end in {', '.join(FILES)}")
        for name in ("config", "split", "revision"):
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} belongs to a dataset, not to a file: remove it")
        return self

    @property
    def source(self) -> Source:
        """Return where its rows are read from: the text is their `prompt`."""
        columns: dict[Column, str] = {"prompt": self.column}
        if self.file is not None:
            is_text = self.file.lower().endswith(".txt")
            return Source(file=self.file, columns=None if is_text else columns)
        return Source(
            dataset=self.dataset,
            config=self.config,
            split=self.split,
            revision=self.revision,
            columns=columns,
        )


class Vocabulary(Section):
    """Trim the student's tokenizer to the tokens that its languages need."""

    size: PositiveInt | None = field(
        None,
        "Take tokens away until so many stay (a multiple of 64, rounded down); null = as few as "
        "max_fertility_loss allows. Where that is reached first, more than size stay",
    )
    max_fertility_loss: Share | None = field(
        0.01,
        "Keep so many tokens that the texts that are counted, of any of the languages, become at most this "
        "share longer in tokens, whatever size says; other texts grow by more, so count much of their "
        "kind; null = size alone decides",
    )
    texts: list[CountedText] = field(
        [],
        "More text to count tokens in, beside the prompts and answers: of the kind that the student "
        "will read and write",
    )

    @model_validator(mode="after")
    def _something_says_how_many(self) -> "Vocabulary":
        if self.size is None and self.max_fertility_loss is None:
            raise ValueError("size and max_fertility_loss are both null: give one of them")
        return self


class Student(Section):
    """The small model that learns, before training."""

    method: Literal["base", "layers", "random"] = field(
        ...,
        "base = a model as it is; layers = some layers of a bigger one; random = a new "
        "one of a given shape",
    )
    model: PathText | None = field(None, "Folder or hub id (base, layers)")
    revision: str | None = field(None, "Hub revision of that model")
    licence: str | None = field(
        None, "Licence key of that model, where the catalogue does not know it"
    )
    layer_share: PositiveShare = field(0.5, "Share of the layers to keep (layers)")
    layers_by: Literal["even", "last", "block_influence", "nll"] = field(
        "block_influence",
        "Which layers to keep (layers): even = evenly spaced; last = the first ones, so that the "
        "last are dropped; block_influence = those that turn the hidden states most; nll = drop one "
        "after another, always the one without which the answers' NLL is least. The last two read "
        "some of the run's samples: nll keeps most before training, takes minutes and has the whole "
        "model in memory, block_influence takes seconds where memory holds the model, and a layer at a "
        "time where not; after a short distillation they were alike (BENCHMARKS.md)",
    )
    ffn_width: PositiveInt | None = field(
        None,
        "Cut the feed-forward of the model to this width (base, layers), a multiple of 256: the "
        "neurons that are strongest on some of the run's samples stay; key/value heads and the "
        "hidden width stay whole; null = as wide as it is",
        is_newer=True,
    )
    num_experts: PositiveInt | None = field(
        None,
        "Cut a mixture of experts to so many a layer (base, layers): those that add most on some of "
        "the run's samples stay; null = all of them",
        is_newer=True,
    )
    vocabulary: Vocabulary | None = field(
        None, "Keep only the tokens that the languages need; null = all of them", is_newer=True
    )
    budget_mb: PositiveFloat | None = field(
        None,
        "distill shape alone: megabytes (10^6 bytes) that the student's file may have, in the "
        "first 4-bit GGUF format of quantize.formats (else in the first GGUF format there)",
        machine=True,  # what a run makes does not depend on it
    )
    parameters: PositiveInt | None = field(
        None, "distill shape alone: parameters that the student may have", machine=True
    )
    num_layers: PositiveInt = field(2, "random: transformer layers")
    hidden_size: PositiveInt = field(
        256, "random: width; multiples of 256 can have every GGUF type"
    )
    intermediate_size: PositiveInt = field(256, "random: feed-forward width")
    num_heads: PositiveInt = field(8, "random: query heads")
    num_kv_heads: PositiveInt = field(2, "random: key/value heads")
    head_dim: PositiveInt = field(32, "random: width of a head")

    def identity(self) -> dict[str, Any]:
        """Name how layers are chosen only where some are, and otherwise than before there was a choice."""
        values = super().identity()
        if self.method != "layers" or self.layers_by == UNCHOSEN:
            del values["layers_by"]
        return values

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
    def _cuts_fit_the_method(self) -> "Student":
        unused = (UNCHOSEN, type(self).model_fields["layers_by"].default)
        if self.method == "random" and self.layers_by not in unused:
            raise ValueError(
                f"layers_by: {self.layers_by} belongs to method: layers, and method is {self.method}"
            )
        if self.method == "random" and self.ffn_width is not None:
            raise ValueError(
                "ffn_width cuts a model (method: base or layers); the width of a new one is "
                f"intermediate_size: set intermediate_size: {self.ffn_width} and remove ffn_width"
            )
        if self.method == "random" and self.num_experts is not None:
            raise ValueError(
                "num_experts cuts a model (method: base or layers), and a new one is dense: remove it"
            )
        return self

    @model_validator(mode="after")
    def _width_fits_the_files(self) -> "Student":
        width = self.ffn_width
        if width is not None and width % FFN_STEP:
            near = max(FFN_STEP, width // FFN_STEP * FFN_STEP)
            raise ValueError(
                f"ffn_width {width} is not a multiple of {FFN_STEP}, which the k-quants of GGUF "
                f"need: set {near} or {near + FFN_STEP}"
            )
        return self

    @model_validator(mode="after")
    def _heads_share_keys_evenly(self) -> "Student":
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"num_heads {self.num_heads} is not a multiple of num_kv_heads {self.num_kv_heads}"
            )
        return self
