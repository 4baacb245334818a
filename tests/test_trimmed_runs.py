"""A student with fewer tokens, layers and neurons, trained by LoRA: killed in every stage, and in use."""

import io
import json
import re
import shutil
import signal
import sys
import urllib.request
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from deploy_helpers import serving
from gguf import GGUFReader
from run_helpers import QUICKSTART, killed_when, launch, made_once, run_forked, sha, small
from safetensors import safe_open
from safetensors.torch import load_file

from distill import chat, pipeline
from distill.__main__ import main
from distill.core.run_folder import RunFolder
from distill.errors import MissingError, RecipeError
from distill.formats import FORMATS
from distill.formats.export import Export
from distill.formats.gguf.write import write_gguf
from distill.llama_cpp.model import LlamaModel
from distill.models import find, load
from distill.recipe import load_recipe
from distill.recipe.load import sealed_yaml
from distill.shaping.trimmed import TrimmedVocabulary
from distill.signals.store import SignalStore

TEACHER = QUICKSTART.parent / "quickstart" / "teacher"
STUDENT = {
    "method": "layers",
    "model": str(TEACHER),
    "layer_share": 0.67,
    "layers_by": "nll",
    "ffn_width": 256,
    "vocabulary": {"size": 896, "max_fertility_loss": None},
}
TRIMMED = [
    f"student={json.dumps(STUDENT)}",
    "train.lora_rank=4",
    "train.optimizer=adamw",
    "train.control=false",
    "quantize.formats=[q8_0]",
    "quantize.num_sequences=4",
]
MEASURED = ("tokens_per_second", "prefill_speed", "decode_speed", "peak_memory")  # by a clock


def started(folder: Path, finished: Path) -> Path:
    """Begin a run folder with the answers of another run: they do not depend on the student."""
    shutil.copytree(finished / "generate", folder / "generate")
    return folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory, finished):
    """A run that was never interrupted. Do not change it."""

    def make(folder: Path) -> None:
        result = run_forked(*small(started(folder, finished), *TRIMMED))
        assert result.returncode == 0, result.stderr[-3000:]
        assert "generate: already done" in result.stdout

    return made_once(tmp_path_factory, "trimmed", make)


@pytest.fixture
def trimmed(whole, tmp_path):
    """A copy of it that may be changed."""
    return Path(shutil.copytree(whole, tmp_path / "run"))


def recipe_of(folder, *more):
    return load_recipe(QUICKSTART, [*map(str, small(folder, *TRIMMED, *more)[1:])])


def result_of(folder, stage):
    return json.loads((folder / stage / "manifest.json").read_text())["result"]


def signal_of(folder):
    """What is stored of each sequence, by its key."""
    store = SignalStore(folder / "capture/signals" / result_of(folder, "capture")["folder"])
    return {key: asdict(store.read(key)) for key in store.keys()}  # noqa: SIM118 - not a dict


def begun_again(whole, folder, *stages):
    """A run folder in which these stages are done."""
    for stage in ("generate", *stages):
        shutil.copytree(whole / stage, folder / stage)
    return folder


def outcome(folder):
    """What must not depend on interruptions: every file that is used, and the report's figures."""
    files = [
        *folder.glob("trim/tokenizer/*"),
        *(folder / "trim" / name for name in ("parent_ids.json", "kept.jsonl")),
        *folder.glob("initialize/student/*"),
        *(p for p in folder.glob("train/*/*") if p.name != "training.json"),
        folder / "quantize" / "q8_0.gguf",
    ]
    table = json.loads((folder / "report/manifest.json").read_text())["result"]["table"]
    rows = [{k: v for k, v in row.items() if k not in MEASURED} for row in table]
    return {str(path.relative_to(folder)): sha(path) for path in files}, rows


def lines(path):
    return path.read_bytes().count(b"\n") if path.exists() else 0


KILLS = [
    ("trim", lambda f: (f / "trim/tokenizer/tokenizer.json").exists()),
    ("capture", lambda f: list(f.glob("capture/signals/*/split.json"))),
    ("capture", lambda f: len(list(f.glob("capture/signals/*/*.shard"))) >= 2),
    ("initialize", lambda f: (f / "initialize/.student.tmp").exists()),
    ("train", lambda f: lines(f / "train/student.metrics.jsonl") >= 3),
    ("train", lambda f: (f / "train/.student.tmp").exists() or (f / "train/student").exists()),
]


