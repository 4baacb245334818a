"""Which of a model's files are read, and how what the hub lists is compared with what lies here."""

import hashlib

import pytest
from huggingface_hub.utils import filter_repo_objects

from distill.models.find import is_licence_file, patterns
from distill.models.hub import HubFile, Repository

FILES = [
    *("config.json", "tokenizer.json", "tokenizer.model", "vocab.txt", "LICENSE", "LICENSE.md"),
    *("model-00001-of-00002.safetensors", "model.safetensors.index.json", "chat_template.jinja"),
    *("additional_chat_templates/rag.jinja", "modeling_x.py", "pytorch_model.bin", "README.md"),
    *("consolidated.safetensors", "original/model.safetensors", "original/tokenizer.model"),
    *("onnx/config.json", "model.gguf", "tf_model.h5", "figures/a.png", "code/x.py"),
]
ALWAYS = {
    *("config.json", "tokenizer.json", "tokenizer.model", "vocab.txt", "LICENSE", "LICENSE.md"),
    *("model.safetensors.index.json", "chat_template.jinja", "additional_chat_templates/rag.jinja"),
}
NOTICES = {
    *("LICENSE", "LICENSE-MODEL", "License.md", "LICENCE.txt", "NOTICE", "Notice.txt", "NOTICE.md"),
    *("USE_POLICY.md", "use_policy.txt", "USAGE_POLICY"),
}
WEIGHTS = {"model-00001-of-00002.safetensors"}


@pytest.mark.parametrize("weights", [True, False])
def test_only_what_is_read_is_named(weights):
    allowed, ignored = patterns(weights=weights, code=False)
    named = filter_repo_objects(FILES, allow_patterns=allowed, ignore_patterns=ignored)
    assert set(named) == ALWAYS | (WEIGHTS if weights else set())


@pytest.mark.parametrize("weights", [True, False])
def test_all_that_may_have_to_be_passed_on_is_named_however_it_is_written(weights):
    allowed, ignored = patterns(weights=weights, code=False)
    others = ["figures/LICENSE", "onnx/NOTICE", "licenses.png.bin", "POLICY.md", "my_notice.md"]
    named = set(
        filter_repo_objects([*NOTICES, *others], allow_patterns=allowed, ignore_patterns=ignored)
    )
    assert named & NOTICES == NOTICES == {name for name in NOTICES if is_licence_file(name)}
    assert not named & {"figures/LICENSE", "onnx/NOTICE", "POLICY.md", "my_notice.md"}


def test_trusted_code_comes_with_what_it_may_read():
    allowed, ignored = patterns(weights=True, code=True)
    named = set(filter_repo_objects(FILES, allow_patterns=allowed, ignore_patterns=ignored))
    assert named >= ALWAYS | WEIGHTS | {"modeling_x.py", "code/x.py", "onnx/config.json"}
    assert not named & {"pytorch_model.bin", "original/model.safetensors", "model.gguf"}


@pytest.mark.parametrize("is_big", [True, False])
def test_every_flipped_bit_cut_and_longer_file_is_another_content(tmp_path, is_big):
    content = bytes(range(64))
    plain = hashlib.sha1(b"blob 64\0" + content, usedforsecurity=False).hexdigest()
    file = HubFile("a", 64, hashlib.sha256(content).hexdigest() if is_big else plain)
    path = tmp_path / "a"
    path.write_bytes(content)
    assert file.is_content_of(path)
    for bit in range(8 * 64):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        assert not file.is_content_of(path)
    for other in (content[:-1], content + b"\0", b""):
        path.write_bytes(other)
        assert not file.is_content_of(path)


def test_a_repository_knows_its_commit_by_the_cache_alone(tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    commit = "a" * 40
    assert Repository("model", "us/x", commit).cached_commit == commit
    assert Repository("model", "us/x", None).cached_commit is None
    ref = tmp_path / "models--us--x" / "refs" / "main"
    ref.parent.mkdir(parents=True)
    ref.write_text(commit)
    assert Repository("model", "us/x", None).cached_commit == commit
