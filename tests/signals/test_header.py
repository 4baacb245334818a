"""The header of a signal: what cannot be, and the JSON whose hash names a signal's folder."""

from dataclasses import replace

import pytest

from distill.core.digests import canonical_json, digest
from distill.signals.header import SignalHeader


@pytest.mark.parametrize(
    "values",
    [
        {"kind": "sampled", "vocab_size": 10},
        {"kind": "dense", "vocab_size": 10, "num_draws": 5},
        {"kind": "top_k", "vocab_size": 10, "top_k": 11},
        {"kind": "dense", "vocab_size": (1 << 20) + 1},
        {"kind": "sampled", "vocab_size": 10, "num_draws": 65_536},
    ],
)
def test_a_header_that_makes_no_sense_cannot_be_made(values):
    with pytest.raises(ValueError, match=r"vocab_size|num_draws|top_k"):
        SignalHeader(**values)


def test_a_header_survives_json(header):
    assert SignalHeader.from_json(header.to_json()) == header


def test_the_json_of_a_header_never_changes_because_its_hash_names_the_folder():
    header = SignalHeader(
        "sampled", 300, num_draws=50, hidden_size=96, fingerprints={"teacher": "x"}
    )
    text = canonical_json(header.to_json())
    assert text == (
        '{"fingerprints":{"teacher":"x"},"format":1,"hidden_size":96,"kind":"sampled",'
        '"loss_temperature":1.0,"num_draws":50,"top_k":null,"vocab_size":300}'
    )
    assert digest(text) == "04ff85c03e649765c6cf5068e3f18d87"
    scored = replace(header, draw_log_probs=True)
    assert scored.to_json() == header.to_json() | {"draw_log_probs": True}
    assert SignalHeader.from_json(scored.to_json()) == scored
    assert list(header.differences(scored)) == [("draw_log_probs", False, True)]


def test_differences_are_named_with_both_values_fields_before_fingerprints():
    one = SignalHeader("top_k", 300, top_k=8, fingerprints={"teacher": "a", "tokenizer": "t"})
    other = SignalHeader("top_k", 301, top_k=8, fingerprints={"chat_template": "c", "teacher": "b"})
    assert list(one.differences(other)) == [
        ("vocab_size", 300, 301),
        ("fingerprints.chat_template", None, "c"),
        ("fingerprints.teacher", "a", "b"),
        ("fingerprints.tokenizer", "t", None),
    ]
    assert list(one.differences(one)) == []
