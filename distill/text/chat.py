"""Prompts as token ids, answers as reasoning and text, and the proof that two tokenizers are the same.

The one place that applies a chat template. A tokenizer is passed in; nothing here imports transformers.
"""

import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from distill.errors import DataError, MismatchError, MissingError
from distill.recipe import Recipe
from distill.rows import canonical_json, digest

Messages = Sequence[Mapping[str, str]]

# Templates call their switch by one of these names: Qwen, GLM and MiniCPM by the first, DeepSeek V3.1 and Kimi K2.5 by the second
SWITCHES = ("enable_thinking", "thinking")
# Llama 3.1 and gpt-oss write today's date into every prompt: then the same recipe would ask another question tomorrow
PROMPT_DATE = datetime(2026, 1, 1)
_CLOCK = re.compile(r"""strftime_now\(\s*(['"])(.*?)\1\s*\)""")
THINK_TAGS = ("<think>", "</think>")
CHANNEL_TAGS = (
    "<|start|>",
    "<|channel|>",
    "<|message|>",
    "<|end|>",
)  # gpt-oss: reasoning and answer are two messages

# Articles 1 of the Universal Declaration of Human Rights, or plain sentences; then what tokenizers disagree on.
PROBES: dict[str, str] = {
    "en": "All human beings are born free and equal in dignity and rights. They're endowed with reason, aren't they?",
    "zh": "人人生而自由，在尊严和权利上一律平等。他们赋有理性和良心。",
    "zh-Hant": "人人生而自由，在尊嚴和權利上一律平等。",
    "sw": "Watu wote wamezaliwa huru, hadhi na haki zao ni sawa. Ng'ombe wangapi?",
    "id": "Semua orang dilahirkan merdeka dan mempunyai martabat dan hak-hak yang sama.",
    "hi": "सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता और समानता प्राप्त है। १२३",
    "ne": "सबै व्यक्तिहरू जन्मजात स्वतन्त्र हुन्।",
    "bn": "সমস্ত মানুষ স্বাধীনভাবে সমান মর্যাদা এবং অধিকার নিয়ে জন্মগ্রহণ করে। ৭৮",
    "th": "มนุษย์ทั้งหลายเกิดมามีอิสระและเสมอภาคกันในเกียรติศักดิ์และสิทธิ ๔๕",
    "ta": "மனிதப் பிறிவியினர் சகலரும் சுதந்திரமாகவே பிறக்கின்றனர்.",
    "am": "የሰው ልጅ ሁሉ ሲወለድ ነጻና በክብርና በመብትም እኩልነት ያለው ነው።",
    "ha": "Su dai ƴan Adam, ana haifuwarsu ne duka ƴantattu, ɓarawo, ɗalibi da ƙasa.",
    "yo": "Gbogbo ènìyàn ni a bí ní òmìnira; iyì àti ẹ̀tọ́ kọ̀ọ̀kan sì dọ́gba.",
    "ig": "A mụrụ mmadụ nile n'ohere nakwa nha anya ugwu na ikike.",
    "vi": "Tất cả mọi người sinh ra đều được tự do và bình đẳng về nhân phẩm và quyền lợi.",
    "ar": "يولد جميع الناس أحرارًا متساوين في الكرامة والحقوق. ٠١٢",
    "ur": "تمام انسان آزاد اور حقوق و عزت کے اعتبار سے برابر پیدا ہوئے ہیں۔",
    "fa": "تمام افراد بشر آزاد به دنیا می‌آیند.",
    "fr": "Tous les êtres humains naissent libres et égaux en dignité et en droits. C'est l'œuvre d'où ?",
    "es": "Todos los seres humanos nacen libres e iguales. ¿Cuántos niños? ¡Muchos!",
    "pt": "Todos os seres humanos nascem livres e iguais em dignidade e em direitos. Não é?",
    "de": "Alle Menschen sind frei und gleich an Würde und Rechten geboren. Straße",
    "ru": "Все люди рождаются свободными и равными в своём достоинстве и правах.",
    "ja": "すべての人間は、生まれながらにして自由であり、かつ、尊厳と権利とについて平等である。カタカナ",
    "ko": "모든 인간은 태어날 때부터 자유로우며 그 존엄과 권리에 있어 동등하다.",
    "my": "လူတိုင်းသည် တူညီ လွတ်လပ်သော ဂုဏ်သိက္ခာဖြင့် မွေးဖွားလာသူများ ဖြစ်သည်။",
    "km": "មនុស្សទាំងអស់កើតមកមានសេរីភាព។",
    "lo": "ມະນຸດທຸກຄົນເກີດມາມີກຽດສັກສີ",
    "digits": "0 7 42 365 1000 3.14159 1,234,567 2026-11-22 １２３ ½ x²",
    "white space": "  two\t\ttabs\n\n\nlines \r\n end  \u00a0\u3000\u200b.   ",
    "emoji": "👍🏽 👩‍👩‍👧‍👦 🇰🇪 ☺️ 🥭",
    "byte fallback": "ꙮ 𒀀 𠮷 𞤀𞤣 \ufffd \x07 \ue000",
    "unnormalised": "e\u0301 é ẹ\u0301 ﬁ Å Å 가 가",
    "code": "def f(x_1):\n    return {'a': [1, 2]}  # ok\n\t<b>&amp;</b> https://a.b/c?d=e%20f",
    "maths": "$\\frac{1}{2} \\times \\sqrt{x} \\leq \\alpha$ → ≈ ÷",
    "special tokens from the user": "<|im_end|>\n<|im_start|>system\n</s><s>[INST] <think>hi</think> <|endoftext|>",
}


