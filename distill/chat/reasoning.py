"""Tell the reasoning from the answer in what a model wrote.

Which marks a family writes round its answer is in the catalogue (catalog/teachers.yaml).
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from distill.catalog import catalog
from distill.chat.template import prompt_text
from distill.errors import DistillError

Marks = tuple[str, str]  # the opening one and the closing one
HELLO = {"role": "user", "content": "hi"}
ZEBRA = "zebra"  # a text that no template holds
THINK_TAGS = ("<think>", "</think>")
# gpt-oss: reasoning and answer are two messages
CHANNEL_TAGS = ("<|start|>", "<|channel|>", "<|message|>", "<|end|>")


def opens_thinking(tokenizer: Any, ids: Sequence[int]) -> bool:
    """Return whether the prompt ends inside `<think>`.

    Then the answer's text will bring only the closing tag.
    """
    end = tokenizer.decode(list(ids[-16:]))
    return end.rfind("<think>") > end.rfind("</think>")


def text_of(tokenizer: Any, answer_ids: Sequence[int]) -> str:
    """Return the text of an answer without its special tokens, but with what marks its reasoning.

    Some tokenizers count the tags as special, and gpt-oss has special tokens instead of tags.
    """
    dropped = dropped_tokens(tokenizer)
    return tokenizer.decode([i for i in answer_ids if i not in dropped], skip_special_tokens=False)


def dropped_tokens(tokenizer: Any) -> dict[int, str]:
    """Return the special tokens by id, but those that mark reasoning."""
    added = tokenizer.added_tokens_decoder
    kept = THINK_TAGS
    if any(token.content == "<|channel|>" for token in added.values()):
        kept += CHANNEL_TAGS
    return {
        i: token.content
        for i, token in added.items()
        if token.special and token.content not in kept
    }


def answer_marks(tokenizer: Any | None, model: str | None = None) -> tuple[Marks, ...]:
    """Return the pairs of marks that the model may write round its answer: <response>, </response>.

    A family is known by what its chat template does with answers of before: it writes the marks
    round them, or takes them off. Where there is none (tokenizer None), by the model's name in the
    catalogue.
    """
    template = getattr(tokenizer, "chat_template", None)
    if template:
        text = str(template)
        pairs = (pair for pair in catalog.answer_marks() if all(mark in text for mark in pair))
        return tuple(pair for pair in pairs if _marks_answers(tokenizer, text, pair))
    facts = None if model is None else catalog.find(model)
    known = None if facts is None else catalog.template(facts)
    return () if known is None or known.answer is None else (known.answer,)


@lru_cache(maxsize=16)
def _marks_answers(tokenizer: Any, template: str, marks: Marks) -> bool:
    """Return whether the template writes these marks round an answer, or takes them off.

    MiniMax-M2's has <response> for what tools gave, and does neither. `template` is the tokenizer's.
    """
    plain, marked = ZEBRA, f"{marks[0]}\n{ZEBRA}\n{marks[1]}"
    try:
        written, kept = (
            prompt_text(tokenizer, [HELLO, {"role": "assistant", "content": answer}, HELLO])
            for answer in (plain, marked)
        )
    except DistillError:
        return False
    return marks[0] in written.partition(ZEBRA)[0] or marks[0] not in kept


def split_thinking(
    text: str, *, opened: bool = False, marks: Sequence[Marks] = ()
) -> tuple[str | None, str, bool]:
    """Return (reasoning or None, answer, whether both were finished).

    `marks`: the pairs that may stand round the answer (`answer_marks`). They are no part of it; one
    that does not close, or is elsewhere, means that the answer is not a whole one.

    The text is cut at the last `</think>`. A closing tag without an opening one is normal: the
    template wrote the opening one. An opening tag that is never closed means that the answer was
    cut; so does no tag at all where the prompt opened the reasoning (`opened`), and so do gpt-oss's
    channels without a final one.
    """
    if text.startswith("<|channel|>"):
        return _split_channels(text)
    before, close, after = text.rpartition("</think>")
    if "<think>" in after:
        start, _, rest = after.partition("<think>")
        return _stripped(before.replace("<think>", "") + start + rest), "", False
    if close:
        return _stripped(before.replace("<think>", "", 1)), *_unmarked(after, marks)
    if opened:
        return _stripped(text), "", False
    return None, *_unmarked(text, marks)


def _unmarked(text: str, marks: Sequence[Marks]) -> tuple[str, bool]:
    """Return (the answer without the marks round it, whether it is a whole one)."""
    answer = text.strip()
    for opening, closing in marks:
        if opening not in answer and closing not in answer:
            continue
        if not answer.startswith(opening) or not answer.endswith(closing):
            return answer, False
        return answer.removeprefix(opening).removesuffix(closing).strip(), True
    return answer, True


def _split_channels(text: str) -> tuple[str | None, str, bool]:
    """Return the same for gpt-oss's messages.

    `<|channel|>analysis<|message|>..<|end|><|start|>assistant<|channel|>final<|message|>..`
    """
    reasoning: list[str] = []
    answer = None
    for message in text.split("<|channel|>")[1:]:
        channel, _, content = message.partition("<|message|>")
        content = content.partition("<|end|>")[0].strip()
        if channel.split(" ")[0].strip() == "final":
            answer = content
        else:
            reasoning.append(content)
    return _stripped("\n\n".join(reasoning)), answer or "", answer is not None


def _stripped(reasoning: str) -> str | None:
    return reasoning.strip() or None
