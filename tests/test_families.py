"""Every family that the catalogue's teachers come from, through generate, capture, train and export, in process."""

import datetime
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from families import BY_NAME, FAMILIES, WITH_MODEL, Family, model_of, save, tokenizer_of
from run_helpers import QUICKSTART
from step_helpers import one_step

from distill import chat
from distill.catalog import catalog
from distill.chat.template import apply_template
from distill.chat.tokenizers import Tokenizers
from distill.core.processes import Processes
from distill.errors import MismatchError
from distill.formats.gguf.write import write_gguf
from distill.models import find, load
from distill.models.decode import answer
from distill.models.head import head_of
from distill.models.sampling import Sampling
from distill.models.score import TokenSequence, answer_hidden_states
from distill.planning import sizes
from distill.recipe import load_recipe
from distill.recipe.sections import Train
from distill.shaping.layers import keep_layers
from distill.signals.header import SignalHeader
from distill.signals.store import SignalStore, SignalWriter, sequence_key
from distill.teachers.records import records_of
from distill.training import packed_attention
from distill.training.prepare import can_be_packed
from distill.training.run import Example, TrainingRun

QUESTIONS = ["How many?", "3 + 4 = ?", "Habari ya asubuhi, rafiki yangu?"]
CPU = load.Placement("cpu", "float32")
each_family = pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
each_model = pytest.mark.parametrize("family", WITH_MODEL, ids=lambda family: family.name)


@dataclass
class Loaded:
    folder: Path
    saved: Any
    model: Any
    tokenizer: Any


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory):
    made: dict[str, Loaded] = {}

    def load_family(family: Family) -> Loaded:
        if family.name not in made:
            folder = tmp_path_factory.mktemp(family.name)
            saved = save(family, folder)
            made[family.name] = Loaded(
                folder, saved, load.load_model(str(folder), CPU), load.load_tokenizer(str(folder))
            )
        return made[family.name]

    return load_family


def answers(
    model: Any, prompts: list[list[int]], tokenizer: Any, stop_ids: list[int]
) -> list[list[int]]:
    found: dict[int, list[int]] = {}
    answer(
        model,
        prompts,
        seeds=range(len(prompts)),
        sampling=Sampling(max_new_tokens=6, stop_ids=tuple(stop_ids)),
        pad_id=tokenizer.pad_token_id,
        vocab_size=len(tokenizer),
        on_finished=lambda index, ids, _: found.__setitem__(index, ids),
    )
    return [found[i] for i in range(len(prompts))]


@each_model
def test_from_the_teacher_to_the_exported_student(family, loaded, tmp_path):
    here = loaded(family)
    ids = torch.arange(3, 20)[None]
    assert torch.equal(here.model(ids).logits, here.saved(ids).logits), "loaded as it was saved"
    head, pad_id, width = head_of(here.model), here.tokenizer.pad_token_id, len(here.tokenizer)

    # generate: left padding changes no answer
    prompts = [chat.prompt_ids(here.tokenizer, question) for question in QUESTIONS]
    stop_ids = chat.stop_ids(here.tokenizer, load.stop_ids(here.model))
    written = answers(here.model, prompts, here.tokenizer, stop_ids)
    assert written == [
        answers(here.model, [prompt], here.tokenizer, stop_ids)[0] for prompt in prompts
    ]
    assert max(map(max, written)) < width < here.model.config.vocab_size, (
        "no id that stands for no token"
    )

    # capture: right padding changes no hidden state; what is stored can be read
    sequences = [TokenSequence(p + a, len(p)) for p, a in zip(prompts, written, strict=True)]
    hidden = answer_hidden_states(here.model, sequences, pad_id)
    for sequence, together in zip(sequences, hidden, strict=True):
        alone = answer_hidden_states(here.model, [sequence], pad_id)[0]
        assert (together - alone).abs().max() < 1e-4 * (1 + alone.abs().max())
    header = SignalHeader("sampled", width, num_draws=20)
    keys = [sequence_key(s.ids, s.answer_start) for s in sequences]
    with SignalWriter(tmp_path / "signals", header) as writer:
        for key, record in zip(keys, records_of(header, head, hidden, written, keys), strict=True):
            writer.add(key, record)
    store = SignalStore(tmp_path / "signals", header)

    # train: every weight gets a gradient, and samples in one row learn nothing from each other
    assert can_be_packed(here.model) == family.packs
    course = course_of(
        here,
        store,
        [Example(s.ids, s.answer_start, k) for s, k in zip(sequences, keys, strict=True)],
    )
    apart, gradients = one_step(course, [[0], [1], [2]])
    left_out = [
        n
        for n, p in here.model.named_parameters()
        if p.requires_grad and not any(n in name for name in gradients)
    ]
    assert all(n.endswith("e_score_correction_bias") for n in left_out), (
        "a router's balance is learnt by other means"
    )
    assert 0 < apart["loss"] < 1e3 and apart["num_loss_tokens"] == sum(map(len, written))
    if family.packs:
        steps = [one_step(course, [[0, 1, 2]])]
        long_rows = Train(max_length=packed_attention.CPU_MIN_LENGTH)
        if packed_attention.attention_of(here.model, long_rows, CPU).by_sequence:
            packed_attention.use(here.model)
            steps.append(one_step(course, [[0, 1, 2]]))
            here.model.set_attn_implementation("sdpa")
        for packed, others in steps:
            assert packed["loss"] == pytest.approx(apart["loss"], rel=1e-5)
            for name, gradient in gradients.items():
                largest = (gradient - others[name]).abs().max()
                assert largest < 1e-4 * (1 + gradient.abs().max()), name
    here.model.eval()

    # export
    if family.gguf:
        folder = here.folder
        if not here.model.config.tie_word_embeddings:
            assert "lm_head.weight" in {n for n, _ in here.model.named_parameters()}
        assert write_gguf(folder, tmp_path / "student.gguf", "f16").bits_per_weight > 15.9
        return
    with pytest.raises(MismatchError, match="cannot be written to GGUF"):
        write_gguf(here.folder, tmp_path / "student.gguf", "f16")
    here.model.save_pretrained(tmp_path / "student")
    again = load.load_model(str(tmp_path / "student"), CPU)
    assert torch.equal(again(ids).logits, here.model(ids).logits)


