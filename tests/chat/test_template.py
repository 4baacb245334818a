"""Chat templates, thinking, stop tokens, and the proof that two tokenizers are one."""

import json

import pytest
from chat_helpers import CHATML, SPECIAL, build
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from distill import chat
from distill.errors import DataError, MismatchError, MissingError


@pytest.fixture(scope="module")
def tokenizer():
    return build()


def test_a_prompt_is_rendered_up_to_where_the_answer_begins(tokenizer):
    ids = chat.prompt_ids(tokenizer, "How many?", system_prompt="Be brief.")
    assert all(type(i) is int for i in ids)
    assert tokenizer.decode(ids) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHow many?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert ids == chat.prompt_ids(
        tokenizer,
        [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "How many?"}],
    )


def test_the_text_of_a_prompt_is_that_of_its_ids(tokenizer):
    messages = [{"role": "user", "content": "How many?"}]
    for enable_thinking in (None, True, False):
        text = chat.prompt_text(tokenizer, messages, enable_thinking=enable_thinking)
        assert tokenizer(text).input_ids == chat.prompt_ids(
            tokenizer, messages, enable_thinking=enable_thinking
        )
    assert (
        chat.prompt_text(tokenizer, messages, begin_answer=False)
        == "<|im_start|>user\nHow many?<|im_end|>\n"
    )


def test_thinking_reaches_the_template_only_when_it_is_said(tokenizer):
    assert tokenizer.decode(chat.prompt_ids(tokenizer, "hi", enable_thinking=False)).endswith(
        "<think>\n\n</think>\n\n"
    )
    assert tokenizer.decode(chat.prompt_ids(tokenizer, "hi", enable_thinking=None)).endswith(
        "assistant\n"
    )


def test_a_thinking_switch_that_the_template_would_ignore_is_refused():
    plain = build(template="{{ messages[0].content }}")
    with pytest.raises(MismatchError, match=r"generate\.enable_thinking is false.*null"):
        chat.prompt_ids(plain, "hi", enable_thinking=False)


def test_two_system_messages_and_a_missing_template_are_refused(tokenizer):
    with pytest.raises(DataError, match=r"generate\.system_prompt"):
        chat.prompt_ids(
            tokenizer,
            [{"role": "system", "content": "A"}, {"role": "user", "content": "B"}],
            system_prompt="C",
        )
    with pytest.raises(MissingError, match="no chat template"):
        chat.prompt_ids(build(template=None), "hi")


def test_a_template_that_refuses_a_role_is_reported_in_one_line():
    strict = build(
        template="{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}x"
    )
    with pytest.raises(MismatchError, match=r"roles system, user: System role not supported"):
        chat.prompt_ids(strict, "hi", system_prompt="no")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("42", (None, "42", True)),
        ("3 + 4 is 7\n</think>\n\n42", ("3 + 4 is 7", "42", True)),
        ("<think>\n3 + 4\n</think>\n\n42", ("3 + 4", "42", True)),
        ("<think>\n\n</think>\n\n42", (None, "42", True)),
        ("a</think>b</think>c", ("a</think>b", "c", True)),
        ("<think>\nstill going", ("still going", "", False)),
        ("<think>a</think>b<think>c", ("abc", "", False)),
        ("</think>", (None, "", True)),
    ],
)
def test_reasoning_ends_at_the_last_closing_tag(text, expected):
    assert chat.split_thinking(text) == expected


def test_an_answer_that_the_template_opened_is_cut_if_it_never_closes(tokenizer):
    opened = tokenizer.encode("<|im_start|>assistant\n<think>\n")
    assert chat.opens_thinking(tokenizer, opened)
    assert not chat.opens_thinking(
        tokenizer, chat.prompt_ids(tokenizer, "hi", enable_thinking=False)
    )
    assert not chat.opens_thinking(tokenizer, chat.prompt_ids(tokenizer, "hi"))
    assert chat.split_thinking("I wonder", opened=True) == ("I wonder", "", False)
    assert chat.split_thinking("I wonder</think>42", opened=True) == ("I wonder", "42", True)


