"""The chunks tile the bytes exactly, for 20,000 random texts in 12 scripts and six pairs of tokenizers."""

import os
import random
import re
from itertools import accumulate

import pytest
from chunk_helpers import byte_level_tokenizer, random_text
from format_helpers import TEACHER, train_tokenizer
from shaping_helpers import made as tokenizer_of_kind
from trimmed_helpers import trimmed_by_hand

from distill import chat
from distill.chat.byte_chunks import align, common_parts
from distill.chat.token_bytes import TokenBytes
from distill.errors import MismatchError
from distill.models import load
from distill.signals.alignment import CHUNK, END, LEFT_OUT, SPLIT_DIGITS

NUM_TEXTS = 20_000
PAIRS = (
    ("quickstart", "bytes"),
    ("smollm2", "quickstart"),
    ("qwen", "smollm2"),
    ("smollm2", "trimmed"),
    ("qwen", "sentencepiece"),
    ("sentencepiece", "bytes"),
)


@pytest.fixture(scope="module")
def texts():
    draw = random.Random(16)
    return [random_text(draw) for _ in range(NUM_TEXTS)]


@pytest.fixture(scope="module")
def encoded(request, texts, tmp_path_factory):
    """Return a function from a tokenizer's name to (its TokenBytes, the ids of all texts); each is made once."""
    made = {}

    def make(name):
        if name == "quickstart":
            return load.load_tokenizer(str(TEACHER))
        if name == "bytes":
            return byte_level_tokenizer()
        if name == "sentencepiece":
            return train_tokenizer("sentencepiece")
        if name == "qwen":
            folder = request.getfixturevalue("qwen_tokenizer")
            return load.load_tokenizer(str(folder)) if folder else pytest.skip("no Qwen tokenizer")
        folder = request.getfixturevalue("smollm2")
        if name == "smollm2":
            return load.load_tokenizer(str(folder))
        return trimmed_by_hand(folder, tmp_path_factory.mktemp("trimmed") / "t", 3000).tokenizer

    def encode(name):
        if name not in made:
            tokenizer = make(name)
            table = TokenBytes.of(tokenizer, chat.stop_ids(tokenizer, None))
            batch = tokenizer.backend_tokenizer.encode_batch(texts, add_special_tokens=False)
            made[name] = table, [encoding.ids for encoding in batch]
        return made[name]

    return encode


@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
def test_the_chunks_tile_the_bytes_exactly(pair, texts, encoded):
    """Every sixth text for each pair: all 20,000 for each take a minute, and hold too (ALL_TEXTS=1)."""
    (teacher, teachers_ids), (student, students_ids) = map(encoded, pair)
    inner, numbers = 0, 0
    step = 1 if "ALL_TEXTS" in os.environ else len(PAIRS)
    chosen = range(PAIRS.index(pair) % step, len(texts), step)
    for number in chosen:
        text, ids, others = texts[number], teachers_ids[number], students_ids[number]
        a, b = [teacher.by_id[i] for i in ids], [student.by_id[i] for i in others]
        written = text.encode()
        assert b"".join(a) == b"".join(b) == written
        segments = align(a, b).segments()
        assert all(kind != LEFT_OUT and m and n for m, n, kind in segments)
        ends = check_cuts(a, b, segments)
        assert ends[-1:] == [len(written)] or not written
        # maximal: there is no other boundary that both have
        assert set(ends) == {*accumulate(map(len, a))} & {*accumulate(map(len, b))}
        inner += sum(m + n > 2 for m, n, _ in segments)
        numbers += sum(kind == SPLIT_DIGITS for *_, kind in segments)
    assert inner > len(chosen) / 10
    print(f"\n{pair}: {inner} chunks of several tokens, {numbers} with numbers split otherwise")


def check_cuts(a, b, segments):
    """Check that the segments hold all tokens in order, and those of a chunk the same bytes; return where they end."""
    i = j = at = 0
    ends = []
    for m, n, kind in segments:
        mine, others = b"".join(a[i : i + m]), b"".join(b[j : j + n])
        assert kind == LEFT_OUT or mine == others
        i, j, at = i + m, j + n, at + len(mine)
        ends.append(at)
    assert (i, j) == (len(a), len(b))
    return ends


def test_texts_that_are_not_the_same_share_what_they_can():
    """Normalising, half characters and other white space cost what is round them, and nothing more."""
    draw = random.Random(3)
    tokenizer = byte_level_tokenizer()
    table = TokenBytes.of(tokenizer, [])
    for _ in range(500):
        words = [random_text(draw).strip() or "x" for _ in range(4)]
        a = [piece.encode() for word in words for piece in (word, " ")]
        changed = draw.randrange(4)
        b = [*a]
        b[2 * changed] = draw.choice([b"\xf0\x9f", b"\xef\xbf\xbd", b"", b"other"])
        ids = tokenizer(b"".join(b).decode("utf-8", "replace"), add_special_tokens=False).input_ids
        b = [table.by_id[i] for i in ids]
        segments = align(a, b).segments()
        check_cuts(a, b, segments)
        told = sum(m for m, _, kind in segments if kind == LEFT_OUT)
        assert told <= 3, (a, b, segments)


