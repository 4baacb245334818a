"""How a server is asked, and how its answer is read.

Two adapters take our own prompt ids and give exact token ids, so that the chat template is the
tokenizer's, and with each id its likeliest rivals; the third is chat, which every server has and
which gives text only.

`read` takes any JSON, and raises one of UNREADABLE for an answer that is not what was asked for.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from distill.models.sampling import Sampling
from distill.teachers.requests import Completion, LogProbs, Scored

UNREADABLE = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError)
UNKNOWN_REASON = "untold"  # finish reason of an answer that came without one
LONGEST_REASON = 40  # characters: it is a word
MOST_TOKENS = 10_000_000  # of a prompt or an answer: a count above it is no count
LARGEST_ID = 2**31 - 1
# not the model's end
BROKEN_OFF = frozenset(
    {"abort", "aborted", "cancelled", "error", "insufficient_system_resource", "network_error"}
)
# How servers are told whether to think, by the field of a chat request: vLLM, SGLang and llama.cpp
# pass the first on to the template, by both names that templates use; the second is DashScope's,
# SiliconFlow's and Qianfan's, the third GLM's, DeepSeek's and Kimi's
SWITCHES: dict[str, Callable[[bool], Any]] = {
    "chat_template_kwargs": lambda on: {"enable_thinking": on, "thinking": on},
    "enable_thinking": lambda on: on,
    "thinking": lambda on: {"type": "enabled" if on else "disabled"},
}
FIRST_SWITCH = "chat_template_kwargs"
_THOUGHT = re.compile(r"<think>\s*(?!</think>)\S")


@dataclass(frozen=True)
class CompletionRequest:
    """One request to a server: messages, and the same prompt as the template makes it."""

    key: str
    messages: list[dict[str, str]]
    prompt_ids: list[int]
    seed: int


class Chat:
    """/v1/chat/completions: every server has it; text in, text out, the server's own template."""

    path = "v1/chat/completions"
    exact_ids = False

    @staticmethod
    def body(
        model: str, request: CompletionRequest, sampling: Sampling, switch: str = FIRST_SWITCH
    ) -> dict[str, Any]:
        body = {
            "model": model,
            "messages": request.messages,
            "max_tokens": sampling.max_new_tokens,
            **_sampling_fields(sampling),
            "seed": request.seed,
        }
        if sampling.enable_thinking is not None:
            body[switch] = SWITCHES[switch](sampling.enable_thinking)
        return body

    @staticmethod
    def read(reply: dict[str, Any]) -> Completion:
        choice = reply["choices"][0]
        message = choice["message"]
        text = _text(message.get("content") or "")
        reasoning = _text(message.get("reasoning_content") or message.get("reasoning") or "")
        reasoning = reasoning.strip()
        if reasoning:
            text = f"<think>\n{reasoning}\n</think>\n\n{text}"
        return Completion(
            text,
            _reason(choice.get("finish_reason")),
            None,
            *token_counts(reply),
            thinks=bool(reasoning or _THOUGHT.search(text) or _hidden_reasoning(reply)),
        )


class Completions:
    """/v1/completions with token ids in and out: vLLM, and SGLang where it has `return_token_ids`.

    vLLM's log-probs are the model's own at T = 1 unless it was started with another
    `--logprobs-mode` than raw_logprobs.
    """

    path = "v1/completions"
    exact_ids = True

    @staticmethod
    def body(
        model: str, request: CompletionRequest, sampling: Sampling, switch: str = FIRST_SWITCH
    ) -> dict[str, Any]:
        body = {
            "model": model,
            "prompt": request.prompt_ids,
            "max_tokens": sampling.max_new_tokens,
            **_sampling_fields(sampling),
            "seed": request.seed,
            "return_token_ids": True,
            "stop_token_ids": list(sampling.stop_ids),
            "skip_special_tokens": False,
        }
        if sampling.num_log_probs:
            body |= {"logprobs": sampling.num_log_probs, "return_tokens_as_token_ids": True}
        return body

    @staticmethod
    def read(reply: dict[str, Any]) -> Completion:
        choice = reply["choices"][0]
        ids = choice["token_ids"]
        if not _are_ids(ids):
            raise KeyError("token_ids")
        log_probs: list[LogProbs | None] | None = None
        if choice.get("logprobs"):
            log_probs = [_ids_of_names(row) for row in choice["logprobs"]["top_logprobs"]]
            if len(log_probs) != len(ids):
                raise ValueError(f"log-probs of {len(log_probs)} tokens, {len(ids)} tokens")
        reason = _reason(choice.get("finish_reason"))
        text = _text(choice["text"])
        return Completion(text, reason, ids, *token_counts(reply), log_probs=log_probs)