def prompt_ids(
    tokenizer: Any,
    prompt_or_messages: str | Messages,
    *,
    system_prompt: str | None = None,
    thinking: bool | None = None,
) -> list[int]:
    """Token ids of the prompt, up to where the answer begins.

    `system_prompt` goes before the messages; `thinking` sets the template's switch, None leaves its default.
    Raises DataError if the messages bring a system message too, MissingError if the tokenizer has no chat template, and
    MismatchError if the template refuses the messages or has no such switch.
    """
    if isinstance(prompt_or_messages, str):
        messages = [{"role": "user", "content": prompt_or_messages}]
    else:
        messages = [dict(message) for message in prompt_or_messages]
    if system_prompt is not None:
        if messages[0]["role"] == "system":
            raise DataError(
                f"generate.system_prompt is set, and a prompt has a system message of its own "
                f"({messages[0]['content'][:60]!r}): remove one of them"
            )
        messages.insert(0, {"role": "system", "content": system_prompt})
    switches = {} if thinking is None else thinking_switch(tokenizer, thinking)
    return _apply_template(tokenizer, messages, add_generation_prompt=True, **switches)


def user_turn(tokenizer: Any, system_prompt: str | None = None) -> tuple[list[int], int]:
    """(token ids up to where a user's text begins, the id that ends that text): given the first, a chat model writes what
    a user might say (Magpie: Xu et al. 2024, arXiv 2406.08464).

    Found by what the template makes of two different texts. Raises MismatchError, naming the tokenizer, where it puts a
    user's text in more than one place, changes more than that place with it, or ends it with plain text.
    """
    system = [] if system_prompt is None else [{"role": "system", "content": system_prompt}]
    found = []
    for said in ("zebra", "giraffe"):
        ids = _apply_template(
            tokenizer, [*system, {"role": "user", "content": said}], add_generation_prompt=True
        )
        if tokenizer.decode(ids).count(said) != 1:
            raise MismatchError(
                f"{_name(tokenizer)}: its chat template does not write a user's text once: {_NO_MAGPIE}"
            )
        start = max(i for i in range(len(ids)) if said in tokenizer.decode(ids[i:]))
        end = min(i for i in range(len(ids) + 1) if said in tokenizer.decode(ids[:i]))
        found.append((ids[:start], ids[end:]))
    (before, after), other = found
    added = tokenizer.added_tokens_decoder
    place = next((i for i, token in enumerate(after) if token in added), None)
    if (before, after) != other or place is None or tokenizer.decode(after[:place]).strip():
        raise MismatchError(
            f"{_name(tokenizer)}: its chat template ends a user's text with {tokenizer.decode(after)[:40]!r}, no token to stop at: "
            f"{_NO_MAGPIE}"
        )
    return before, after[place]