@pytest.mark.parametrize(
    ("teacher", "student", "expected"),
    [
        ("He|llo| 12|3", "Hello| 1|23", [(2, 1, CHUNK), (2, 2, SPLIT_DIGITS)]),
        ("a| |5", "a| 5", [(1, 1, CHUNK), (2, 1, CHUNK)]),
        ("x=1|2|.", "x=12|.", [(2, 1, SPLIT_DIGITS), (1, 1, CHUNK)]),
        ("१|२", "१२", [(2, 1, SPLIT_DIGITS)]),
        ("an|swer", "<think>|\n\n|</think>|\n\n|answer", [(0, 4, LEFT_OUT), (2, 1, CHUNK)]),
        ("|a|b|", "ab", [(1, 0, LEFT_OUT), (2, 1, CHUNK), (1, 0, LEFT_OUT)]),
        ("a||b", "ab", [(3, 1, LEFT_OUT)]),
        ("a||b", "a|b", [(1, 1, CHUNK), (1, 0, LEFT_OUT), (1, 1, CHUNK)]),
        ("a \n|b", "a|\n|b", [(1, 2, LEFT_OUT), (1, 1, CHUNK)]),
        ("", "abc", [(0, 1, LEFT_OUT)]),
    ],
)
def test_what_is_aligned_by_hand(teacher, student, expected):
    a, b = ([piece.encode() for piece in text.split("|")] for text in (teacher, student))
    if teacher == "":
        a = []
    assert align(a, b).segments() == expected


def test_a_digit_whose_bytes_are_tokens_is_no_number_split_otherwise():
    devanagari = "५".encode()
    each = [bytes([byte]) for byte in devanagari]
    assert align([devanagari], each).segments() == [(1, 3, CHUNK)]


def test_the_ends_of_both_are_one_class_and_one_alone_is_left_out():
    assert align([b"a"], [b"a"], (True, True)).segments()[-1] == (1, 1, END)
    assert align([b"a"], [b"a"], (True, False)).segments()[-1] == (1, 0, LEFT_OUT)
    assert align([], [], (False, False)).segments() == []


def test_a_template_that_strips_and_one_that_adds_are_seen_through():
    reasoning = b"<think>\nfirst.\n\n</think>\n\nthe answer"
    stripped = b"<think>\nfirst.\n</think>\n\nthe answer"
    parts = common_parts(reasoning, stripped)
    assert sum(p.length for p in parts) >= len(stripped) - 1
    for a, b in ((reasoning, stripped), (stripped, reasoning), (b"\n\n" + stripped, stripped)):
        for p in common_parts(a, b):
            mine, others = a[p.teacher : p.teacher + p.length], b[p.student : p.student + p.length]
            assert mine == others


@pytest.mark.parametrize(
    "kind", ["quickstart", "llama-bpe", "tiktoken", "sentencepiece", "llama 2"]
)
def test_the_bytes_of_a_text_are_those_of_its_tokens(kind, texts):
    tokenizer = tokenizer_of_kind(kind)
    table = TokenBytes.of(tokenizer, chat.stop_ids(tokenizer, None))
    for text in texts[:300]:
        ids = tokenizer(text, add_special_tokens=False).input_ids
        found = b"".join(table.by_id[i] for i in ids)
        assert found == text.encode() or (kind == "llama 2" and found == b" " + text.encode())


def test_special_tokens_have_no_bytes_and_tags_of_reasoning_have():
    tokenizer = train_tokenizer("qwen2")
    end, tag = tokenizer.convert_tokens_to_ids(["<|im_end|>", "</think>"])
    table = TokenBytes.of(tokenizer, chat.stop_ids(tokenizer, None))
    assert table.by_id[end] == b"" and table.by_id[tag] == b"</think>"
    assert table.of_answer([tag, end]) == ([b"</think>"], True)
    assert table.of_answer([tag]) == ([b"</think>"], False)


def test_a_word_begins_at_the_same_bytes_in_every_tokenizer():
    for tokenizer in (
        byte_level_tokenizer(),
        train_tokenizer("qwen2"),
        train_tokenizer("sentencepiece"),
    ):
        table = TokenBytes.of(tokenizer, chat.stop_ids(tokenizer, None))
        boundary = set(table.boundary_ids)
        for text, begins in (
            (" a", True),
            ("\nb", True),
            ("天", True),
            ("a", False),
            (".", False),
            ("न", False),
        ):
            first = tokenizer(text, add_special_tokens=False).input_ids[0]
            assert (first in boundary) == begins, text
        assert tokenizer.eos_token_id in boundary


def test_closed_ids_are_those_that_no_other_token_goes_on_from():
    for tokenizer in (train_tokenizer("qwen2"), train_tokenizer("sentencepiece")):
        table = TokenBytes.of(tokenizer, chat.stop_ids(tokenizer, None))
        tokens = [token for token in table.by_id if token]
        for number, token in enumerate(table.by_id):
            goes_on = any(other != token and other.startswith(token) for other in tokens)
            is_double = token and tokens.count(token) > 1
            if not is_double:
                assert (number in table.closed_ids) == (bool(token) and not goes_on), token
    table = TokenBytes.of(byte_level_tokenizer(), [])
    assert len(table.closed_ids) == 256


def test_a_tokenizer_that_is_not_made_of_bytes_is_refused_with_the_way_out():
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.WordLevel({"<unk>": 0, "a": 1}, unk_token="<unk>"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>")
    with pytest.raises(MismatchError, match=r"not bytes of the text.*capture\.signal=none"):
        TokenBytes.of(tokenizer, [])
    assert re.search("<unk>", core.to_str())
