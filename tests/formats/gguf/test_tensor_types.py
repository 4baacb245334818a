"""The stock mixtures, tensor by tensor, against values worked out by hand from llama.cpp's rules."""

import pytest
from gguf import GGMLQuantizationType as Type

from distill.formats.gguf.tensor_types import FILE_TYPES, Mixture


def mixture(
    file_type: str, *, num_layers: int = 28, heads_per_kv: int = 2, tied: bool = False
) -> Mixture:
    return Mixture(file_type, num_layers, heads_per_kv, tied)


def layers_with(kind: Type, role: str, what: Mixture) -> list[int]:
    return [
        i for i in range(what.num_layers) if what.type_of(f"blk.{i}.{role}.weight", 1024) == kind
    ]


@pytest.mark.parametrize("role", ["attn_v", "ffn_down"])
@pytest.mark.parametrize("file_type", ["q4_k_m", "q5_k_m"])
def test_the_sensitive_tensors_of_some_layers_get_six_bits(file_type: str, role: str) -> None:
    expected = [0, 1, 2, 5, 8, 11, 14, 17, 20, 23, 24, 25, 26, 27]
    assert layers_with(Type.Q6_K, role, mixture(file_type)) == expected


def test_a_linear_layers_qkv_counts_as_values() -> None:
    """llama-quant.cpp's category_is_attn_v holds attn_qkv, so that its own branch for attn_qkv is never reached."""
    for heads_per_kv in (2, 4):
        for file_type in ("q2_k", "q3_k_m", "q4_k_m", "q5_k_m", "iq4_nl"):
            what = mixture(file_type, heads_per_kv=heads_per_kv)
            found = [
                [what.type_of(f"blk.{i}.{role}.weight", 1024) for i in range(28)]
                for role in ("attn_qkv", "attn_v")
            ]
            assert found[0] == found[1], file_type
    assert layers_with(Type.Q6_K, "attn_qkv", mixture("q4_k_m"))[:4] == [0, 1, 2, 5]
    assert mixture("q2_k").type_of("blk.9.attn_qkv.weight", 1024) == Type.Q3_K
    assert mixture("q2_k", heads_per_kv=4).type_of("blk.9.attn_qkv.weight", 1024) == Type.Q4_K


def test_other_tensors_get_the_base_type() -> None:
    for role in ("attn_q", "attn_k", "attn_output", "ffn_gate", "ffn_up"):
        assert layers_with(Type.Q4_K, role, mixture("q4_k_m")) == list(range(28))


@pytest.mark.parametrize(
    "file_type", ["q6_k", "q5_k_m", "q4_k_m", "q4_0", "iq4_nl", "q3_k_m", "q2_k", "tq2_0"]
)
def test_the_head_gets_six_bits_and_so_does_an_embedding_that_is_the_head(file_type: str) -> None:
    untied, tied = mixture(file_type), mixture(file_type, tied=True)
    assert untied.type_of("output.weight", 1024) == Type.Q6_K
    assert tied.type_of("token_embd.weight", 1024) == Type.Q6_K
    base = Type.Q4_K if file_type == "tq2_0" else FILE_TYPES[file_type][1]
    assert untied.type_of("token_embd.weight", 1024) == base


def test_q8_0_is_q8_0_throughout() -> None:
    what = mixture("q8_0", tied=True)
    names = [
        "token_embd.weight",
        "blk.0.attn_v.weight",
        "blk.0.ffn_down.weight",
        "blk.0.attn_output.weight",
    ]
    assert {what.type_of(name, 1024) for name in names} == {Type.Q8_0}


@pytest.mark.parametrize(
    ("file_type", "kind"), [("f32", Type.F32), ("f16", Type.F16), ("bf16", Type.BF16)]
)
def test_unquantized_files_have_one_type_whatever_the_width(file_type: str, kind: Type) -> None:
    assert mixture(file_type, tied=True).type_of("token_embd.weight", 100) == kind


def test_three_and_two_bit_files_spare_value_down_and_output() -> None:
    q3, q2 = mixture("q3_k_m"), mixture("q2_k")
    assert layers_with(Type.Q5_K, "attn_v", q3) == [0, 1] and layers_with(
        Type.Q5_K, "ffn_down", q3
    ) == [0]
    assert (
        q3.type_of("blk.9.ffn_down.weight", 1024)
        == q3.type_of("blk.9.attn_output.weight", 1024)
        == Type.Q4_K
    )
    assert {
        q2.type_of(f"blk.9.{r}.weight", 1024) for r in ("attn_v", "ffn_down", "attn_output")
    } == {Type.Q3_K}


def test_values_shared_by_four_heads_get_more_bits() -> None:
    assert mixture("q2_k", heads_per_kv=4).type_of("blk.9.attn_v.weight", 1024) == Type.Q4_K
    assert mixture("iq4_nl", heads_per_kv=4).type_of("blk.9.attn_v.weight", 1024) == Type.Q5_K
    assert mixture("iq4_nl", heads_per_kv=2).type_of("blk.9.attn_v.weight", 1024) == Type.IQ4_NL


@pytest.mark.parametrize(
    ("file_type", "expected"),
    [
        ("q4_k_m", Type.Q5_0),
        ("q5_k_m", Type.Q5_1),
        ("q6_k", Type.Q8_0),
        ("q3_k_m", Type.Q4_0),
        ("tq2_0", Type.Q4_0),
        ("q4_0", Type.Q4_0),
        ("q8_0", Type.Q8_0),
    ],
)
def test_rows_of_896_fall_back_to_blocks_of_32(file_type: str, expected: Type) -> None:
    assert mixture(file_type).type_of("blk.9.attn_q.weight", 896) == expected
    assert mixture(file_type).type_of("output.weight", 896) == Type.Q8_0


@pytest.mark.parametrize("file_type", ["q8_0", "q4_k_m", "q4_0", "q2_k"])
def test_rows_of_100_fall_back_to_f16(file_type: str) -> None:
    assert mixture(file_type).type_of("blk.9.attn_q.weight", 100) == Type.F16
    assert mixture(file_type).type_of("output.weight", 100) == Type.F16
