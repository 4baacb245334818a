"""Placeholders hide what looks like personal data, and bring it back."""

from distill.privacy.placeholders import Placeholders

MESSAGES = [
    {"role": "system", "content": "Replies go to ann@example.org."},
    {"role": "user", "content": "Tell ann@example.org and bob@example.org to call 0722 123456."},
]


def test_a_string_has_one_placeholder_wherever_it_stands():
    placeholders = Placeholders(("KE",))
    redacted = placeholders.redact(MESSAGES)
    assert [message["content"] for message in redacted] == [
        "Replies go to [EMAIL_1].",
        "Tell [EMAIL_1] and [EMAIL_2] to call [PHONE_1].",
    ]
    assert placeholders.num == 3
    assert [message["role"] for message in redacted] == ["system", "user"]


def test_the_strings_come_back_also_where_the_brackets_are_lost():
    placeholders = Placeholders(("KE",))
    placeholders.redact(MESSAGES)
    answer = "Dear EMAIL_2, call [PHONE_1]. [EMAIL_9] and [PHONE_12345678901234567890] are nobody."
    assert placeholders.restore(answer) == (
        "Dear bob@example.org, call 0722 123456. "
        "[EMAIL_9] and [PHONE_12345678901234567890] are nobody."
    )


def test_a_placeholder_that_somebody_wrote_is_not_taken_for_ours():
    placeholders = Placeholders(())
    redacted = placeholders.redact([{"role": "user", "content": "[EMAIL_1] is a@b.co"}])
    assert redacted[0]["content"] == "[EMAIL_1] is [EMAIL_2]"
    assert placeholders.restore("[EMAIL_1] [EMAIL_2]") == "[EMAIL_1] a@b.co"


def test_what_holds_nothing_personal_stays_as_it_is():
    placeholders = Placeholders(("KE",))
    messages = [{"role": "user", "content": "How much are 3 apples at 20 shillings?"}]
    assert placeholders.redact(messages) == messages and placeholders.num == 0