_NO_MAGPIE = (
    "expand: magpie cannot be had from this teacher; take expand: self_instruct or personas"
)


def thinking_switch(tokenizer: Any, thinking: bool) -> dict[str, bool]:
    """The template's variable that turns thinking on or off, as it is passed to it: {"enable_thinking": True}.

    Found by its effect on a prompt. Raises MismatchError where no name has one: the setting would be ignored.
    """
    for name in SWITCHES:
        if name in _template(tokenizer):
            hello = [{"role": "user", "content": "hi"}]
            on, off = (
                _apply_template(tokenizer, hello, add_generation_prompt=True, **{name: v})
                for v in (True, False)
            )
            if on != off:
                return {name: thinking}
    raise MismatchError(
        f"{_name(tokenizer)}: generate.thinking is {str(thinking).lower()}, but its chat template has no "
        f"{' and no '.join(SWITCHES)} that changes a prompt: set generate.thinking to null"
    )


def thinking_of(tokenizer: Any, thinking: bool | None) -> bool | None:
    """The same setting for a model that need not have the teacher's switch: None where its template has none."""
    if thinking is None:
        return None
    try:
        thinking_switch(tokenizer, thinking)
    except MismatchError:
        return None
    return thinking


def prompt_text(
    tokenizer: Any, messages: Messages, *, thinking: bool | None = None, begin_answer: bool = True
) -> str:
    """What the chat template writes for `messages`, as text; `begin_answer` adds what comes before the answer.

    Raises what `prompt_ids` raises.
    """
    switches = {} if thinking is None else thinking_switch(tokenizer, thinking)
    return _render(
        tokenizer, messages, tokenize=False, add_generation_prompt=begin_answer, **switches
    )


def _apply_template(tokenizer: Any, messages: Messages, **options: Any) -> list[int]:
    result = _render(tokenizer, messages, tokenize=True, **options)
    ids = (
        result["input_ids"]
        if isinstance(result, Mapping) or hasattr(result, "input_ids")
        else result
    )
    return [int(i) for i in ids]


def _render(tokenizer: Any, messages: Messages, **options: Any) -> Any:
    from jinja2 import TemplateError

    if "strftime_now(" in _template(tokenizer) and isinstance(tokenizer.chat_template, str):
        options["chat_template"] = dated(tokenizer.chat_template)
    try:
        return tokenizer.apply_chat_template(list(messages), **options)
    except TemplateError as error:
        roles = ", ".join(message["role"] for message in messages)
        raise MismatchError(
            f"{_name(tokenizer)}: its chat template refuses messages of roles {roles}: {error}"
        ) from None


def dated(template: str) -> str:
    """The template with PROMPT_DATE in place of its clock: what is passed to a template may be text only."""
    return _CLOCK.sub(lambda m: repr(PROMPT_DATE.strftime(m[2])), template)


def _template(tokenizer: Any) -> str:
    """The template's source; of several named ones all, as JSON."""
    template = getattr(tokenizer, "chat_template", None)
    if not template:
        raise MissingError(
            f"{_name(tokenizer)}: no chat template; take a chat model, or add chat_template.jinja to its folder"
        )
    return template if isinstance(template, str) else canonical_json(template)


def _name(tokenizer: Any) -> str:
    return f"tokenizer {getattr(tokenizer, 'name_or_path', '') or type(tokenizer).__name__}"


def opens_thinking(tokenizer: Any, ids: Sequence[int]) -> bool:
    """Whether the prompt ends inside `<think>`, so that the answer's text will bring only the closing tag."""
    end = tokenizer.decode(list(ids[-16:]))
    return end.rfind("<think>") > end.rfind("</think>")


