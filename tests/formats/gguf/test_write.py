"""A written GGUF file read back with an independent reader: keys, tensors, values; and the folders that are refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from format_helpers import CASES
from safetensors.torch import load_file, save_file

from distill.errors import DataError, DistillError, MismatchError, MissingError
from distill.formats.gguf.write import describe, write_gguf
from distill.llama_cpp.gguf_header import read_tensor_infos

FolderMaker = Callable[..., Path]
YARN = {
    "rope_type": "yarn",
    "rope_theta": 1e4,
    "factor": 2.0,
    "original_max_position_embeddings": 128,
}


def fields(path: Path) -> dict[str, Any]:
    return {name: field.contents() for name, field in gguf.GGUFReader(path).fields.items()}


def matrices(path: Path) -> dict[str, np.ndarray]:
    """Dequantized tensors in the order [rows, columns]."""
    tensors = gguf.GGUFReader(path).tensors
    shapes = {t.name: tuple(int(n) for n in reversed(t.shape)) for t in tensors}
    return {
        t.name: gguf.quants.dequantize(t.data, t.tensor_type).reshape(shapes[t.name])
        for t in tensors
    }


@pytest.fixture(scope="module")
def exact(
    model_folder: FolderMaker, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, np.ndarray]:
    out = tmp_path_factory.mktemp("exact") / "f32.gguf"
    return matrices(write_gguf(model_folder("qwen3", trained=True), out, "f32").path)


@pytest.fixture
def editable(model_folder: FolderMaker, tmp_path: Path) -> Path:
    return Path(shutil.copytree(model_folder("qwen3", trained=True), tmp_path / "model"))


def edit_config(folder: Path, **values: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_keys_say_what_the_model_is(model_folder: FolderMaker, tmp_path: Path) -> None:
    folder = model_folder("qwen3", trained=True)
    lineage = {
        "general.name": "tiny",
        "general.license": "apache-2.0",
        "general.base_model.0.name": "Qwen3",
    }
    found = fields(write_gguf(folder, tmp_path / "m.gguf", "q8_0", metadata=lineage).path)
    expected = lineage | {
        "general.architecture": "qwen3",
        "general.file_type": 7,
        "general.quantization_version": 2,
        "qwen3.block_count": 2,
        "qwen3.context_length": 512,
        "qwen3.embedding_length": 256,
        "qwen3.feed_forward_length": 512,
        "qwen3.attention.head_count": 4,
        "qwen3.attention.head_count_kv": 2,
        "qwen3.attention.key_length": 64,
        "qwen3.attention.value_length": 64,
        "qwen3.rope.freq_base": 10_000.0,
        "qwen3.vocab_size": 640,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "qwen2",
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": (folder / "chat_template.jinja").read_text(),
    }
    assert {key: found.get(key) for key in expected} == expected
    assert found["qwen3.attention.layer_norm_rms_epsilon"] == pytest.approx(1e-6)
    assert len(found["tokenizer.ggml.tokens"]) == len(found["tokenizer.ggml.token_type"]) == 640


def test_tensors_are_the_source_tensors(model_folder: FolderMaker, tmp_path: Path) -> None:
    folder = model_folder("qwen2", trained=True)
    source = load_file(folder / "model.safetensors")
    found = matrices(write_gguf(folder, tmp_path / "m.gguf", "f32").path)
    for name, key in {
        "token_embd.weight": "model.embed_tokens.weight",
        "output_norm.weight": "model.norm.weight",
        "blk.1.attn_q.weight": "model.layers.1.self_attn.q_proj.weight",
        "blk.1.attn_q.bias": "model.layers.1.self_attn.q_proj.bias",
        "blk.0.ffn_down.weight": "model.layers.0.mlp.down_proj.weight",
        "blk.0.ffn_norm.weight": "model.layers.0.post_attention_layernorm.weight",
    }.items():
        np.testing.assert_array_equal(found[name], source[key].numpy())
    assert len(found) == len(source) and "output.weight" not in found


def test_llama_rows_of_q_and_k_are_interleaved(model_folder: FolderMaker, tmp_path: Path) -> None:
    folder = model_folder("llama", trained=True, tie_word_embeddings=False)
    source = load_file(folder / "model.safetensors")
    found = matrices(write_gguf(folder, tmp_path / "m.gguf", "f32").path)
    q = source["model.layers.0.self_attn.q_proj.weight"].numpy()  # heads of 64 rows
    np.testing.assert_array_equal(
        found["blk.0.attn_q.weight"][[0, 1, 2, 64, 65]], q[[0, 32, 1, 64, 96]]
    )
    v = source["model.layers.0.self_attn.v_proj.weight"].numpy()
    np.testing.assert_array_equal(found["blk.0.attn_v.weight"], v)
    np.testing.assert_array_equal(found["output.weight"], source["lm_head.weight"].numpy())


@pytest.mark.parametrize(
    ("file_type", "largest_error", "types"),
    [
        ("f16", 0.0003, {"F16": 15, "F32": 9}),
        ("bf16", 0.002, {"BF16": 15, "F32": 9}),
        ("q8_0", 0.007, {"Q8_0": 15, "F32": 9}),
        ("q6_k", 0.02, {"Q6_K": 15, "F32": 9}),
        ("q5_k_m", 0.04, {"Q5_K": 12, "Q6_K": 3, "F32": 9}),
        ("q4_k_m", 0.08, {"Q4_K": 12, "Q6_K": 3, "F32": 9}),
        ("q4_0", 0.1, {"Q4_0": 14, "Q6_K": 1, "F32": 9}),
        ("q2_k", 0.35, {"Q2_K": 8, "Q3_K": 6, "Q6_K": 1, "F32": 9}),
    ],
)
def test_each_type_stays_within_its_error(
    model_folder: FolderMaker,
    exact: dict[str, np.ndarray],
    tmp_path: Path,
    file_type: str,
    largest_error: float,
    types: dict[str, int],
) -> None:
    written = write_gguf(model_folder("qwen3", trained=True), tmp_path / "m.gguf", file_type)
    assert written.tensor_types == types
    assert written.bytes == written.path.stat().st_size
    for name, values in matrices(written.path).items():
        error = np.sqrt(((values - exact[name]) ** 2).mean() / (exact[name] ** 2).mean())
        assert error <= (largest_error if values.ndim == 2 else 0.0), name


def test_bits_per_weight_counts_the_fallbacks(model_folder: FolderMaker, tmp_path: Path) -> None:
    """Hidden 224 has no Q4_K except where rows are 512 wide; hidden 200 (not a multiple of 32) has F16."""
    folder = model_folder("qwen3", hidden_size=224)
    written = write_gguf(folder, tmp_path / "m.gguf", "q4_k_m")
    assert written.tensor_types == {"Q8_0": 2, "Q5_0": 9, "Q4_K": 3, "Q6_K": 1, "F32": 9}
    assert written.bits_per_weight > 5.5
    odd = write_gguf(model_folder("qwen3", hidden_size=200), tmp_path / "odd.gguf", "q8_0")
    assert odd.tensor_types == {"F16": 11, "Q8_0": 4, "F32": 9}


def test_sharded_and_whole_folders_give_the_same_bytes(
    model_folder: FolderMaker, tmp_path: Path
) -> None:
    whole, sharded = model_folder("qwen3"), model_folder("qwen3", shard_size="2MB")
    assert len(list(sharded.glob("*.safetensors"))) > 1
    first = write_gguf(whole, tmp_path / "1.gguf", "q4_0").path.read_bytes()
    assert write_gguf(sharded, tmp_path / "2.gguf", "q4_0").path.read_bytes() == first


def test_a_16_bit_model_goes_through_exactly(model_folder: FolderMaker, tmp_path: Path) -> None:
    folder = model_folder("qwen3", dtype=torch.bfloat16)
    source = (
        load_file(folder / "model.safetensors")["model.layers.0.mlp.up_proj.weight"].float().numpy()
    )
    found = matrices(write_gguf(folder, tmp_path / "m.gguf", "bf16").path)["blk.0.ffn_up.weight"]
    np.testing.assert_array_equal(found, source)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"architectures": ["GPT2LMHeadModel"]}, "architecture GPT2LMHeadModel cannot be written"),
        ({"hidden_act": "gelu"}, "hidden_act gelu"),
        ({"attention_bias": True}, "attention_bias true"),
        (
            {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}},
            "rope_type dynamic",
        ),
        (
            {"rope_parameters": YARN | {"truncate": False}},
            r"rope_parameters\.truncate False \(true is needed\)",
        ),
        (
            {"rope_parameters": YARN | {"beta_fast": 20.0, "beta_slow": 2}},
            "no rope_parameters.beta_fast 20.0 .*no rope_parameters.beta_slow 2 ",
        ),
        (
            CASES["llama, llama3 rope"],
            "rope_type llama3",
        ),
        ({"tie_word_embeddings": False}, "lm_head.weight is not in its safetensors"),
        (
            {"num_hidden_layers": 1, "layer_types": ["full_attention"]},
            "has no place in a QWEN3 file",
        ),
        ({"num_hidden_layers": 1}, "config.json: cannot be read"),
    ],
)
def test_a_model_that_llama_cpp_would_run_differently_is_refused(
    editable: Path, tmp_path: Path, values: dict[str, Any], message: str
) -> None:
    edit_config(editable, **values)
    with pytest.raises(DistillError, match=message):
        write_gguf(editable, tmp_path / "m.gguf", "f16")
    assert not list(tmp_path.glob("*.gguf*")) and not list(tmp_path.glob(".*.tmp"))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"linear_num_value_heads": 6},
            r"linear_num_value_heads 6 with linear_num_key_heads 4 \(must be a multiple\)",
        ),
        (
            {"layer_types": ["full_attention", *["linear_attention"] * 3]},
            "full attention elsewhere than in every n-th layer",
        ),
        (
            {"use_bias": True, "architectures": ["Ernie4_5ForCausalLM"], "model_type": "ernie4_5"},
            "use_bias true",
        ),
    ],
)
def test_variants_of_qwen3_5_and_ernie_are_refused(
    model_folder: FolderMaker, tmp_path: Path, values: dict[str, Any], message: str
) -> None:
    folder = Path(shutil.copytree(model_folder("qwen3.5"), tmp_path / "model"))
    edit_config(folder, **values)
    with pytest.raises(MismatchError, match=message):
        write_gguf(folder, tmp_path / "m.gguf", "f16")


def test_an_importance_matrix_follows_the_order_of_the_columns(
    model_folder: FolderMaker, tmp_path: Path
) -> None:
    """Value head 3, the second of the second key head, stands last but four in Qwen3.5's files."""
    folder = model_folder("qwen3.5", linear_num_value_heads=8)
    columns = np.arange(256).reshape(4, 2, 32).transpose(1, 0, 2).reshape(-1)  # 8 heads of 32
    importance = np.where(np.arange(256) // 32 == 3, 1.0, 1e-6).astype(np.float32)
    errors = {}
    for name, given in (("plain", None), ("weighed", {"blk.0.ssm_out.weight": importance})):
        found = matrices(
            write_gguf(folder, tmp_path / f"{name}.gguf", "q4_0", importance=given).path
        )["blk.0.ssm_out.weight"]
        source = load_file(folder / "model.safetensors")[
            "model.layers.0.linear_attn.out_proj.weight"
        ].numpy()[:, columns]
        errors[name] = ((found - source) ** 2)[:, columns // 32 == 3].sum()
    assert errors["weighed"] < errors["plain"]


def test_a_language_model_that_was_a_part_is_found_by_its_longer_names(
    model_folder: FolderMaker, tmp_path: Path
) -> None:
    source = model_folder("qwen3.5")
    folder = Path(shutil.copytree(source, tmp_path / "model"))
    tensors = {
        k.replace("model.", "model.language_model.", 1): v
        for k, v in load_file(folder / "model.safetensors").items()
    }
    save_file(tensors, folder / "model.safetensors")
    first = write_gguf(source, tmp_path / "1.gguf", "f16").path.read_bytes()
    assert write_gguf(folder, tmp_path / "2.gguf", "f16").path.read_bytes() == first


def test_a_missing_tensor_is_named(editable: Path, tmp_path: Path) -> None:
    tensors = load_file(editable / "model.safetensors")
    del tensors["model.layers.1.self_attn.k_norm.weight"]
    save_file(tensors, editable / "model.safetensors")
    with pytest.raises(
        MissingError, match=r"model\.layers\.1\.self_attn\.k_norm\.weight is not in its safetensors"
    ):
        write_gguf(editable, tmp_path / "m.gguf", "f16")


@pytest.mark.parametrize(
    ("value", "message"), [(1e5, "does not fit float16"), (float("nan"), "not finite")]
)
def test_values_that_cannot_be_stored_are_refused(
    editable: Path, tmp_path: Path, value: float, message: str
) -> None:
    tensors = load_file(editable / "model.safetensors")
    tensors["model.layers.0.mlp.up_proj.weight"][3, 4] = value
    save_file(tensors, editable / "model.safetensors")
    with pytest.raises(DataError, match=f"model.layers.0.mlp.up_proj.weight {message}|{message}"):
        write_gguf(editable, tmp_path / "m.gguf", "f16")
    assert not (tmp_path / "m.gguf").exists()


def test_a_file_is_replaced_whole_or_not_at_all(editable: Path, tmp_path: Path) -> None:
    before = write_gguf(editable, tmp_path / "m.gguf", "f16").path.read_bytes()
    (editable / "model.safetensors").write_bytes(
        (editable / "model.safetensors").read_bytes()[:-1000]
    )
    with pytest.raises(DataError, match="not a whole safetensors file"):
        write_gguf(editable, tmp_path / "m.gguf", "f16")
    assert (tmp_path / "m.gguf").read_bytes() == before


def test_missing_files_are_named(editable: Path, tmp_path: Path) -> None:
    (editable / "model.safetensors").unlink()
    with pytest.raises(MissingError, match=r"no \*\.safetensors"):
        write_gguf(editable, tmp_path / "m.gguf", "f16")
    with pytest.raises(MissingError, match=r"config\.json: no such file"):
        write_gguf(tmp_path, tmp_path / "m.gguf", "f16")


def test_callers_cannot_overrule_the_model(editable: Path, tmp_path: Path) -> None:
    with pytest.raises(MismatchError, match=r"qwen3.block_count is decided by the model"):
        write_gguf(editable, tmp_path / "m.gguf", "f16", metadata={"qwen3.block_count": "3"})
    with pytest.raises(MismatchError, match="'q7' is not a GGUF type"):
        write_gguf(editable, tmp_path / "m.gguf", "q7")


def test_described_tensors_are_those_of_the_gguf_package(
    model_folder: FolderMaker, tmp_path: Path
) -> None:
    written = write_gguf(model_folder("llama", trained=True), tmp_path / "m.gguf", "q3_k_m")
    tensors = gguf.GGUFReader(written.path).tensors
    found = {t.name: (t.type_id, t.num_weights, t.bytes) for t in read_tensor_infos(written.path)}
    assert found == {t.name: (t.tensor_type, t.n_elements, t.n_bytes) for t in tensors}
    assert sum(written.tensor_types.values()) == len(tensors)


@pytest.mark.parametrize("length", [0, 3, 30, 5_000, -1])
def test_describe_refuses_a_file_that_breaks_off(
    model_folder: FolderMaker, tmp_path: Path, length: int
) -> None:
    written = write_gguf(model_folder("qwen3", trained=True), tmp_path / "m.gguf", "q4_0")
    data = written.path.read_bytes().rstrip(b"\0") if length == -1 else written.path.read_bytes()
    written.path.write_bytes(data[:length])
    with pytest.raises(DataError, match=r"m\.gguf: not a whole GGUF file"):
        describe(written.path)
