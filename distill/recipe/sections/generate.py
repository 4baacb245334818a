"""The section `generate`: what the teacher is asked, within which limits, and what is kept."""

from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from distill.recipe.addresses import NO_VARIABLE, address_problem, is_variable
from distill.recipe.schema import SHARE_ERROR, PositiveShare, Section, Share, field
from distill.recipe.sources import Sources, without_licences


class Generate(Section):
    """The teacher answers the prompts; the answers are filtered."""

    prompts: Sources = field(
        ...,
        "A file of prompts (.jsonl with prompt, messages or conversations, language, and reference where "
        "answers can be checked; .parquet, .csv, .tsv, .txt), or a list of sources: see "
        "`distill explain generate.prompts.file` and its neighbours, also for prompts that the "
        "teacher writes (expand)",
    )
    num_prompts: PositiveInt | None = field(
        None,
        "Use the first so many prompts of files and data sets; with shares, of languages or "
        "sources, ask so many in all; null = all",
    )
    max_bad_rows: Share = field(
        0.01,
        "Share of a source's rows that may be no prompts (not JSON, tool turns, no text, ...): they "
        "are left out, counted by reason and told; of a small source always a tenth, up to 10 "
        "rows. More are an error; 0 = none",
        machine=True,
    )
    shares: dict[str, PositiveShare] | None = field(
        None,
        "Share of the prompts by language, after the filters, e.g. {sw: 0.6, en: 0.4}; the "
        "scarcest sets the number; null = as it is",
    )
    samples_per_prompt: PositiveInt = field(1, "Answers wanted for each prompt")
    max_tries: PositiveInt | None = field(
        None,
        "Draw on where answers are dropped, up to so many draws a prompt, until "
        "samples_per_prompt are kept; null = no more",
    )
    task: Literal["market", "final_number", "math_answer", "python_tests"] | None = field(
        None,
        "Verifier of answers against `reference`. final_number = last number; math_answer = "
        "\\boxed{} or final answer, by value; python_tests = code that must pass asserts (see "
        "run_code); market = the quickstart's; null = none",
    )
    run_code: Literal["off", "sandboxed", "limited"] = field(
        "off",
        "python_tests runs code that models wrote: sandboxed = on Linux, without network, other "
        "files, or much time and memory, and not at all where the system cannot promise that; "
        "limited = as sandboxed as this system can",
        machine=True,
    )
    system_prompt: str | None = field(None, "System message put before every prompt")
    enable_thinking: bool | None = field(
        None,
        "The chat template's switch (enable_thinking, thinking), or whichever a server obeys; "
        "null = its default. A student with a template of its own gets it where that has one",
    )
    reasoning: Literal["keep", "drop", "short"] = field(
        "keep",
        "The teacher's reasoning: keep = the student learns it with the answer; drop = it "
        "learns the answer alone, as the chat template writes one without reasoning; short = "
        "samples with more than max_reasoning_tokens of it are dropped",
    )
    max_reasoning_tokens: PositiveInt = field(
        1024, "More is long reasoning: `reasoning: short` drops it, keep warns where it is too much"
    )
    max_new_tokens: PositiveInt = field(
        1024, "Longest answer, or prompt that the teacher writes; a longer one is cut and dropped"
    )
    sampling_temperature: Annotated[float, Field(ge=0, le=5)] = field(0.7, "0 = greedy")
    top_p: PositiveShare = field(0.8, "Nucleus; 1 = off")
    top_k: NonNegativeInt = field(20, "Keep the k likeliest tokens; 0 = off")
    concurrency: PositiveInt = field(
        64, "Server: at most so many requests at once; fewer while it refuses", machine=True
    )
    request_timeout: PositiveFloat = field(
        600.0, "Server: seconds to wait for one answer", machine=True
    )
    retry_errors: bool = field(
        False,
        "Server: ask again what it refused, or answered too badly, in an earlier run",
        machine=True,
    )
    max_requests: PositiveInt | None = field(
        None,
        "Server: stop after so many requests for this run folder, those of earlier runs and of "
        "other jobs among them",
        machine=True,
    )
    max_tokens: PositiveInt | None = field(
        None,
        "Server: stop before so many tokens, prompts and answers, are used for this run folder, "
        "all runs and jobs together: the longest answer must still fit",
        machine=True,
    )
    max_cost: PositiveFloat | None = field(
        None,
        "Server: stop before more than this is spent for this run folder, by the prices below, "
        "all runs and jobs together",
        machine=True,
    )
    price_prompt: NonNegativeFloat = field(0.0, "Price of a million prompt tokens", machine=True)
    price_answer: NonNegativeFloat = field(0.0, "Price of a million answer tokens", machine=True)
    max_megabytes: PositiveFloat | None = field(
        None, "Server: stop after so much traffic for this run folder", machine=True
    )
    max_hours: PositiveFloat | None = field(
        None, "Server: stop after so long, in each run anew", machine=True
    )
    max_prompt_characters: PositiveInt = field(20000, "Drop longer prompts, before they are asked")
    min_characters: NonNegativeInt = field(1, "Drop shorter answers")
    max_characters: PositiveInt = field(20000, "Drop longer answers")
    near_duplicate: PositiveShare = field(
        0.9,
        "Jaccard similarity from which answers to one prompt are duplicates; and prompts, if "
        "the sentences that only one has are alike, too: questions about one text are not",
    )
    resample: bool = field(
        False,
        "true = another `seed` asks for other answers; false = what is on disk stays, whatever "
        "the seed",
    )
    keep_per_prompt: PositiveInt | None = field(
        None, "Of the good answers to a prompt keep so many, the shortest; null = all"
    )
    judge_min_score: Annotated[int, Field(ge=2, le=5)] | None = field(
        None,
        "A model grades each answer that passed the filters, from 1 to 5; those below are "
        "dropped. Its replies are kept: another score asks nothing again. null = no judge",
    )
    judge_server: str | None = field(
        None,
        "URL of the judge's OpenAI-compatible server; null = the teacher judges itself",
        machine=True,
    )
    judge_model: str | None = field(None, "judge_server: the judge's name there")
    judge_licence: str | None = field(
        None,
        "judge_server: licence key of the judge, where the catalogue does not know judge_model",
        machine=True,  # no answer depends on it
    )
    judge_api_key_env: str | None = field(
        None, "judge_server: environment variable that holds its key; null = no key", machine=True
    )
    judge_price_prompt: NonNegativeFloat = field(
        0.0,
        "judge_server: price of a million prompt tokens; counts towards max_cost, 0 = nothing",
        machine=True,
    )
    judge_price_answer: NonNegativeFloat = field(
        0.0, "judge_server: price of a million answer tokens", machine=True
    )

    @property
    def teacher_judges(self) -> bool:
        """Return whether answers are judged, and by the teacher itself."""
        return self.judge_min_score is not None and self.judge_server is None

    def identity(self) -> dict[str, Any]:
        """Leave out the licences of the data, which no answer depends on."""
        return {**super().identity(), "prompts": without_licences(self.prompts)}

    @model_validator(mode="after")
    def _judge_is_complete(self) -> "Generate":
        if (self.judge_server is None) != (self.judge_model is None):
            raise ValueError(
                "judge_server and judge_model belong together: give both, or neither and the "
                "teacher judges itself"
            )
        if self.judge_min_score is None and self.judge_server is not None:
            raise ValueError(
                "judge_server without judge_min_score judges nothing: set judge_min_score, "
                "e.g. to 4"
            )
        if self.judge_licence is not None and self.judge_server is None:
            raise ValueError("judge_licence is for the model on judge_server: remove it")
        if self.judge_server is not None and (problem := address_problem(self.judge_server)):
            raise ValueError(f"judge_server: {problem}")
        if self.judge_api_key_env is not None and not is_variable(self.judge_api_key_env):
            raise ValueError(f"judge_api_key_env: {NO_VARIABLE}")
        return self

    @model_validator(mode="after")
    def _cost_has_prices(self) -> "Generate":
        prices = (
            self.price_prompt,
            self.price_answer,
            self.judge_price_prompt,
            self.judge_price_answer,
        )
        if self.max_cost is not None and not any(prices):
            raise ValueError(
                f"max_cost {self.max_cost:g} without prices stops nothing: set price_prompt and "
                "price_answer (of a million tokens), or max_tokens instead"
            )
        return self

    @model_validator(mode="after")
    def _sources_share_the_prompts(self) -> "Generate":
        shares = self._share_by_source
        if not shares:
            return self
        if self.shares is not None:
            raise ValueError(
                "shares (by language) and a source's share exclude each other: remove one"
            )
        without = [source.name for source in self.prompts if source.share is None]
        if without:
            raise ValueError(
                f"prompts: {without[0]} has no share and {next(iter(shares))} has: "
                "give one to every source, or to none"
            )
        if len(shares) < len(self.prompts):
            raise ValueError(
                "prompts: two sources with a share are the same file or data set: make one of them"
            )
        total = sum(shares.values())
        if abs(total - 1) > SHARE_ERROR:
            raise ValueError(f"prompts: the shares of the sources add up to {total:g}, not to 1")
        return self

    @model_validator(mode="after")
    def _code_runs_for_one_task(self) -> "Generate":
        if (self.task == "python_tests") != (self.run_code != "off"):
            raise ValueError(
                f"task {self.task} with run_code {self.run_code}: python_tests, and nothing else, "
                "runs code that models wrote on this machine; set run_code to sandboxed to allow "
                "that, or take another task"
            )
        return self

    @model_validator(mode="after")
    def _numbers_of_answers_agree(self) -> "Generate":
        wanted = self.samples_per_prompt
        if self.max_tries is not None and self.max_tries < wanted:
            raise ValueError(
                f"max_tries {self.max_tries} is less than samples_per_prompt {wanted}: raise it"
            )
        if self.keep_per_prompt is not None and self.keep_per_prompt > wanted:
            raise ValueError(
                f"keep_per_prompt {self.keep_per_prompt} is more than samples_per_prompt {wanted}: "
                "raise that, or lower it"
            )
        if self.max_tries is not None and self.max_tries > 1 and self.sampling_temperature == 0:
            raise ValueError(
                f"max_tries {self.max_tries} with sampling_temperature 0 would draw the same "
                "answer again: raise the temperature"
            )
        return self

    @property
    def mix(self) -> tuple[Literal["language", "source"], dict[str, float]] | None:
        """Return what the shares are of, and the shares; None where all prompts are asked."""
        if self.shares is not None:
            return "language", self.shares
        if self._share_by_source:
            return "source", self._share_by_source
        return None

    @property
    def _share_by_source(self) -> dict[str, float]:
        return {source.name: source.share for source in self.prompts if source.share is not None}