class LlamaCpp:
    """llama.cpp's own /completion: token ids in and out.

    It gives no log-probs of a token that ends in the middle of a character, nor of those before it
    in that character.
    """

    path = "completion"
    exact_ids = True
    REASONS = {"limit": "length", "eos": "stop", "word": "stop"}  # noqa: RUF012 - a constant

    @staticmethod
    def body(
        model: str, request: CompletionRequest, sampling: Sampling, switch: str = FIRST_SWITCH
    ) -> dict[str, Any]:
        # its samplers are given by name: none that the recipe did not ask for
        samplers = ["temperature"]
        if sampling.top_p < 1:
            samplers.insert(0, "top_p")
        if sampling.top_k:
            samplers.insert(0, "top_k")
        body = {
            "prompt": request.prompt_ids,
            "n_predict": sampling.max_new_tokens,
            **_sampling_fields(sampling),
            "seed": request.seed,
            "samplers": samplers,
            "return_tokens": True,
            "cache_prompt": False,
            "repeat_penalty": 1.0,
        }
        if sampling.num_log_probs:
            body |= {"n_probs": sampling.num_log_probs, "post_sampling_probs": False}
        return body

    @staticmethod
    def read(reply: dict[str, Any]) -> Completion:
        ids = reply["tokens"]
        if not _are_ids(ids):
            raise KeyError("tokens")
        reason = LlamaCpp.REASONS.get(reply.get("stop_type", ""), UNKNOWN_REASON)
        log_probs = None
        if "completion_probabilities" in reply:
            log_probs = _aligned(ids, reply["completion_probabilities"])
        text = _text(reply["content"])
        return Completion(text, reason, ids, *token_counts(reply), log_probs=log_probs)


@dataclass(frozen=True)
class PromptScores:
    """/v1/completions of vLLM, which tells how likely the ids of the prompt itself are.

    `num`: of how many of the likeliest ids it gives the log-prob at each; that of the prompt's own
    comes with them. One token is written, which is no concern of ours.
    """

    num: int
    path = "v1/completions"
    exact_ids = True

    def body(
        self,
        model: str,
        request: CompletionRequest,
        sampling: Sampling,
        switch: str = FIRST_SWITCH,
    ) -> dict[str, Any]:
        return {
            "model": model,
            "prompt": request.prompt_ids,
            "max_tokens": 1,
            "temperature": 0.0,
            "prompt_logprobs": self.num,
            "return_token_ids": True,
            "skip_special_tokens": False,
        }

    def read(self, reply: dict[str, Any]) -> Completion:
        choice = reply["choices"][0]
        ids = choice["prompt_token_ids"]
        if not _are_ids(ids):
            raise KeyError("prompt_token_ids")
        first, *rows = choice["prompt_logprobs"]
        if first is not None:
            raise ValueError("log-probs of the first token, before which there is nothing")
        texts = [_text_of_own(row, token) for row, token in zip(rows, ids[1:], strict=False)]
        scored = Scored(ids, [_of_prompt(row) for row in rows], texts)
        reason = _reason(choice.get("finish_reason"))
        written = _text(choice["text"])
        return Completion(written, reason, None, *token_counts(reply), scored=scored)