def test_stop_tokens_are_the_configs_the_tokenizers_and_the_templates(tokenizer):
    end_of_text, _, end_of_turn = (tokenizer.convert_tokens_to_ids(token) for token in SPECIAL)
    assert chat.stop_ids(tokenizer, None) == sorted([end_of_text, end_of_turn])
    assert chat.stop_ids(tokenizer, [7, end_of_text]) == sorted([7, end_of_text, end_of_turn])
    assert chat.stop_ids(build(template=None), 7) == sorted([7, end_of_text])
    bare = build(template=None)
    bare.eos_token = None
    with pytest.raises(MismatchError, match="no end-of-answer token"):
        chat.stop_ids(bare, None)


def test_the_fingerprint_ignores_padding_truncation_and_the_order_of_the_file(tokenizer, tmp_path):
    before = chat.fingerprint_of_tokenizer(tokenizer)
    tokenizer.save_pretrained(tmp_path)
    file = tmp_path / "tokenizer.json"
    parts = json.loads(file.read_text(encoding="utf-8"))
    parts["model"]["vocab"] = dict(sorted(parts["model"]["vocab"].items(), reverse=True))
    parts["model"]["merges"] = [
        " ".join(merge) if isinstance(merge, list) else merge for merge in parts["model"]["merges"]
    ]
    file.write_text(json.dumps(dict(reversed(parts.items()))), encoding="utf-8")
    shuffled = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    shuffled(["a", "b c d"], padding="max_length", max_length=5, truncation=True)
    assert chat.fingerprint_of_tokenizer(shuffled) == before
    assert chat.same_tokenizer(tokenizer, shuffled) is None


def test_the_fingerprint_changes_with_merges_added_tokens_and_normalisation(tokenizer):
    before = chat.fingerprint_of_tokenizer(tokenizer)
    more = build()
    more.add_tokens(["<extra>"])
    other_merges = build(["only one short text with a few words"], vocab_size=300)
    lower = build()
    parts = json.loads(lower.backend_tokenizer.to_str()) | {"normalizer": {"type": "Lowercase"}}
    lower = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(parts)))
    assert (
        len({before, *(chat.fingerprint_of_tokenizer(t) for t in (more, other_merges, lower))}) == 4
    )


def test_the_template_has_a_fingerprint_of_its_own(tokenizer):
    other = build(template=CHATML + " ")
    assert chat.fingerprint_of_template(build()) == chat.fingerprint_of_template(tokenizer)
    assert chat.fingerprint_of_template(other) != chat.fingerprint_of_template(tokenizer)
    assert chat.fingerprint_of_tokenizer(other) == chat.fingerprint_of_tokenizer(tokenizer)


def test_different_tokenizers_are_told_apart_by_their_first_difference(tokenizer):
    longer = build()
    longer.add_tokens(["<extra>"])
    difference = chat.same_tokenizer(tokenizer, longer)
    assert difference == f"vocabulary of {len(tokenizer)} and of {len(longer)} tokens"

    def changed(**changes):
        parts = json.loads(build().backend_tokenizer.to_str())
        vocab = parts["model"]["vocab"]
        if "swap" in changes:
            a, b = changes["swap"]
            vocab[a], vocab[b] = vocab[b], vocab[a]
        parts |= {k: v for k, v in changes.items() if k != "swap"}
        return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(parts)))

    id_of_a = tokenizer.get_vocab()["a"]
    assert f"token 'a' has id {id_of_a} in one" in (
        chat.same_tokenizer(tokenizer, changed(swap=("a", "b"))) or ""
    )
    difference = chat.same_tokenizer(tokenizer, changed(normalizer={"type": "Lowercase"}))
    assert difference is not None and difference.startswith(
        "probe 'en' is encoded differently (from token 0)"
    )


def test_probes_hold_every_language_and_what_tokenizers_disagree_on():
    for language in [
        "en",
        "zh",
        "sw",
        "id",
        "hi",
        "bn",
        "th",
        "ta",
        "am",
        "ha",
        "yo",
        "vi",
        "ar",
        "fr",
        "es",
        "pt",
        "my",
    ]:
        assert chat.PROBES[language]
    everything = "".join(chat.PROBES.values())
    for piece in (
        "👍🏽",
        "\u200b",
        "\r\n",
        "  ",
        "<|im_end|>",
        "\ufffd",
        "é",
        "e\u0301",
        "１２３",
        "42",
    ):
        assert piece in everything
