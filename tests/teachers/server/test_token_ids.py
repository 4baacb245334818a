"""Token ids and text of what a server gave."""

from families import BY_NAME, tokenizer_of

from distill.teachers.requests import Completion
from distill.teachers.server.token_ids import cut_at_stop, other_vocabulary


def test_what_a_server_wrote_after_the_end_is_cut():
    """llama.cpp stops at its model's own ends only; magpie also ends where the template begins the assistant's turn."""
    cut = cut_at_stop(Completion("ab c", "length", [5, 6, 9, 7, 2]), (2, 9))
    assert (cut.token_ids, cut.finish_reason) == ([5, 6, 9], "stop")
    for whole in (Completion("a", "length", [5, 6]), Completion("a", "stop", [5, 2])):
        assert cut_at_stop(whole, (2, 9)) == whole


def test_ids_agree_with_the_text_or_they_do_not():
    tokenizer = tokenizer_of(BY_NAME["qwen3"])
    for text in ("They are seven apples.", "人人生而自由", "<think>\n", "👍🏽 yes", ""):
        ids = tokenizer(text, add_special_tokens=False).input_ids
        assert (
            other_vocabulary(tokenizer, Completion(text, "stop", [*ids, tokenizer.eos_token_id]))
            is None
        )
        assert (
            other_vocabulary(
                tokenizer,
                Completion(text + tokenizer.eos_token, "stop", [*ids, tokenizer.eos_token_id]),
            )
            is None
        )
    ids = tokenizer("👍🏽 yes", add_special_tokens=False).input_ids[:1]
    assert other_vocabulary(tokenizer, Completion("", "length", ids)) is None, (
        "half a character is held back"
    )
    ids = tokenizer("They are seven apples.", add_special_tokens=False).input_ids
    wrong = other_vocabulary(
        tokenizer, Completion("They are seven apples.", "stop", [i + 5 for i in ids])
    )
    assert wrong is not None and "They are seven apples." in wrong