ADAPTERS = (Completions, LlamaCpp, Chat)  # exact ids first
ServerAdapter = type[Completions] | type[LlamaCpp] | type[Chat] | PromptScores


def _of_prompt(row: dict[str, dict[str, Any]]) -> LogProbs:
    """Return the log-probs by id: vLLM names a token by its number, {"17": {"logprob": -0.1}}."""
    return {int(name): float(entry["logprob"]) for name, entry in row.items()}


def _text_of_own(row: dict[str, dict[str, Any]], token: int) -> str | None:
    """Return what the server reads the prompt's own token as, None where it does not say."""
    text = row.get(str(token), {}).get("decoded_token")
    return text if isinstance(text, str) else None


def _ids_of_names(row: dict[str, float]) -> LogProbs:
    """Return the log-probs by id: vLLM names a token `token_id:17`."""
    return {int(name.removeprefix("token_id:")): float(value) for name, value in row.items()}


def _aligned(ids: Sequence[int], entries: Sequence[dict[str, Any]]) -> list[LogProbs | None]:
    """Return llama.cpp's entries beside the tokens that they belong to.

    From the end: of equal tokens it is the last that completes a character.
    """
    log_probs: list[LogProbs | None] = [None] * len(ids)
    left = list(entries)
    for position in range(len(ids) - 1, -1, -1):
        if left and left[-1]["id"] == ids[position]:
            told = left.pop()
            rivals = {int(e["id"]): float(e["logprob"]) for e in told["top_logprobs"]}
            # its own, where it is not among the likeliest
            own = {} if told.get("logprob") is None else {told["id"]: float(told["logprob"])}
            log_probs[position] = own | rivals
    if left:
        raise ValueError(
            f"log-probs of token {left[-1]['id']}, which is not among the tokens there"
        )
    return log_probs


def _sampling_fields(sampling: Sampling) -> dict[str, Any]:
    """Return the fields of how tokens are drawn; what is off is not sent."""
    values: dict[str, Any] = {"temperature": sampling.temperature}
    if sampling.top_p < 1:
        values["top_p"] = sampling.top_p
    if sampling.top_k:
        values["top_k"] = sampling.top_k
    return values


def token_counts(reply: Any) -> tuple[int, int]:
    """Return (prompt tokens, answer tokens) that the server counted; 0 where it does not say.

    `reply` is any JSON: what is paid for is counted, whatever else is wrong with the answer.
    """
    if not isinstance(reply, dict):
        return 0, 0
    counts = reply.get("usage")
    if not isinstance(counts, dict):
        counts = {
            "prompt_tokens": reply.get("tokens_evaluated"),
            "completion_tokens": reply.get("tokens_predicted"),
        }
    return _count(counts.get("prompt_tokens")), _count(counts.get("completion_tokens"))


def _count(value: Any) -> int:
    """Return a number of tokens; 0 for what can be none."""
    if not isinstance(value, int | float) or not 0 <= value <= MOST_TOKENS:
        return 0
    return int(value)


def _hidden_reasoning(reply: dict[str, Any]) -> int:
    """Return the tokens of reasoning that were counted, if not shown."""
    usage = reply.get("usage")
    details = usage.get("completion_tokens_details") if isinstance(usage, dict) else None
    return _count(details.get("reasoning_tokens")) if isinstance(details, dict) else 0


def _reason(reason: Any) -> str:
    if not reason:
        return UNKNOWN_REASON
    if not isinstance(reason, str) or len(reason) > LONGEST_REASON or not reason.isprintable():
        raise ValueError("a finish reason that is no word")
    return "stop" if reason == "eos" else reason


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"a text that is a {type(value).__name__}")
    return value


def _are_ids(ids: Any) -> bool:
    return isinstance(ids, list) and all(type(i) is int and 0 <= i <= LARGEST_ID for i in ids)
