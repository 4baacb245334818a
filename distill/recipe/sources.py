"""A source of prompts: a file, a data set, or the teacher itself."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PlainSerializer, PositiveInt, model_validator

from distill.errors import shown
from distill.recipe.paths import PathText
from distill.recipe.schema import PositiveShare, Section, field

FILES = (".jsonl", ".json", ".parquet", ".csv", ".tsv", ".txt")
Column = Literal["prompt", "messages", "answer", "language", "reference", "id", "persona", "place"]
Expansion = Literal["magpie", "self_instruct", "personas"]


class Source(Section):
    """One place that prompts come from.

    It is a file, a data set of the `datasets` library, or the teacher itself (`expand`).
    """

    expand: Expansion | None = field(
        None,
        "The teacher writes the prompts. magpie = from its chat template alone, as if a user "
        "spoke; self_instruct = new ones like those of `file` or `dataset`, or else like the "
        "recipe's other prompts; personas = what each person in `file` would ask (.txt, one a "
        "line; .jsonl: persona), or what is asked in each place there (.jsonl: place). Drawn at "
        "temperature 1",
    )
    num: PositiveInt | None = field(
        None,
        "expand: how many the teacher is asked for, evenly over the languages; those that the "
        "filters drop are not made up for",
    )
    num_shown: PositiveInt = field(8, "self_instruct: examples that the teacher is shown each time")
    system_prompts: dict[str, str] | None = field(
        None,
        "magpie: a system message by language, written in that language, e.g. {sw: Unamsaidia "
        "mkulima}, so that prompts come in it; null = in whatever language of the recipe's they "
        "come",
    )
    file: PathText | None = field(
        None,
        "JSON Lines (.jsonl), .parquet, .csv (commas, semicolons, tabs or bars) or .tsv; .txt has "
        "one prompt a line. Relative to the recipe's folder",
    )
    dataset: PathText | None = field(
        None, "Name for `datasets`, e.g. CohereLabs/aya_dataset, or a folder (./, / or ~)"
    )
    config: str | None = field(None, "dataset: its configuration, often a language")
    split: str | None = field(None, "dataset: its split; null = train")
    revision: str | None = field(None, "dataset: pin a commit to make the run repeatable")
    language: str | None = field(
        None, "Language of every answer; null = by column, or the recipe's only one"
    )
    columns: dict[Column, str] | None = field(
        None,
        "Our name: their column, e.g. {prompt: question, reference: answer}; other columns are "
        "left out. A number is a position in a .csv or .tsv without a head line. null = the "
        "columns bear our names",
    )
    translate: dict[str, str] | None = field(
        None,
        "Translation pairs, language: column, e.g. {en: english, sw: kiswahili}: a prompt in "
        "each direction",
    )
    answers: Literal["ask", "given"] = field(
        "ask",
        "ask = the teacher answers the prompts; given = each row has its answer (`answer`, the "
        "assistant's last turn, or the other text of a translation): the teacher writes none, "
        "and tells how likely it finds each token of these",
    )
    passages: Annotated[int, Field(ge=100, le=20000)] | None = field(
        None,
        "Rows are texts, not prompts: each is cut into passages of about so many characters (of a .txt "
        "the lines together), and the student learns to continue them from their first words, e.g. "
        "700; the teacher writes nothing, as by answers: given. null = they are prompts",
    )
    share: PositiveShare | None = field(
        None,
        "Share of the prompts that come from this source, after the filters, e.g. 0.45; given "
        "for every source or for none; the scarcest sets the number. null = all of them",
    )
    check_language: bool = field(
        True, "false = a prompt may be in another language than its answer"
    )
    verify: bool = field(
        True,
        "false = generate.task does not check these answers and rows need no reference: chat, "
        "safety, or prompts that the teacher writes, beside problems that are checked; in "
        "evaluate.prompts they count for NLL and not for exact match",
    )
    refusals: Literal["drop", "keep", "require"] = field(
        "drop",
        "Answers that refuse are dropped; keep = either may be right; require = what does not "
        "refuse is dropped (requests that the student shall learn to decline)",
    )

    licence: str | None = field(
        None,
        "Licence key of the data, e.g. cc-by-4.0, or own for what is yours; it counts beside those "
        "of the models. null = not declared",
    )

    @model_validator(mode="after")
    def _expansion_fits(self) -> "Source":
        if self.expand is None:
            self._check_nothing_is_for_expansion()
        else:
            self._check_expansion(self.expand)
        return self

    @model_validator(mode="after")
    def _passages_are_of_texts(self) -> "Source":
        if self.passages is None:
            return self
        meaningless = {"check_language", "verify", "refusals", "answers"} & self.model_fields_set
        if meaningless:
            raise ValueError(f"{min(meaningless)} means nothing to passages: remove it")
        if self.expand is not None or self.translate is not None:
            other = "translate" if self.expand is None else "expand"
            raise ValueError(f"passages and {other} do not go together: make two sources of them")
        unused = sorted((self.columns or {}).keys() - {"prompt", "language", "id"})
        if unused:
            raise ValueError(
                f"columns.{unused[0]} means nothing to passages: columns: {{prompt: THEIR_NAME}} says where "
                "the text is"
            )
        return self

    def _check_nothing_is_for_expansion(self) -> None:
        extra = sorted(self.model_fields_set & {"num", "num_shown", "system_prompts"})
        if extra:
            raise ValueError(
                f"{extra[0]} is for prompts that the teacher writes: remove it, or set expand"
            )

    def _check_expansion(self, expand: Expansion) -> None:
        if self.num is None:
            raise ValueError(f"expand: {expand} needs num: how many prompts to ask the teacher for")
        if self.translate is not None:
            raise ValueError(
                f"expand: {expand} and translate do not go together: make two sources of them"
            )
        if self.answers == "given":
            raise ValueError(
                f"expand: {expand} and answers: given do not go together: what the teacher writes "
                "has no answer yet; make two sources of them"
            )
        meaningless = {"check_language"}
        if expand != "self_instruct":
            meaningless.add("num_shown")
        unused = sorted(self.model_fields_set & meaningless)
        if unused:
            raise ValueError(f"{unused[0]} means nothing to expand: {expand}: remove it")
        if expand == "magpie" and (self.file or self.dataset or self.columns):
            raise ValueError(
                "expand: magpie starts from nothing: remove file, dataset and columns, or expand "
                "by self_instruct"
            )
        if expand != "magpie" and self.system_prompts:
            raise ValueError(
                f"system_prompts is for magpie; {expand} says the language in its request: "
                "remove it"
            )
        if self.system_prompts and self.language:
            raise ValueError("system_prompts names its languages itself: remove language")

    @model_validator(mode="after")
    def _comes_from_one_place(self) -> "Source":
        num_places = (self.file is not None) + (self.dataset is not None)
        needs_none = self.expand in ("magpie", "self_instruct")
        if num_places == 2 or (num_places == 0 and not needs_none):
            raise ValueError("give either file or dataset")
        if self.file is None:
            return self
        if not self.file.lower().endswith(FILES):
            raise ValueError(
                f"file {shown(self.file)} does not end in {', '.join(FILES)}; for a data set write "
                "dataset: NAME"
            )
        for name in ("config", "split", "revision"):
            if getattr(self, name) is not None:
                raise ValueError(f"{name} belongs to a dataset, not to a file: remove it")
        if self.answers == "given" and self.passages is None and self.file.lower().endswith(".txt"):
            raise ValueError(
                f"answers: given with {shown(self.file)}: a .txt has one prompt a line and no answers: "
                "write a .jsonl with prompt and answer, or set passages for texts to continue"
            )
        return self

    @model_validator(mode="after")
    def _columns_have_one_meaning(self) -> "Source":
        columns = self.columns or {}
        one_of = ("persona", "place") if self.expand == "personas" else ("prompt", "messages")
        if self.columns is not None and sum(name in columns for name in one_of) != 1:
            raise ValueError(f"columns: map either {one_of[0]} or {one_of[1]}")
        if "answer" in columns and self.answers == "ask":
            raise ValueError(
                "columns.answer is learnt by answers: given alone: set that, or remove the column"
            )
        if self.language is not None and "language" in columns:
            raise ValueError(
                "language and columns.language both say what language it is: remove one"
            )
        if self.translate is None:
            return self
        if self.columns is not None or self.language is not None:
            raise ValueError(
                "translate names languages and columns itself: remove columns and language"
            )
        if len(self.translate) < 2:
            raise ValueError(
                f"translate needs two languages or more, got {', '.join(self.translate) or 'none'}"
            )
        return self

    @property
    def gives_answers(self) -> bool:
        """Return whether its rows hold the answers that are learnt."""
        return self.answers == "given" or self.passages is not None

    @property
    def name(self) -> str:
        """Return how it is called in rows and messages."""
        parts = (self.dataset, self.config, self.split)
        origin = self.file or "/".join(part for part in parts if part)
        if self.expand and origin:
            return f"{self.expand} of {origin}"
        return self.expand or origin


def _as_list(value: Any) -> Any:
    """Return the sources of a recipe as a list: one need not be a list, and a path is a file."""
    if isinstance(value, str):
        return [{"file": value}]
    return [value] if isinstance(value, dict) else value


def _short_form(sources: list[Source] | None) -> Any:
    """Return the shortest form that reads back as these sources: a path, or what is no default.

    It is what a run folder's recipe.yaml shows and what a stage's identity is made of: a field that
    is added to Source makes no finished stage stale.
    """
    if sources is None:
        return None
    written = [source.model_dump(mode="json", exclude_defaults=True) for source in sources]
    is_a_path = len(written) == 1 and set(written[0]) == {"file"}
    return written[0]["file"] if is_a_path else written


def without_licences(sources: list[Source] | None) -> Any:
    """Return the short form of the sources as far as answers depend on them."""
    if sources is None:
        return None
    return _short_form([source.model_copy(update={"licence": None}) for source in sources])


Sources = Annotated[
    list[Source], Field(min_length=1), BeforeValidator(_as_list), PlainSerializer(_short_form)
]
