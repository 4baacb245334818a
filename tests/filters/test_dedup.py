"""Duplicates, exact and near."""

import random
import tracemalloc
from collections import Counter

import numpy as np
import pytest

from distill.filters import dedup
from distill.filters.dedup import (
    _shingles,
    _signatures,
    exact_key,
    near_duplicates,
    near_prompts,
)
from distill.text.sentences import sentences

SENTENCE = (
    "A trader at the market in Kisumu buys mangoes from four farmers in the morning, sorts them by size and ripeness, "
    "and sells the best of them to a hotel by the lake before noon, while the rest goes to the school kitchen."
)
GOLDEN_HASHES = [
    1222145673609226265,
    16961796037198130546,
    2384421699882013211,
    13283407767455114962,
]
GOLDEN_SIGNATURES = [[90921048, 40762188], [1188140029, 1137885676]]


def test_exact_key_ignores_form_case_and_white_space_but_not_numbers():
    assert exact_key("Two  ＋ 2\n") == exact_key("two + 2")
    assert exact_key("2 + 3") != exact_key("2 + 4")


def replace_words(text: str, count: int, seed: int) -> str:
    parts = text.split()
    for place in random.Random(seed).sample(range(len(parts)), count):
        parts[place] = f"changed{chr(97 + place)}"
    return " ".join(parts)


def test_a_text_with_one_word_changed_is_a_duplicate_and_one_with_ten_is_not():
    assert near_duplicates([SENTENCE, replace_words(SENTENCE, 1, 0)]) == [None, 0]
    assert near_duplicates([SENTENCE, replace_words(SENTENCE, 10, 0)]) == [None, None]


@pytest.mark.parametrize(
    "text",
    [
        "市场上的商人早上从四个农民那里买芒果，按大小和成熟度分类，中午之前把最好的卖给湖边的酒店，其余的送到学校厨房。",
        "พ่อค้าในตลาดซื้อมะม่วงจากชาวนาสี่คนในตอนเช้าแล้วคัดแยกตามขนาดและความสุกก่อนขายให้โรงแรมริมทะเลสาบ",
    ],
)
def test_scripts_without_spaces_are_compared_by_characters(text):
    assert near_duplicates([text, text[:-1] + "吗", text[::-1]], threshold=0.8) == [None, 0, None]


def test_problems_that_differ_in_a_number_are_not_duplicates():
    first = SENTENCE + " She sold 15 mangoes and kept 7 of them."
    assert near_duplicates([first, first.replace("15", "16")], threshold=0.5) == [None, None]
    assert near_duplicates(
        [first, first.replace("15", "7").replace("kept 7", "kept 15")], threshold=0.5
    ) == [None, None]
    assert near_duplicates([first, first.replace("15", "１５").upper()]) == [None, 0]


def test_duplicates_are_sought_within_a_group_only():
    texts = [SENTENCE, SENTENCE, SENTENCE + " Indeed.", "Something else altogether."]
    assert near_duplicates(texts) == [None, 0, 0, None]
    assert near_duplicates(texts, groups=["a", "b", "a", "b"]) == [None, None, 0, None]


def test_short_empty_and_wordless_texts():
    assert near_duplicates([]) == []
    assert near_duplicates(["", "yes", "Yes!", "no", "👍", "👍", "👎"]) == [
        None,
        None,
        1,
        None,
        None,
        4,
        None,
    ]


def test_planted_duplicates_are_found_and_nothing_else():
    rng = random.Random(1)
    vocabulary = ["".join(rng.choices("abcdefghij", k=5)) for _ in range(2000)]
    texts = [" ".join(rng.choices(vocabulary, k=60)) for _ in range(600)]
    planted = {}
    for _ in range(150):
        original = rng.randrange(600)
        parts = texts[original].split()
        parts[rng.randrange(60)] = rng.choice(vocabulary)  # Jaccard similarity 0.9
        planted[len(texts)] = original
        texts.append(" ".join(parts))
    found = near_duplicates(texts)
    assert found[:600] == [None] * 600
    assert sum(found[copy] is not None for copy in planted) >= 148
    for copy, original in planted.items():
        assert (
            found[copy] is None or found[copy] == original or planted.get(found[copy]) == original
        )