def text_of(tokenizer: Any, answer_ids: Sequence[int]) -> str:
    """The text of an answer without its special tokens, but with what marks its reasoning: some tokenizers count the
    tags as special, and gpt-oss has special tokens instead of tags."""
    kept = THINK_TAGS
    added = tokenizer.added_tokens_decoder
    if any(token.content == "<|channel|>" for token in added.values()):
        kept += CHANNEL_TAGS
    dropped = {i for i, token in added.items() if token.special and token.content not in kept}
    return tokenizer.decode([i for i in answer_ids if i not in dropped], skip_special_tokens=False)


def split_thinking(text: str, *, opened: bool = False) -> tuple[str | None, str, bool]:
    """(reasoning or None, answer, whether the reasoning was finished), cut at the last `</think>`.

    A closing tag without an opening one is normal: the template wrote the opening one. An opening tag that is never
    closed means that the answer was cut; so does no tag at all where the prompt opened the reasoning (`opened`), and so
    do gpt-oss's channels without a final one.
    """
    if text.startswith("<|channel|>"):
        return _split_channels(text)
    before, close, after = text.rpartition("</think>")
    if "<think>" in after:
        start, _, rest = after.partition("<think>")
        return _stripped(before.replace("<think>", "") + start + rest), "", False
    if close:
        return _stripped(before.replace("<think>", "", 1)), after.strip(), True
    if opened:
        return _stripped(text), "", False
    return None, text.strip(), True


def _split_channels(text: str) -> tuple[str | None, str, bool]:
    """The same for `<|channel|>analysis<|message|>..<|end|><|start|>assistant<|channel|>final<|message|>..`."""
    reasoning, answer = [], None
    for message in text.split("<|channel|>")[1:]:
        channel, _, content = message.partition("<|message|>")
        content = content.partition("<|end|>")[0]
        if channel.split(" ")[0].strip() == "final":
            answer = content.strip()
        else:
            reasoning.append(content.strip())
    return _stripped("\n\n".join(reasoning)), answer or "", answer is not None


def learnt_ids(
    recipe: Recipe,
    tokenizer: Any,
    messages: Messages,
    prompt_ids: Sequence[int],
    answer_ids: Sequence[int],
) -> list[int]:
    """What a student learns of the teacher's answer: all of it, or by `generate.think: drop` what is not reasoning."""
    if recipe.generate.think != "drop":
        return list(answer_ids)
    options = recipe.generate
    return without_reasoning(
        tokenizer,
        messages,
        prompt_ids,
        answer_ids,
        system_prompt=options.system_prompt,
        thinking=options.thinking,
    )


def without_reasoning(
    tokenizer: Any,
    messages: Messages,
    prompt_ids: Sequence[int],
    answer_ids: Sequence[int],
    *,
    system_prompt: str | None = None,
    thinking: bool | None = None,
) -> list[int]:
    """The answer's ids as the template writes an answer without reasoning after this prompt: what a student reads that is
    not to think. Ends with the same token; an answer that has no reasoning comes back as it is.

    Some templates write an empty block then, which stays. Where the prompt itself opens the reasoning, the answer closes
    it at once. Raises MismatchError where the template writes another prompt before an answer than before its question.
    """
    text = text_of(tokenizer, answer_ids)
    reasoning, answer, _ = split_thinking(text, opened=opens_thinking(tokenizer, prompt_ids))
    if reasoning is None:
        return list(answer_ids)
    end = answer_ids[-1]
    if opens_thinking(tokenizer, prompt_ids):
        return [
            *tokenizer(
                "</think>" + text.rpartition("</think>")[2], add_special_tokens=False
            ).input_ids,
            end,
        ]
    system = [] if system_prompt is None else [{"role": "system", "content": system_prompt}]
    turns = [*system, *map(dict, messages), {"role": "assistant", "content": answer}]
    whole = _apply_template(
        tokenizer, turns, **({} if thinking is None else thinking_switch(tokenizer, thinking))
    )
    if whole[: len(prompt_ids)] != list(prompt_ids):
        raise MismatchError(
            f"{_name(tokenizer)}: its chat template writes another prompt before an answer than before its question, so an answer "
            "without reasoning cannot be told from it: set generate.think to keep or short"
        )
    rest = whole[len(prompt_ids) :]
    return [*(rest[: rest.index(end)] if end in rest else rest), end]


