"""The student before training: what its files say is what is trained, saved and exported."""

import json
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
import transformers
from run_helpers import QUICKSTART
from safetensors.torch import load_file, save_file

from distill import initialize
from distill.core.run_folder import RunFolder
from distill.errors import MismatchError
from distill.formats.gguf.write import write_gguf
from distill.llama_cpp.gguf_header import read_tensor_infos
from distill.models import load, on_disk
from distill.recipe import load_recipe

TEACHER = QUICKSTART.parent / "quickstart" / "teacher"
HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
CPU = load.Placement("cpu", "float32")


@pytest.fixture
def model(tmp_path):
    """Return a copy of the quickstart's teacher, whose config says that its head is tied."""
    folder = Path(shutil.copytree(TEACHER, tmp_path / "model"))
    assert json.loads((folder / "config.json").read_text())["tie_word_embeddings"] is True
    return folder


def initialized(model, method="base", **student):
    """Return the folder of the student that a run begins with."""
    values = json.dumps({"method": method, "model": str(model), **student})
    folder = RunFolder(model.parent / "run")
    recipe = load_recipe(QUICKSTART, [f"student={values}", f"teacher.model={model}"])
    initialize.run(recipe, folder)
    return folder.stage("initialize") / "student"


def add_head(folder, change):
    path = folder / "model.safetensors"
    weights = load_file(path)
    save_file(weights | {HEAD: change(weights[EMBEDDING])}, path, {"format": "pt"})


@pytest.mark.parametrize("method", ["base", "layers"])
def test_a_head_of_its_own_stays_the_students(model, tmp_path, method):
    """In the config, in its files, and in a GGUF file made of them."""
    add_head(model, lambda embedding: 2 * embedding)
    share = {"layer_share": 0.5, "layers_by": "even"} if method == "layers" else {}
    student = initialized(model, method, **share)
    assert json.loads((student / "config.json").read_text())["tie_word_embeddings"] is False
    weights = load_file(student / "model.safetensors")
    assert torch.equal(weights[HEAD], 2 * weights[EMBEDDING])
    write_gguf(student, tmp_path / "m.gguf", "f16")
    assert "output.weight" in {info.name for info in read_tensor_infos(tmp_path / "m.gguf")}


def test_of_two_equal_heads_one_is_kept(model):
    add_head(model, torch.clone)
    student = initialized(model)
    assert json.loads((student / "config.json").read_text())["tie_word_embeddings"] is True
    assert HEAD not in load_file(student / "model.safetensors")


def test_a_gguf_file_of_a_tied_config_is_not_written_without_the_files_own_head(model, tmp_path):
    add_head(model, torch.clone)
    write_gguf(model, tmp_path / "m.gguf", "f16")
    add_head(model, lambda embedding: 2 * embedding)
    with pytest.raises(MismatchError, match=r"lm_head\.weight .*tie_word_embeddings.*false"):
        write_gguf(model, tmp_path / "m.gguf", "f16")


def test_a_generation_config_that_transformers_would_not_save_is_refused_or_saved(model):
    path = model / "generation_config.json"
    values = {"do_sample": False, "temperature": 0.6, "top_p": 0.9, "eos_token_id": 5}
    path.write_text(json.dumps(values))
    student = initialized(model)
    assert json.loads((student / "generation_config.json").read_text())["eos_token_id"] == 5


def model_of(num_layers, folder):
    """Write a random Qwen3 in bfloat16 with the teacher's tokenizer; return its parameters."""
    tokenizer = load.load_tokenizer(str(TEACHER))
    config = transformers.Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=256,
        intermediate_size=4096,
        num_hidden_layers=num_layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=True,
    )
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model.num_parameters()


MEASURED = """
    import resource, sys
    from pathlib import Path
    sys.path[:] = {paths!r}
    from cutting_helpers import sample
    from run_helpers import QUICKSTART
    from distill import initialize
    initialize.available_bytes = lambda: 1e8
    from distill.core.jsonl import write_jsonl
    from distill.core.run_folder import RunFolder
    from distill.recipe import load_recipe

    def peak_after(model):
        folder = RunFolder(Path(model) / "run")
        student = "{{method: layers, layer_share: 0.25, ffn_width: 256, model: %s}}" % model
        recipe = load_recipe(
            QUICKSTART, ["student=" + student, "teacher.model=" + model, "train.device=cpu"]
        )
        samples = [sample(f"s{{i}}", recipe.languages[0]) for i in range(4)]
        folder.stage("generate").mkdir(parents=True)
        write_jsonl(folder.stage("generate") / "kept.jsonl", [s.row() for s in samples])
        initialize.run(recipe, folder)
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    print(-peak_after({small!r}) + peak_after({large!r}))
"""


def test_a_model_that_has_no_room_is_cut_without_being_in_memory_as_a_whole(tmp_path):
    """Twenty-four layers of 13 MB: what a small one takes is there before."""
    model_of(2, tmp_path / "small")
    whole = 4 * model_of(24, tmp_path / "large")
    script = textwrap.dedent(MEASURED).format(
        paths=sys.path, small=str(tmp_path / "small"), large=str(tmp_path / "large")
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert int(done.stdout.split()[-1]) < 0.35 * whole, done.stdout
    assert "0.3 GB in float32 have no room in the 0.1 GB that are free" in done.stdout
    assert "0.0 GB in float32" not in done.stdout, "the small one has"


def test_a_gpu_without_room_for_what_the_cuts_leave_is_not_taken(tmp_path, monkeypatch, capsys):
    """Here there is none: what one would say of its memory is told instead."""
    whole = 4 * model_of(24, tmp_path)
    student = f"{{method: layers, layer_share: 0.25, ffn_width: 256, model: {tmp_path}}}"
    recipe = load_recipe(QUICKSTART, [f"student={student}", f"teacher.model={tmp_path}"])
    model, _ = initialize.build(recipe)
    assert on_disk.are_on_disk(model)
    free = 0.0
    monkeypatch.setattr(load, "placement", lambda *_: load.Placement("cuda", "float32"))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (free, free))

    free = 0.3 * whole  # six narrow layers, the tables, and those that are read
    assert initialize._device_of_cut(recipe, model) == "cuda" and not capsys.readouterr().out
    free = 0.02 * whole
    assert initialize._device_of_cut(recipe, model) == "cpu"
    assert "that are free on the GPU: it is cut on the CPU" in capsys.readouterr().out
    on_disk.keep(model)
    free = 1.2 * whole
    assert initialize._device_of_cut(recipe, model) == "cpu", "all of it would move there"
    free = 2 * whole
    assert initialize._device_of_cut(recipe, model) == "cuda"