def course_of(here: Loaded, store: SignalStore | None, examples: list[Example]) -> TrainingRun:
    options = Train(
        epochs=1, max_length=512, batch_tokens=4096, micro_batch_tokens=512, max_grad_norm=1e9
    )
    return TrainingRun(
        role="student",
        model=here.model,
        options=options,
        soft_weight=1.0,
        hard_weight=0.5,
        examples=examples,
        validation=[],
        store=store,
        vocab_size=len(here.tokenizer),
        pad_id=here.tokenizer.pad_token_id,
        seed=1,
        placement=CPU,
        folder=Path("unused"),
        processes=Processes(),
        accelerator=Accelerator(cpu=True),
    )


@each_family
def test_the_template_does_what_the_catalogue_says(family):
    model = catalog.find(family.catalogue_id)
    assert model is not None
    facts, tokenizer = catalog.template(model), tokenizer_of(family)
    assert facts is not None
    if facts.switch is None:
        with pytest.raises(MismatchError, match=r"generate\.enable_thinking is true"):
            chat.prompt_ids(tokenizer, "hi", enable_thinking=True)
    else:
        assert chat.thinking_switch(tokenizer, False) == {facts.switch: False}
        off = chat.prompt_ids(tokenizer, "hi", enable_thinking=False)
        assert not chat.opens_thinking(tokenizer, off) and off != chat.prompt_ids(
            tokenizer, "hi", enable_thinking=True
        )
    enable_thinking = True if facts.switch else None
    assert chat.opens_thinking(
        tokenizer, chat.prompt_ids(tokenizer, "hi", enable_thinking=enable_thinking)
    ) == (facts.tags == "close")
    text = tokenizer.decode(chat.prompt_ids(tokenizer, "hi"))
    assert facts.system is None or facts.system in text
    with_own = tokenizer.decode(chat.prompt_ids(tokenizer, "hi", system_prompt="Be brief."))
    if (
        facts.system is not None and family.name != "gpt-oss"
    ):  # gpt-oss puts the caller's beside its own
        assert facts.system not in with_own
    history = [
        {"role": "user", "content": "3 + 4?"},
        {"role": "assistant", "content": "<think>secret</think>7"},
        {"role": "user", "content": "more?"},
    ]
    later = chat.prompt_ids(tokenizer, history, enable_thinking=enable_thinking)
    if facts.history == "dropped" and facts.tags != "channels":
        assert "secret" not in tokenizer.decode(later)
    assert chat.opens_thinking(tokenizer, later) == (facts.tags == "close")


