"""Values on their way between program and tests."""

import json
import random
import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.tasks.box.wire import decode, encode

plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
    | st.complex_numbers(allow_nan=False, allow_infinity=False)
    | st.fractions()
    | st.decimals(allow_nan=False)
    | st.dates()
    | st.datetimes().map(lambda moment: moment.replace(fold=0))
    | st.timedeltas(),
    lambda values: (
        st.lists(values)
        | st.lists(values).map(tuple)
        | st.dictionaries(st.text() | st.integers(), values)
    ),
    max_leaves=6,
)


def refuse(value):
    raise TypeError(value)


@settings(max_examples=60)
@given(plain)
def test_data_comes_back_as_it_was_with_its_types(value):
    found = decode(json.loads(json.dumps(encode(value, refuse))), refuse)
    assert found == value and repr(found) == repr(value)


def test_what_is_no_data_never_goes_as_data():
    class Number(int):
        pass

    class Items(list):
        pass

    for value in (Number(3), Items(), object(), len, refuse, Number, json):
        with pytest.raises(TypeError):
            encode([value], refuse)


def test_no_message_makes_anything_but_data():
    """Decode messages of a seed: names of all kinds, of every shape."""
    rng = random.Random(14)
    names = ["list", "dict", "type", "array", "namedtuple", "slice", "range", "int", "Fraction"]
    names += ["eval", "exec", "__import__", "open", "object", "Counter", "bytes", "complex"]
    contents = [1, "x", [], [1], ["a", ["b"]], "eval", "print", None, [["a", "b"]], "object"]
    for _ in range(500):
        message = [rng.choice(names), rng.choice(contents)]
        if rng.random() < 0.5:
            message = ["list", [message, rng.choice(string.ascii_letters)]]
        try:
            found = decode(message, refuse)
        except Exception:  # refused: the tests then fail
            continue
        assert not callable(found) or isinstance(found, type)