def test_hundreds_of_texts_of_one_template_are_told_apart():
    rng = random.Random(2)
    names = ["".join(rng.choices("aeiklmnrst", k=6)) for _ in range(300)]
    texts = [
        f"{name} walked from the village to the market with {name}li and came home in the evening"
        for name in names
    ]
    assert sum(found is not None for found in near_duplicates(texts)) == len(names) - len(
        set(names)
    )


def test_signatures_are_the_same_in_every_process_and_on_every_machine():
    """A fixed value: Python's own hash() would change it from process to process."""
    hashes, offsets, numbers = _shingles(["one two three four", "他有三个苹果"])
    assert hashes.tolist() == GOLDEN_HASHES
    assert _signatures(hashes, offsets)[:, :2].tolist() == GOLDEN_SIGNATURES
    assert numbers == ["", ""]


def test_a_threshold_outside_its_range_is_refused():
    with pytest.raises(ValueError, match="threshold 0"):
        near_duplicates(["a"], 0)


def many_texts(num: int) -> list[str]:
    """Return texts of few templates, some of which repeat each other, with sentences in common."""
    draw = random.Random(num)
    verbs = ["weave", "carry", "sell", "mend"]
    return [
        f"Answer in one line. Do they {draw.choice(verbs)} the {draw.choice(['red', 'blue'])} "
        f"cloth of the market in town {draw.randrange(num // 3)}? {draw.choice(['', 'Say why.'])}"
        for _ in range(num)
    ]


@pytest.mark.parametrize("threshold", [0.4, 0.6, 0.9])
def test_buckets_of_one_text_tell_nothing(monkeypatch, threshold):
    texts = many_texts(300)
    groups = [number % 2 for number in range(300)]
    found = near_duplicates(texts, threshold, groups)
    assert 10 < sum(original is not None for original in found) < 300
    monkeypatch.setattr(dedup, "_is_shared", lambda bands_NB: np.ones(bands_NB.shape, bool))
    assert near_duplicates(texts, threshold, groups) == found


@pytest.mark.parametrize("threshold", [0.4, 0.9])
def test_the_parts_that_texts_are_read_in_change_nothing(monkeypatch, threshold):
    texts, groups = many_texts(300), [number % 2 for number in range(300)]
    found = near_duplicates(texts, threshold, groups), near_prompts(texts, threshold, groups)
    monkeypatch.setattr(dedup, "_AT_ONCE", 7)
    monkeypatch.setattr(dedup, "_MOST_UNITS", 5)
    assert found == (
        near_duplicates(texts, threshold, groups),
        near_prompts(texts, threshold, groups),
    )


def test_of_texts_that_share_nothing_little_is_held(monkeypatch):
    """Of 3,000 texts of 60 words: a shingle is 8 bytes, a signature 512, the buckets 128."""
    monkeypatch.setattr(dedup, "_AT_ONCE", 100)
    texts = [" ".join(f"w{n}x{k}" for k in range(60)) for n in range(3_000)]
    near_duplicates(texts[:10])
    tracemalloc.start()
    assert set(near_duplicates(texts)) == {None}
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 3_000 * 400 + 1_000_000, "bytes a text, of 1,100"


def test_sentences_that_many_have_are_those_of_a_count_of_all():
    texts = [*many_texts(300), "One. One. One.", "", "Say why.", *["Say how. Why?"] * 10]
    count = Counter(sentence for text in texts for sentence in set(sentences(text)))
    common = dedup._common_sentences(texts)
    assert common == {sentence for sentence, num in count.items() if num > 10}
    assert {"Say why.", "Answer in one line."} <= common and "Say how." not in common
    assert dedup._common_sentences(texts[:5]) == set()