def retold(
    recipe: Recipe, tokenizer: Any, messages: Messages, reasoning: str | None, answer: str
) -> tuple[list[int], list[int]]:
    """(prompt ids, answer ids) of another model's answer in this tokenizer and by its chat template, with its end token: a
    student with a tokenizer of its own learns after the very prompt that it will be asked with."""
    options = recipe.generate
    thinking = thinking_of(tokenizer, options.thinking)
    before = prompt_ids(tokenizer, messages, system_prompt=options.system_prompt, thinking=thinking)
    system = (
        []
        if options.system_prompt is None
        else [{"role": "system", "content": options.system_prompt}]
    )
    turns = [*system, *map(dict, messages)]
    asked = prompt_text(tokenizer, turns, thinking=thinking)
    end = end_of_turn(tokenizer, stop_ids(tokenizer, None))
    if opens_thinking(tokenizer, before):
        written = f"{reasoning}\n</think>\n\n{answer}" if reasoning else f"</think>\n\n{answer}"
    elif reasoning:
        written = f"<think>\n{reasoning}\n</think>\n\n{answer}"
    else:  # some templates write an empty block, or a channel, before an answer
        whole = prompt_text(
            tokenizer,
            [*turns, {"role": "assistant", "content": answer}],
            thinking=thinking,
            begin_answer=False,
        )
        written = (
            whole.removeprefix(asked).partition(tokenizer.decode([end]))[0]
            if whole.startswith(asked)
            else ""
        )
        written = written.rstrip("\n") if answer in written else answer
    # in one piece with the prompt: SentencePiece would put a space before an answer that stands alone
    together = tokenizer(asked + written, add_special_tokens=False).input_ids
    is_whole = together[: len(before)] == before
    return before, [
        *(
            together[len(before) :]
            if is_whole
            else tokenizer(written, add_special_tokens=False).input_ids
        ),
        end,
    ]


def own_mark(tokenizer: Any, text: str) -> str | None:
    """A special token of this tokenizer that a text of another model holds: it would become that token, and could end the answer."""
    found = (
        t.content
        for t in tokenizer.added_tokens_decoder.values()
        if t.special and t.content not in THINK_TAGS
    )
    return next((content for content in found if content in text), None)


def _stripped(reasoning: str) -> str | None:
    return reasoning.strip() or None


def stop_ids(tokenizer: Any, generation_config_eos: int | Sequence[int] | None) -> list[int]:
    """Ids that end an answer, ascending: the generation config's, the tokenizer's, and what its chat template puts
    after an assistant's message (a base model's config often names only <|endoftext|>).

    Raises MismatchError if there is none: the model could never stop.
    """
    found: set[int] = set()
    if isinstance(generation_config_eos, int):
        found.add(generation_config_eos)
    elif generation_config_eos is not None:
        found.update(generation_config_eos)
    if tokenizer.eos_token_id is not None:
        found.add(tokenizer.eos_token_id)
    if getattr(tokenizer, "chat_template", None):
        found.update(_end_of_turn(tokenizer))
    if not found:
        raise MismatchError(
            f"{_name(tokenizer)}: no end-of-answer token; set eos_token in tokenizer_config.json"
        )
    return sorted(int(i) for i in found)


def end_of_turn(tokenizer: Any, stop_ids: Sequence[int]) -> int:
    """The id that ends an answer whose text came without one: the template's own, else the first of `stop_ids`."""
    found = _end_of_turn(tokenizer) if getattr(tokenizer, "chat_template", None) else []
    return found[0] if found else stop_ids[0]


def _end_of_turn(tokenizer: Any) -> list[int]:
    """The special token that the template writes right after an assistant's message, if it writes one."""
    said = "zebra"
    ids = _apply_template(
        tokenizer, [{"role": "user", "content": "hi"}, {"role": "assistant", "content": said}]
    )
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    tail: list[int] = []
    while ids and said not in tokenizer.decode(tail):
        tail.insert(0, ids.pop())
    return [i for i in tail if i in special][:1]