@each_family
def test_reasoning_and_answer_are_told_apart(family):
    tokenizer = tokenizer_of(family)
    opened = chat.opens_thinking(tokenizer, chat.prompt_ids(tokenizer, "3 + 4?"))
    ids = [*tokenizer.encode(family.said, add_special_tokens=False), tokenizer.eos_token_id]
    text, marks = chat.text_of(tokenizer, ids), chat.answer_marks(tokenizer)
    assert chat.split_thinking(text, opened=opened, marks=marks) == (family.reasoning, "7", True)
    if family.reasoning:
        cut = (
            chat.text_of(tokenizer, ids[: len(ids) // 2 - 1])
            .partition("</think>")[0]
            .partition("<|end|>")[0]
        )
        assert chat.split_thinking(cut, opened=opened)[1:] == ("", False), (
            "cut in its reasoning: no answer"
        )


@each_family
def test_an_answer_ends_where_the_template_ends_it(family):
    tokenizer = tokenizer_of(family)
    stop_ids = chat.stop_ids(tokenizer, None)
    assert chat.end_of_turn(tokenizer, stop_ids) == tokenizer.eos_token_id
    between = tokenizer.encode("<|end|><|think|><think></think>", add_special_tokens=False)
    assert not set(between) & set(stop_ids), "what may stand inside an answer does not end it"


@each_family
def test_what_a_user_would_say_is_asked_with_the_templates_own_tokens(family):
    tokenizer = tokenizer_of(family)
    if family.name in ("ernie4.5", "ernie4.5-moe"):  # "User: ...\nAssistant: ", nothing to stop at
        with pytest.raises(
            MismatchError, match="no token to stop at: expand: magpie cannot be had"
        ):
            chat.user_turn(tokenizer)
        return
    for system in (None, "Jibu kwa Kiswahili."):
        before, stop_id = chat.user_turn(tokenizer, system)
        for said in (QUESTIONS[2], "3"):
            whole = chat.prompt_ids(tokenizer, said, system_prompt=system)
            written = tokenizer.encode(said, add_special_tokens=False)
            assert whole[: len(before) + len(written) + 1] == [*before, *written, stop_id]


@each_family
def test_an_answer_without_its_reasoning_is_what_the_template_writes(family):
    tokenizer, question = tokenizer_of(family), [{"role": "user", "content": "3 + 4?"}]
    prompt, end = chat.prompt_ids(tokenizer, question), tokenizer.eos_token_id
    said = [*tokenizer.encode(family.said, add_special_tokens=False), end]
    learnt = chat.without_reasoning(tokenizer, question, prompt, said)
    assert chat.split_thinking(
        chat.text_of(tokenizer, learnt), opened=chat.opens_thinking(tokenizer, prompt)
    ) == (None, "7", True)
    assert learnt[-1] == end and learnt.count(end) == 1 and "3 + 4" not in tokenizer.decode(learnt)
    if family.reasoning is None:
        assert learnt == said, "the teacher's own tokens stay"
    elif chat.opens_thinking(tokenizer, prompt):
        assert tokenizer.decode(learnt).startswith("</think>"), (
            "the prompt opens the reasoning, whoever is asked"
        )
    else:
        whole = apply_template(tokenizer, [*question, {"role": "assistant", "content": "7"}])
        assert [*prompt, *learnt][: len(whole)] == whole[: len(prompt) + len(learnt)]


@pytest.mark.parametrize("student", ["qwen3", "qwen3.5", "llama"])
@each_family
def test_an_answer_is_told_to_a_student_of_another_family(family, student):
    """From text alone: what the student reads is what it will be asked with, ends as its own answers do, and says the same."""
    teacher, own = tokenizer_of(family), tokenizer_of(BY_NAME[student])
    for reasoning in ("keep", "drop"):
        recipe = load_recipe(QUICKSTART, [f"generate.reasoning={reasoning}"])
        _tell(recipe, Tokenizers(teacher, own, "another"), family)


def _tell(recipe, pair, family):
    teacher, own = pair.teacher, pair.student
    question = [{"role": "user", "content": "3 + 4?"}]
    asked = pair.prompt_ids(recipe, question)
    said = [*teacher.encode(family.said, add_special_tokens=False), teacher.eos_token_id]
    prompt, learnt = pair.training_ids(recipe, question, asked, said, chat.text_of(teacher, said))
    assert prompt == chat.prompt_ids(own, question) == pair.students_prompt_ids(recipe, question)
    assert learnt[-1] == own.eos_token_id and not set(learnt[:-1]) & set(chat.stop_ids(own, None))
    opened, wanted = (
        chat.opens_thinking(own, prompt),
        family.reasoning if recipe.generate.reasoning == "keep" else None,
    )
    assert chat.split_thinking(chat.text_of(own, learnt), opened=opened) == (wanted, "7", True)
    # the tokens that the student itself would write: those of the whole conversation
    assert own(own.decode([*prompt, *learnt]), add_special_tokens=False).input_ids == [
        *prompt,
        *learnt,
    ]


@pytest.mark.parametrize("name", ["gpt-oss", "llama"])
def test_a_prompt_is_the_same_tomorrow(name, monkeypatch):
    tokenizer = tokenizer_of(BY_NAME[name])
    text = tokenizer.decode(chat.prompt_ids(tokenizer, "hi"))
    assert ("2026-01-01" if name == "gpt-oss" else "01 Jan 2026") in text
    assert datetime.date.today().strftime("%Y-%m-%d") not in text


@pytest.mark.parametrize("name", ["qwen3.5", "gpt-oss"])
def test_where_packing_would_leak_it_does(name, loaded):
    """So that it is turned off for a reason: the second sample of a row is another one than alone."""
    here = loaded(BY_NAME[name])
    ids, positions = torch.arange(5, 25)[None], torch.arange(10).repeat(2)[None]
    packed = here.model.base_model(
        input_ids=ids, position_ids=positions, use_cache=False
    ).last_hidden_state[0, 10:]
    alone = here.model.base_model(input_ids=ids[:, 10:], use_cache=False).last_hidden_state[0]
    assert (packed - alone).abs().max() > 1e-2


CUTS = [
    ("deepseek-r1", {"num_hidden_layers": 6, "first_k_dense_replace": 3}, [0, 2, 5]),
    ("glm4.5", {"num_hidden_layers": 4}, [0, 3]),
    ("ernie4.5-moe", {"num_hidden_layers": 4}, [0, 3]),
    ("gpt-oss", {"num_hidden_layers": 4}, [0, 3]),
]


@pytest.mark.parametrize(("name", "changes", "kept"), CUTS)
def test_cut_layers_come_back_as_they_were(name, changes, kept, tmp_path):
    """A config that counts too many dense layers would load the student with random weights, and say so in a log only."""
    model = model_of(BY_NAME[name], tokenizer_of(BY_NAME[name]), **changes)
    keep_layers(model, kept)
    model.save_pretrained(tmp_path)
    ids = torch.arange(3, 20)[None]
    assert torch.equal(load.load_model(str(tmp_path), CPU)(ids).logits, model(ids).logits)


def test_layers_that_a_config_cannot_tell_are_refused():
    ernie = BY_NAME["ernie4.5-moe"]
    odd = model_of(ernie, tokenizer_of(ernie), num_hidden_layers=4, moe_layer_interval=2)
    with pytest.raises(MismatchError, match="cannot be told in its config"):
        keep_layers(odd, [0, 1, 3])


def test_a_hybrid_keeps_a_layer_of_full_attention(loaded):
    import copy

    model = copy.deepcopy(loaded(BY_NAME["qwen3.5"]).model)
    with pytest.raises(MismatchError, match="all linear attention"):
        keep_layers(model, [0])


def test_bitsandbytes_does_not_pass_off_whole_experts_as_quantized(loaded):
    with pytest.raises(
        MismatchError, match=r"nf4 leaves \d+% of its weights as they are.*teacher\.server"
    ):
        load.load_model(
            str(loaded(BY_NAME["qwen3-moe"]).folder), load.Placement("cpu", "float32", "nf4")
        )


@each_model
def test_the_plan_knows_how_big_a_model_is(family, loaded):
    here = loaded(family)
    size = sizes._size_from(json.loads((here.folder / "config.json").read_text()))
    assert size.parameters == pytest.approx(here.model.num_parameters(), rel=0.15)


def test_code_of_another_repository_is_refused(loaded, tmp_path):
    shutil.copytree(loaded(BY_NAME["qwen3"]).folder, tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    changed = config | {"auto_map": {"AutoModelForCausalLM": "someone/else--modeling.Model"}}
    (tmp_path / "model" / "config.json").write_text(json.dumps(changed))
    with pytest.raises(MismatchError, match="code of another repository"):
        load.load_model(str(tmp_path / "model"), CPU, trust_remote_code=True)


def test_code_is_fetched_only_when_it_is_trusted(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(
        "huggingface_hub.snapshot_download",
        lambda *_, allow_patterns, **__: asked.append(allow_patterns) or tmp_path,
    )
    find.local_folder("some/model", "abc")
    find.local_folder("some/model", "abc", code=True)
    assert "*.py" not in asked[0] and "*.py" in asked[1]
