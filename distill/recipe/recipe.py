"""The recipe: two nouns, a section for each stage, and what does not go together."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, PrivateAttr, model_validator

from distill.errors import MissingError
from distill.recipe.schema import Section, field
from distill.recipe.sections import (
    Capture,
    Evaluate,
    Generate,
    Positive,
    Quantize,
    Report,
    Student,
    Teacher,
    Train,
)


class Recipe(Section):
    """From a teacher to a deployed student."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")] = field(
        ..., "Name of the run and of its folder under runs/"
    )
    seed: Annotated[int, Field(ge=0, lt=2**31)] = field(0, "Everything random follows from it")
    languages: list[str] = field(..., "Codes such as en, zh, sw: answers in others are dropped")
    run_folder: str | None = field(None, "Where the run lives; null = runs/<name>", machine=True)
    num_processes: Positive | None = field(
        None, "Refuse to start with another number of processes; null = any", machine=True
    )
    teacher: Teacher
    student: Student
    generate: Generate
    capture: Capture = Capture()
    train: Train = Train()
    quantize: Quantize = Quantize()
    evaluate: Evaluate = Evaluate()
    report: Report = Report()

    _source: Path = PrivateAttr(default=Path("recipe"))

    @model_validator(mode="after")
    def _fits(self) -> "Recipe":
        if any(source.translate for source in self.evaluate.prompts or []):
            raise ValueError(
                "evaluate.prompts: translate: the task cannot grade translations; map columns instead"
            )
        if any(
            not source.verify or source.refusals != "drop" for source in self.evaluate.prompts or []
        ):
            raise ValueError(
                "evaluate.prompts: verify and refusals say what is worth learning from: remove them here"
            )
        if not self.languages:
            raise ValueError("languages is empty: name at least one, e.g. [en]")
        self._check_expansions()
        if self.generate.shares is not None:
            if set(self.generate.shares) != set(self.languages):
                raise ValueError(
                    f"generate.shares names {', '.join(self.generate.shares)}, languages {', '.join(self.languages)}: name the same"
                )
            if abs(sum(self.generate.shares.values()) - 1) > 1e-6:
                raise ValueError(
                    f"generate.shares add up to {sum(self.generate.shares.values()):g}, not to 1"
                )
        self._check_log_probs()
        self._check_text_only()
        if self.capture.signal == "none" and self.train.soft_weight:
            raise ValueError(
                f"capture.signal none leaves nothing for train.soft_weight {self.train.soft_weight}: set soft_weight to 0 and "
                "hard_weight to 1 (the student learns the answers' text), or capture.signal to sampled"
            )
        if self.capture.signal == "none" and self.capture.hidden_states != "none":
            raise ValueError(
                f"capture.signal none asks for nothing, capture.hidden_states {self.capture.hidden_states} for something: set "
                "hidden_states to none, or signal to sampled"
            )
        if self.teacher.gguf and self.capture.hidden_states != "none":
            raise ValueError(
                f"capture.hidden_states {self.capture.hidden_states}: llama.cpp gives logits only: set hidden_states to none, or "
                "remove teacher.gguf to load teacher.model itself"
            )
        if (
            self.capture.signal == "sampled"
            and self.train.soft_weight
            and self.train.divergence != "forward_kl"
        ):
            raise ValueError(
                f"train.divergence {self.train.divergence} needs more than draws: set capture.signal to top_k or dense, "
                "or train.divergence to forward_kl"
            )
        if self.train.hidden_weight and self.capture.hidden_states == "none":
            raise ValueError(
                f"train.hidden_weight {self.train.hidden_weight} needs the teacher's hidden states: set "
                "capture.hidden_states to int8, or train.hidden_weight to 0"
            )
        return self

    def _check_log_probs(self) -> None:
        """What log-probs that come with a server's answers cannot be used for."""
        if not self.capture.from_server:
            return
        if self.teacher.server is None:
            raise ValueError(
                "capture.from_server without teacher.server: name the server, or set from_server to false"
            )
        if self.capture.signal != "top_k":
            raise ValueError(
                f"capture.from_server with capture.signal {self.capture.signal}: servers give the likeliest tokens; set signal to top_k"
            )
        if self.capture.hidden_states != "none":
            raise ValueError(
                f"capture.from_server with capture.hidden_states {self.capture.hidden_states}: servers give none; set hidden_states to none"
            )
        if self.generate.reasoning == "drop":
            raise ValueError(
                "capture.from_server with generate.reasoning drop: the log-probs are those of an answer after its reasoning; "
                "set reasoning to "
                "keep or short"
            )

    def _check_text_only(self) -> None:
        """What a teacher that is known by its text alone cannot be used for."""
        if not self.teacher.text_only:
            return
        if self.capture.signal != "none":
            raise ValueError(
                f"teacher.server_gives text with capture.signal {self.capture.signal}: a signal is about the teacher's tokens. Set "
                "capture.signal to none, train.soft_weight to 0 and train.hard_weight to 1, or remove server_gives"
            )
        if self.student.model is None:
            raise ValueError(
                f"teacher.server_gives text with student.method {self.student.method}: a new model takes the teacher's tokenizer, and "
                "there is none. Take method base or layers, or remove server_gives and let teacher.model name a folder or hub id with one"
            )
        if any(source.expand == "magpie" for source in self.generate.prompts):
            raise ValueError(
                "teacher.server_gives text with generate.prompts: expand: magpie, which goes on from the middle of the teacher's template: "
                "take self_instruct or personas, or remove server_gives"
            )

    def _check_expansions(self) -> None:
        """What prompts that the teacher writes cannot be used for."""
        if any(source.expand for source in self.evaluate.prompts or []):
            raise ValueError(
                "evaluate.prompts: expand: the teacher does not set its own exam; name prompts that people wrote"
            )
        found = [source for source in self.generate.prompts if source.expand]
        if not found:
            return
        if self.generate.task is not None and any(source.verify for source in found):
            raise ValueError(
                f"generate.task {self.generate.task} checks every answer against a reference, and prompts that the teacher writes "
                f"(expand: {found[0].expand}) have none: set verify: false beside expand, or task to null"
            )
        if len(found) == len(self.generate.prompts) and self.evaluate.prompts is None:
            raise ValueError(
                "evaluate.prompts is null, and the teacher writes all of generate.prompts (expand): name prompts that people wrote "
                "to evaluate on"
            )
        for code in [
            c
            for source in found
            for c in (*(source.system_prompts or ()), source.language)
            if c is not None
        ]:
            if code not in self.languages:
                raise ValueError(
                    f"generate.prompts: expand: language {code} is not in the recipe's languages {self.languages}"
                )

    @property
    def learns(self) -> Literal["outputs", "logits"]:
        """What the student learns of the teacher, as licences tell it apart."""
        return "outputs" if self.capture.signal == "none" else "logits"

    @property
    def source(self) -> Path:
        """The file it was read from."""
        return self._source

    def path(self, value: str) -> Path:
        """A path of the recipe: relative to the recipe's folder."""
        return (self._source.parent / Path(value).expanduser()).resolve()

    def existing_file(self, name: str, value: str) -> Path:
        """The path of a file that the recipe names; MissingError naming the field if it is not there."""
        path = self.path(value)
        if not path.is_file():
            raise MissingError(f"{self._source}: {name}: {value!r}: no such file ({path})")
        return path

    @property
    def gguf_teacher(self) -> Path | None:
        """The file of teacher.gguf; MissingError if it is not there."""
        return self.existing_file("teacher.gguf", self.teacher.gguf) if self.teacher.gguf else None

    def model_location(self, value: str) -> str:
        """An absolute folder for `./x`, `/x` and `~/x` (MissingError if it is not there), else the hub id."""
        if not value.startswith((".", "/", "~")):
            return value
        folder = self.path(value)
        if not (folder / "config.json").is_file():
            raise MissingError(
                f"{self._source}: model {value!r}: no config.json in {folder}; give a model folder or a hub id"
            )
        return str(folder)