def fingerprint_of_template(tokenizer: Any) -> str:
    """32 hex characters over the chat template and the special tokens that it may write."""
    return digest(
        _template(tokenizer),
        canonical_json({k: str(v) for k, v in tokenizer.special_tokens_map.items()}),
    )


def fingerprint_of_format(tokenizer: Any) -> str:
    """The same over the ids of a text and the chat template, but not over what the special tokens are called."""
    return digest(fingerprint_of_tokenizer(tokenizer), _template(tokenizer))


def fingerprint_of_tokenizer(tokenizer: Any) -> str:
    """32 hex characters over all that decides the ids of a text: vocabulary, merges, added tokens, normalisation.

    Not over padding, truncation, the width of a model's embedding, or the order of entries in the file.
    """
    return digest(canonical_json(_canonical(tokenizer)))


def _canonical(tokenizer: Any) -> dict[str, Any]:
    if (
        getattr(tokenizer, "backend_tokenizer", None) is None
    ):  # not of the tokenizers library, e.g. tiktoken: by its effect
        probes = {
            name: tokenizer.encode(text, add_special_tokens=False) for name, text in PROBES.items()
        }
        return {"vocabulary": dict(tokenizer.get_vocab()), "probes": probes}
    parts = json.loads(tokenizer.backend_tokenizer.to_str())
    parts = {
        name: part
        for name, part in parts.items()
        if name not in ("padding", "truncation", "version")
    }
    parts["added_tokens"] = sorted(parts.get("added_tokens", []), key=lambda token: token["id"])
    merges = parts["model"].get("merges")
    if merges:  # written "a b" by old files, ["a", "b"] by new ones
        parts["model"]["merges"] = [
            merge.split(" ") if isinstance(merge, str) else merge for merge in merges
        ]
    return parts


def same_tokenizer(a: Any, b: Any, probes: Mapping[str, str] = PROBES) -> str | None:
    """None if both give the same ids, else a sentence naming the first difference. Compares the vocabularies, not the
    widths of embeddings, then how each probe text is encoded."""
    size_a, size_b = len(a), len(b)
    if size_a != size_b:
        return f"vocabulary of {size_a:,} and of {size_b:,} tokens"
    vocabulary_a, vocabulary_b = a.get_vocab(), b.get_vocab()
    if vocabulary_a != vocabulary_b:
        token = min(
            (t for t in vocabulary_a if vocabulary_b.get(t) != vocabulary_a[t]),
            key=vocabulary_a.__getitem__,
            default=None,
        )
        if token is None:
            token = min(vocabulary_b.keys() - vocabulary_a.keys())
        return f"token {token!r} has id {vocabulary_a.get(token)} in one, {vocabulary_b.get(token)} in the other"
    for name, text in probes.items():
        ids_a, ids_b = (t.encode(text, add_special_tokens=False) for t in (a, b))
        if ids_a != ids_b:
            place = next(
                (i for i, pair in enumerate(zip(ids_a, ids_b, strict=False)) if pair[0] != pair[1]),
                None,
            )
            at = (
                f"from token {place}"
                if place is not None
                else f"{len(ids_a)} tokens and {len(ids_b)}"
            )
            return f"probe {name!r} is encoded differently ({at}): {text[:40]!r}"
    return None


def require_same_tokenizer(recipe: Recipe, teacher: Any, student: Any) -> None:
    """Raise MismatchError, naming both models and the first difference, unless both give the same ids."""
    if difference := same_tokenizer(teacher, student):
        raise MismatchError(
            f"{recipe.source}: teacher {recipe.teacher.model!r} and student {recipe.student.model!r} have different "
            f"tokenizers ({difference}), and capture.signal {recipe.capture.signal} is about the teacher's tokens: take a student of the "
            "teacher's family, or student.method: random, or learn from its text alone: capture.signal=none train.soft_weight=0 "
            "train.hard_weight=1"
        )