def test_killed_in_every_stage_it_ends_in_the_same_bits(whole, finished, tmp_path):
    folder = started(tmp_path / "run", finished)
    statuses = []
    for stage, ready in KILLS:
        status = killed_when(small(folder, *TRIMMED), lambda ready=ready: ready(folder))
        statuses.append((stage, status))
    killed = {stage for stage, status in statuses if status == -signal.SIGKILL}
    assert killed == {"trim", "capture", "initialize", "train"}, f"too fast: {statuses}"
    result = run_forked(*small(folder, *TRIMMED))
    assert result.returncode == 0, result.stderr[-3000:]
    assert outcome(folder) == outcome(whole)


def removed_words(folder):
    """A text of words of which each had a token of its own, which the student does not have."""
    parent, made = load.load_tokenizer(str(TEACHER)), TrimmedVocabulary.read(folder / "trim")
    gone = sorted({*range(len(parent))} - {*made.parent_ids})
    words = [text for text in map(parent.decode, gone) if text.strip().isalpha()]
    text = "".join(words[:12]).strip()
    ids = made.tokenizer(text, add_special_tokens=False).input_ids
    assert len(words) >= 12 and len(ids) > len(parent(text).input_ids)
    assert made.tokenizer.decode(ids) == text
    return text


def post(url, body):
    request = urllib.request.Request(
        url, json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def greedy_answers(folder, questions):
    """The student's file asked without the server engine, by the trimmed tokenizer and template."""
    tokenizer = load.load_tokenizer(str(folder / "train/student"))
    stops = chat.stop_ids(tokenizer, None)
    with LlamaModel(folder / "quantize/q8_0.gguf", num_threads=1, context_length=512) as llama:
        turns, answers = [], []
        for question in questions:
            turns.append({"role": "user", "content": question})
            prompt = chat.prompt_ids(tokenizer, turns)
            (ids,) = llama.generate([prompt], 24, stops)
            answers.append(tokenizer.decode([i for i in ids if i not in stops]))
            turns.append({"role": "assistant", "content": answers[-1]})
    return answers


def answer_greedily(folder):
    """Let the run's recipe answer in 24 tokens without drawing."""
    path = folder / "recipe.yaml"
    recipe = load_recipe(path, ["generate.sampling_temperature=0", "generate.max_new_tokens=24"])
    path.write_text(sealed_yaml(recipe))


def test_chat_reads_and_writes_in_the_trimmed_tokens(trimmed, monkeypatch, capsys):
    answer_greedily(trimmed)
    questions = [
        "How much are 3 mangoes at 4 shillings each?",
        removed_words(trimmed),
        "我有3个苹果",
    ]
    monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{text}\n" for text in questions)))
    assert main(["chat", str(trimmed), "--threads", "1"]) == 0
    answers = greedy_answers(trimmed, questions)
    assert any(answers), "it says something"
    assert capsys.readouterr().out == "".join(f"{answer.lstrip()}\n" for answer in answers)


def test_serve_answers_in_the_trimmed_tokens(trimmed):
    text = removed_words(trimmed)
    tokenizer = load.load_tokenizer(str(trimmed / "train/student"))
    body = {"messages": [{"role": "user", "content": text}], "temperature": 0, "max_tokens": 24}
    with serving(trimmed) as (_, url):
        ids = post(f"{url}/tokenize", {"content": text, "with_pieces": False})["tokens"]
        answer = post(f"{url}/v1/chat/completions", body)
    assert ids == tokenizer(text, add_special_tokens=False).input_ids
    (wanted,) = greedy_answers(trimmed, [text])
    assert answer["choices"][0]["message"]["content"].strip() == wanted.strip()
    assert answer["usage"]["prompt_tokens"] == len(chat.prompt_ids(tokenizer, body["messages"]))


def test_every_folder_and_file_names_the_ends_by_their_trimmed_ids(whole):
    parent, made = load.load_tokenizer(str(TEACHER)), TrimmedVocabulary.read(whole / "trim")
    old = json.loads((TEACHER / "generation_config.json").read_text())
    for place in ("initialize/student", "train/student", "quantize/w16a16"):
        tokenizer = load.load_tokenizer(str(whole / place))
        config = json.loads((whole / place / "config.json").read_text())
        new = json.loads((whole / place / "generation_config.json").read_text())
        assert config["vocab_size"] == len(tokenizer) == len(made) == 896
        assert (config["num_hidden_layers"], config["intermediate_size"]) == (4, 256)
        for name in ("eos_token_id", "pad_token_id"):
            assert made.parents_of([new[name]]) == [old[name]] != [new[name]]
            assert config[name] == new[name]
        assert tokenizer.eos_token == parent.eos_token
        assert find.stop_ids_of_files(str(whole / place)) == [tokenizer.eos_token_id]
        assert {*tokenizer.all_special_ids} < {*range(896)}
    fields = GGUFReader(whole / "quantize/q8_0.gguf").fields
    assert len(fields["tokenizer.ggml.tokens"].data) == 896
    assert fields["tokenizer.ggml.eos_token_id"].contents() == tokenizer.eos_token_id
    assert fields["tokenizer.ggml.padding_token_id"].contents() == tokenizer.pad_token_id
    modelfile = (whole / "quantize/Modelfile").read_text()
    stop = re.findall(r'^PARAMETER stop "(.*)"$', modelfile, re.MULTILINE)
    assert stop == [tokenizer.eos_token] and "FROM ./q8_0.gguf" in modelfile
    assert all(mark in tokenizer.get_vocab() for mark in re.findall(r"<\|\w+\|>", modelfile))


@pytest.mark.parametrize("name", ["w4a16", "nf4", "int8"])
def test_the_other_folders_hold_it(trimmed, name):
    pytest.importorskip({"w4a16": "compressed_tensors"}.get(name, "bitsandbytes"))
    export, path = Export.of(recipe_of(trimmed), RunFolder(trimmed)), trimmed / "quantize" / name
    FORMATS[name].write(export, export.student, path)
    model, tokenizer = FORMATS[name].load(path), load.load_tokenizer(str(path))
    assert chat.same_tokenizer(export.tokenizer, tokenizer) is None
    assert model.get_input_embeddings().weight.shape[0] == model.config.vocab_size == 896
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    agreement = FORMATS[name].agreement(export, export.reference, path)
    assert agreement.kl < 0.05 and agreement.num_tokens > 20


def test_what_rounding_took_is_won_back_in_its_own_tokens(trimmed):
    for path in (trimmed / "quantize").iterdir():
        if not path.name.startswith("w16a16"):
            path.unlink()
    more = ["quantize.formats=[q4_0]", "quantize.recover=[q4_0]", "quantize.recover_steps=3"]
    recipe = recipe_of(trimmed, *more, "quantize.min_top_token_share=0")
    pipeline.run(recipe, stages=["quantize"])
    check = result_of(trimmed, "quantize")["formats"]["q4_0"]
    assert check["recovery"]["recovered"]["kl"] < 0.05 and not check["failed"]
    assert check["tokenization"].startswith("identical")


def test_the_plan_reckoned_with_what_was_made(whole):
    """Parameters and megabytes of the student and its files, within some per cent."""
    planned = json.loads((whole / "plan/plan.json").read_text())
    made, quantized = (
        json.loads((whole / stage / "manifest.json").read_text())["result"]
        for stage in ("initialize", "quantize")
    )
    student, disk = planned["student"], {k: v["disk"] for k, v in planned["stages"].items()}
    assert (student["vocabulary"], student["layers"]) == (896, 4)
    assert student["parameters"] == pytest.approx(made["num_parameters"], rel=0.005)
    weights = (whole / "initialize/student/model.safetensors").stat().st_size
    assert disk["initialize"] == pytest.approx(weights, rel=0.01)
    files = sum(check["bytes"] for check in quantized["formats"].values())
    for_a_while = 4 * student["parameters"]  # a float32 file, for the check alone
    assert disk["quantize"] - for_a_while == pytest.approx(files, rel=0.05)


def test_jobs_divide_the_capture_once_one_has_trimmed(whole, finished, tmp_path):
    recipe = recipe_of(started(tmp_path / "run", finished))
    with pytest.raises(MissingError, match=r"trim: not finished; run `distill trim .*` first"):
        pipeline.run_shard(recipe, "capture", (0, 2))
    begun_again(whole, tmp_path / "two", "trim")
    recipe = recipe_of(tmp_path / "two")
    for job in range(2):
        pipeline.run_shard(recipe, "capture", (job, 2))
    shards = {p.name for p in (tmp_path / "two").glob("capture/signals/*/*.shard")}
    assert {name.partition("of")[0] for name in shards} == {"signals-job0", "signals-job1"}
    pipeline.run(recipe, stages=["capture"])
    assert {p.name for p in (tmp_path / "two").glob("capture/signals/*/*.shard")} == shards
    ours, wanted = signal_of(tmp_path / "two"), signal_of(whole)
    assert ours.keys() == wanted.keys()
    for key, said in wanted.items():
        for name, values in said.items():
            np.testing.assert_array_equal(ours[key][name], values)
    ours, wanted = (result_of(folder, "capture") for folder in (tmp_path / "two", whole))
    assert ours["removed_mass_mean"] == wanted["removed_mass_mean"]


def test_two_processes_make_what_one_makes(whole, tmp_path):
    folder = begun_again(whole, tmp_path / "run", "trim")
    stages = ["--stages", "capture,initialize,train"]
    result = launch(*small(folder, *TRIMMED, "num_processes=2"), *stages)
    assert result.returncode == 0, result.stderr[-3000:]
    writers = {p.name.split("-")[1] for p in folder.glob("capture/signals/*/*.shard")}
    assert writers == {"share0", "share1"}
    assert sha(folder / "initialize/student/model.safetensors") == sha(
        whole / "initialize/student/model.safetensors"
    )
    one, two = (load_file(f / "train/student/model.safetensors") for f in (whole, folder))
    assert max((one[n] - two[n]).abs().max() for n in one) < 5e-3, "another order of sums"


def test_it_learns_the_teachers_hidden_states_of_its_own_tokens(whole, tmp_path):
    folder = begun_again(whole, tmp_path / "run", "trim")
    more = ["capture.hidden_states=int8", "train.hidden_weight=5", "train.learning_rate=1e-2"]
    pipeline.run(recipe_of(folder, *more), stages=["capture", "initialize", "train"])
    assert result_of(folder, "capture")["hidden_size"] == 192
    rows = [json.loads(line) for line in (folder / "train/student.metrics.jsonl").open()]
    assert rows[-1]["hidden"] < 0.9 * rows[0]["hidden"]
    with safe_open(folder / "train/student/model.safetensors", "pt") as saved:
        assert not [name for name in saved.keys() if "projection" in name]  # noqa: SIM118


def test_a_gguf_teacher_teaches_it(tmp_path):
    """The whole way: the teacher is asked, listened to and evaluated in llama.cpp."""
    file = tmp_path / "teacher.gguf"
    write_gguf(TEACHER, file, "q8_0", metadata={})
    few = [f"teacher.gguf={file}", "generate.num_prompts=12", "evaluate.num_examples=2"]
    folder = tmp_path / "run"
    pipeline.run(recipe_of(folder, *few, "train.epochs=1", "quantize.formats=[]"))
    assert result_of(folder, "trim")["vocab_size"] == result_of(folder, "capture")["vocab_size"]
    assert result_of(folder, "capture")["split_loss"] is not None
    figures = result_of(folder, "evaluate")["models"]
    assert 0 < figures["teacher"]["nll_per_byte"] < figures["student"]["nll_per_byte"]
    assert "–" in next(
        line for line in result_of(folder, "report")["text"].splitlines() if "teacher" in line
    ), "its NLL a token is of other tokens"


def test_a_teacher_on_a_server_teaches_it_by_its_weights_here_or_by_text(proxy, tmp_path):
    """Its log-probs are of tokens that the student does not have: refused, with ways out that work."""
    served = [f"teacher.server={proxy.url}", "generate.num_prompts=12", "generate.concurrency=4"]
    signal = ["capture.signal=top_k", "train.divergence=forward_kl", "capture.top_k=20"]
    with pytest.raises(RecipeError) as error:
        recipe_of(tmp_path, *served, *signal, "capture.from_server=true")
    advice = str(error.value)
    assert "set from_server to false" in advice and "capture.signal to none" in advice
    text = ["capture.signal=none", "train.soft_weight=0", "train.hard_weight=1"]
    for name, way in (("weights", signal), ("text", text)):
        folder = tmp_path / name
        if name == "text":
            shutil.copytree(tmp_path / "weights/generate/raw", folder / "generate/raw")
        num_asked = len(proxy.asked)
        recipe = recipe_of(folder, *served, *way, "train.epochs=1")
        pipeline.run(recipe, stages=["generate", "trim", "capture", "initialize", "train"])
        assert len(proxy.asked) == num_asked or name == "weights", "the answers are there"
        trained = load.load_tokenizer(str(folder / "train/student"))
        assert len(trained) == result_of(folder, "trim")["vocab_size"] == 896
