"""How a server is asked and how its answer is read. Two dialects take our own prompt ids and give exact token ids, so
that the chat template is the tokenizer's, and with each its likeliest rivals; the third is chat, which every server has
and which gives text only.

`read` raises KeyError, IndexError, TypeError, ValueError or AttributeError for an answer that is not what was asked for.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from distill.teachers.server.budget import Took

LogProbs = dict[
    int, float
]  # of the likeliest ids at one position, at T = 1 over the whole vocabulary
UNTOLD = "untold"  # finish reason of an answer that came without one
BROKEN_OFF = frozenset(
    {"abort", "aborted", "cancelled", "error", "insufficient_system_resource", "network_error"}
)  # not the model's end
# How servers are told whether to think, by the field of a chat request: vLLM, SGLang and llama.cpp pass the first on to the template, by
# both names that templates use; the second is DashScope's, SiliconFlow's and Qianfan's, the third GLM's, DeepSeek's and Kimi's
SWITCHES: dict[str, Callable[[bool], Any]] = {
    "chat_template_kwargs": lambda on: {"enable_thinking": on, "thinking": on},
    "enable_thinking": lambda on: on,
    "thinking": lambda on: {"type": "enabled" if on else "disabled"},
}
_THOUGHT = re.compile(r"<think>\s*(?!</think>)\S")


@dataclass(frozen=True)
class Question:
    """One answer to ask for: the messages, and the same prompt as the tokenizer's template makes it."""

    key: str
    messages: list[dict[str, str]]
    prompt_ids: list[int]
    seed: int


@dataclass(frozen=True)
class Answer:
    """What came back. `token_ids` is None where the server gave text only; `error` where it refused this request, `raw` is then
    what it sent; `thinks`: it reasoned first; `took`: with all its tries.

    `log_probs`: an entry a token, where they were asked for; None for a token of which the server does not tell any."""

    text: str
    finish_reason: str
    token_ids: list[int] | None = None
    prompt_tokens: int = 0
    answer_tokens: int = 0
    error: str | None = None
    log_probs: list[LogProbs | None] | None = None
    raw: str = ""
    thinks: bool = False
    took: Took | None = None


@dataclass(frozen=True)
class Sampling:
    """`top_k` 0 and `top_p` 1 are off and then not sent; `thinking` None leaves the template's own default, else `switch` is the field
    that says it (SWITCHES); `num_log_probs` is how many of the likeliest ids to give with each token."""

    temperature: float
    top_p: float
    top_k: int
    max_new_tokens: int
    stop_ids: tuple[int, ...] = ()
    enable_thinking: bool | None = None
    num_log_probs: int = 0
    switch: str = "chat_template_kwargs"


class Chat:
    """/v1/chat/completions: every server has it; text in, text out, the server's own template."""

    path = "v1/chat/completions"
    exact_ids = False

    @staticmethod
    def body(model: str, question: Question, sampling: Sampling) -> dict[str, Any]:
        body = {
            "model": model,
            "messages": question.messages,
            "max_tokens": sampling.max_new_tokens,
            **_sampling(sampling),
        }
        body["seed"] = question.seed
        if sampling.enable_thinking is not None:
            body[sampling.switch] = SWITCHES[sampling.switch](sampling.enable_thinking)
        return body

    @staticmethod
    def read(found: dict[str, Any]) -> Answer:
        choice = found["choices"][0]
        message = choice["message"]
        text = message.get("content") or ""
        reasoning = (message.get("reasoning_content") or message.get("reasoning") or "").strip()
        if reasoning:
            text = f"<think>\n{reasoning}\n</think>\n\n{text}"
        thinks = bool(reasoning or _THOUGHT.search(text) or _hidden_reasoning(found))
        return Answer(
            text, _reason(choice.get("finish_reason")), None, *usage(found), thinks=thinks
        )


