"""The key never shows, in whatever form a server gives it back."""

import base64
import html
import json
import string
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.teachers.server.key import KeyMask

KEY = 'sk-A/b+c="d%7&é<'.replace("é", "_") + "0123"
PRINTABLE = string.ascii_letters + string.digits + string.punctuation
keys = st.text(PRINTABLE, min_size=8, max_size=40)
FORMS = {
    "as it is": lambda key: key,
    "percent-coded": lambda key: quote(key, safe=""),
    "percent-coded in small letters": lambda key: quote(key, safe="").lower(),
    "percent-coded twice": lambda key: quote(quote(key, safe=""), safe=""),
    "of a form": quote_plus,
    "in JSON": lambda key: json.dumps(key)[1:-1],
    "in JSON in JSON": lambda key: json.dumps(json.dumps(key)),
    "all escaped": lambda key: "".join(f"\\u{ord(c):04X}" for c in key),
    "with escaped slashes": lambda key: json.dumps(key)[1:-1].replace("/", r"\/"),
    "in HTML": html.escape,
    "in HTML by numbers": lambda key: "".join(f"&#x{ord(c):x};" for c in key),
    "in base64": lambda key: base64.b64encode(key.encode()).decode(),
    "in base64 of URLs": lambda key: base64.urlsafe_b64encode(key.encode()).decode(),
    "with its name in base64": lambda key: base64.b64encode(f"Bearer {key}!".encode()).decode(),
    "as a password in base64": lambda key: base64.b64encode(f"me:{key}".encode()).decode(),
    "in base64 in an address": lambda key: quote(base64.b64encode(key.encode()).decode(), safe=""),
}


@pytest.mark.parametrize("form", FORMS)
def test_no_form_of_the_key_is_left(form):
    @settings(max_examples=20, deadline=None)
    @given(keys)
    def law(key):
        if form.endswith("small letters"):  # the key's own letters are not those then
            key = key.lower()
        given_back = FORMS[form](key)
        masked = KeyMask(key).mask(f"you said <{given_back}>, no?")
        assert masked.startswith("you said <") and masked.endswith(">, no?") and "***" in masked
        left = masked.removeprefix("you said <").removesuffix(">, no?").replace("***", "")
        assert len(left) <= 14 and key not in masked, "at most what stands around it"

    law()


def test_a_text_without_the_key_stays_as_it_is():
    text = json.dumps({"error": "no such model: sk-other-key", "n": 12}) * 50
    assert KeyMask(KEY).mask(text) == text and KeyMask(None).mask(text) == text


@pytest.mark.parametrize("length", [0, 5, 190, 1000, 1015, 5000])
def test_the_start_of_a_text_holds_no_part_of_a_key(length):
    """However many of them stand before its end."""
    for text in (KEY * 3000, "x" * 990 + KEY + "y" * 9000, quote(KEY, safe="") * 500):
        start = KeyMask(KEY).start_of(text, length)
        assert len(start) <= length and KEY[:4] not in start and quote(KEY)[:9] not in start
    assert KeyMask(KEY).start_of("x" * 9000, length) == "x" * length


def test_what_is_no_secret_may_stand_in_an_answer():
    """Servers without keys are given a word, which an answer may hold by chance."""
    assert not KeyMask("EMPTY").is_in("EMPTY is a word") and KeyMask("EMPTY").mask("EMPTY") == "***"
    assert KeyMask(KEY).is_in(f"it is {KEY}") and not KeyMask(KEY).is_in("it is a secret")
    assert not KeyMask(None).is_in("")