class Completions:
    """/v1/completions with token ids in and out: vLLM (`return_token_ids`) and SGLang where it has that field.

    vLLM's log-probs are the model's own at T = 1 unless it was started with another `--logprobs-mode` than raw_logprobs.
    """

    path = "v1/completions"
    exact_ids = True

    @staticmethod
    def body(model: str, question: Question, sampling: Sampling) -> dict[str, Any]:
        return {
            "model": model,
            "prompt": question.prompt_ids,
            "max_tokens": sampling.max_new_tokens,
            **_sampling(sampling),
            "seed": question.seed,
            "return_token_ids": True,
            "stop_token_ids": list(sampling.stop_ids),
            "skip_special_tokens": False,
            **(
                {"logprobs": sampling.num_log_probs, "return_tokens_as_token_ids": True}
                if sampling.num_log_probs
                else {}
            ),
        }

    @staticmethod
    def read(found: dict[str, Any]) -> Answer:
        choice = found["choices"][0]
        ids = choice["token_ids"]
        if not _are_ids(ids):
            raise KeyError("token_ids")
        log_probs: list[LogProbs | None] | None = None
        if choice.get("logprobs"):
            rows = choice["logprobs"]["top_logprobs"]
            log_probs = [
                {int(name.removeprefix("token_id:")): float(value) for name, value in row.items()}
                for row in rows
            ]
            if len(log_probs) != len(ids):
                raise ValueError(f"log-probs of {len(log_probs)} tokens, {len(ids)} tokens")
        return Answer(
            choice["text"],
            _reason(choice.get("finish_reason")),
            ids,
            *usage(found),
            log_probs=log_probs,
        )


class LlamaCpp:
    """llama.cpp's own /completion: token ids in and out.

    It gives no log-probs of a token that ends in the middle of a character, nor of those before it in that character.
    """

    path = "completion"
    exact_ids = True

    @staticmethod
    def body(model: str, question: Question, sampling: Sampling) -> dict[str, Any]:
        # its samplers are given by name: none that the recipe did not ask for
        samplers = (
            (["top_k"] if sampling.top_k else [])
            + (["top_p"] if sampling.top_p < 1 else [])
            + ["temperature"]
        )
        return {
            "prompt": question.prompt_ids,
            "n_predict": sampling.max_new_tokens,
            **_sampling(sampling),
            "seed": question.seed,
            "samplers": samplers,
            "return_tokens": True,
            "cache_prompt": False,
            "repeat_penalty": 1.0,
            **(
                {"n_probs": sampling.num_log_probs, "post_sampling_probs": False}
                if sampling.num_log_probs
                else {}
            ),
        }

    @staticmethod
    def read(found: dict[str, Any]) -> Answer:
        ids = found["tokens"]
        if not _are_ids(ids):
            raise KeyError("tokens")
        reason = {"limit": "length", "eos": "stop", "word": "stop"}.get(
            found.get("stop_type", ""), UNTOLD
        )
        log_probs = (
            _aligned(ids, found["completion_probabilities"])
            if "completion_probabilities" in found
            else None
        )
        return Answer(found["content"], reason, ids, *usage(found), log_probs=log_probs)


def _aligned(ids: Sequence[int], entries: Sequence[dict[str, Any]]) -> list[LogProbs | None]:
    """llama.cpp's entries beside the tokens that they belong to. From the end: of equal tokens it is the last that
    completes a character."""
    found: list[LogProbs | None] = [None] * len(ids)
    left = list(entries)
    for place in range(len(ids) - 1, -1, -1):
        if left and left[-1]["id"] == ids[place]:
            found[place] = {int(e["id"]): float(e["logprob"]) for e in left.pop()["top_logprobs"]}
    if left:
        raise ValueError(
            f"log-probs of token {left[-1]['id']}, which is not among the tokens there"
        )
    return found


DIALECTS = (Completions, LlamaCpp, Chat)  # exact ids first
Dialect = type[Completions] | type[LlamaCpp] | type[Chat]


def _sampling(sampling: Sampling) -> dict[str, Any]:
    values: dict[str, Any] = {"temperature": sampling.temperature}
    if sampling.top_p < 1:
        values["top_p"] = sampling.top_p
    if sampling.top_k:
        values["top_k"] = sampling.top_k
    return values


def usage(found: Any) -> tuple[int, int]:
    """(prompt tokens, answer tokens) that the server counted; 0 where it does not say. Of any JSON: what is paid for is counted,
    whatever else is wrong with the answer."""
    if not isinstance(found, dict):
        return 0, 0
    said = found.get("usage")
    if not isinstance(said, dict):
        said = {
            "prompt_tokens": found.get("tokens_evaluated"),
            "completion_tokens": found.get("tokens_predicted"),
        }
    prompt, answer = (said.get(name) for name in ("prompt_tokens", "completion_tokens"))
    return prompt if isinstance(prompt, int) else 0, answer if isinstance(answer, int) else 0


def _hidden_reasoning(found: dict[str, Any]) -> int:
    """Tokens of reasoning that were counted, if not shown."""
    details = (found.get("usage") or {}).get("completion_tokens_details") or {}
    return details.get("reasoning_tokens") or 0


def _reason(reason: str | None) -> str:
    return UNTOLD if not reason else "stop" if reason == "eos" else str(reason)


def _are_ids(ids: Any) -> bool:
    return isinstance(ids, list) and all(isinstance(i, int) for i in ids)
