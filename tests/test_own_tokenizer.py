"""A student with a tokenizer of its own learns a teacher's text: from a server that gives text, and from a teacher loaded here."""

import json
import re
import shlex

import pytest
import torch
from families import BY_NAME, save
from log_helpers import read_row_logs
from result_helpers import generate_result
from run_helpers import QUICKSTART, ROOT

from distill import chat, evaluate, generate, plan
from distill.core.jsonl import read_jsonl
from distill.core.processes import Processes
from distill.core.progress import Progress
from distill.core.run_folder import Fingerprint, RunFolder, StageOutput
from distill.data.prompts import split_prompts
from distill.data.stored_samples import read_samples
from distill.errors import MismatchError, MissingError, RecipeError
from distill.evaluation.figures import figures_of
from distill.formats.answering import evaluate_model
from distill.models import load
from distill.pipeline import PLANNED, run
from distill.planning.sizes import teacher_size
from distill.recipe import load_recipe
from distill.teachers import connect
from distill.train import _require_own_tokens

TEXT = ["capture.signal=none", "train.soft_weight=0", "train.hard_weight=1"]
FEW = [
    "generate.num_prompts=30",
    "evaluate.num_examples=5",
    "evaluate.max_new_tokens=64",
    "train.max_steps=2",
    "quantize.num_sequences=4",
]


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    """A random Llama of two layers: another vocabulary, template and end of answer than the teacher's."""
    folder = tmp_path_factory.mktemp("llama")
    save(BY_NAME["llama"], folder)
    return folder


def recipe_of(folder, student, *more):
    own = [f"student={{method: base, model: {student}}}", f"run_folder={folder}"]
    return load_recipe(QUICKSTART, [*FEW, *TEXT, *own, *more])


def manifest(folder, stage):
    return json.loads((folder / stage / "manifest.json").read_text())["result"]


def test_a_whole_run_from_a_server_whose_tokenizer_nobody_has(
    proxy, student, tmp_path, capsys, monkeypatch
):
    served = [
        "teacher.model=somebody/big-model",
        "teacher.licence=kimi-modified-mit",
        f"teacher.server={proxy.url}",
        "teacher.server_gives=text",
        "student.licence=apache-2.0",
        "generate.concurrency=4",
    ]
    recipe = recipe_of(
        tmp_path, student, *served, "quantize.formats=[q8_0]", "generate.reasoning=drop"
    )
    own, loaded = load.load_tokenizer(str(student)), load.load_tokenizer
    with monkeypatch.context() as patch:
        patch.setattr(
            load,
            "load_tokenizer",
            lambda place, *a, **k: (
                loaded(place, *a, **k) if "big-model" not in place else pytest.fail()
            ),
        )
        run(recipe)
    said = capsys.readouterr()
    assert (
        "it learns the answers' text in its own" in said.out
        and "of unknown size, on a server" in manifest(tmp_path, "plan")["text"]
    )
    assert {body["path"] for body in proxy.asked} == {"/v1/chat/completions"}, (
        "exact ids would be another tokenizer's"
    )

    samples = read_samples(tmp_path / "generate/kept.jsonl")
    stops = chat.stop_ids(own, None)
    for sample in samples:
        assert sample.prompt_ids == chat.prompt_ids(own, sample.prompt)
        assert (
            chat.text_of(own, sample.answer_ids) == sample.answer
            and sample.answer_ids[-1] == own.eos_token_id
        )
        assert not set(sample.answer_ids[:-1]) & set(stops)
    trained = load.load_tokenizer(str(tmp_path / "train/student"))
    assert chat.fingerprint_of_format(trained) == chat.fingerprint_of_format(own), (
        "its own tokenizer and template"
    )

    figures = manifest(tmp_path, "evaluate")["models"]
    assert figures["teacher"]["nll"] is None and figures["teacher"]["exact_match"] > 0.5
    assert figures["teacher"]["nll_per_byte"] is None and figures["student"]["nll_per_byte"] > 0
    why = "the teacher has no NLL: where it runs, nothing is scored"
    assert why in said.err and why[4:] in manifest(tmp_path, "report")["text"]
    assert figures["student"]["nll"] > 0 and figures["q8_0"]["nll"] == pytest.approx(
        figures["student"]["nll"], abs=0.05
    )
    assert (
        "TEMPLATE" in (tmp_path / "quantize/Modelfile").read_text()
        and "<|eot_id|>" in (tmp_path / "quantize/Modelfile").read_text()
    )
    card = (tmp_path / "report/MODEL_CARD.md").read_text()
    assert (
        "asked on a server" in card
        and "in the student's own tokenizer (the teacher's is not known)" in card
    )
    assert manifest(tmp_path, "plan")["licence"]["level"] == "allow", (
        "of outputs; of probabilities it would be attribution"
    )
    line = next(
        row
        for row in manifest(tmp_path, "report")["text"].splitlines()
        if row.startswith("teacher")
    )
    assert line.split()[-4] == "–", "no number that could be compared"

    num_asked = len(proxy.asked)  # another student, another tokenizer: the answers are there
    other = tmp_path / "qwen3"
    save(BY_NAME["qwen3"], other)
    generate.run(recipe_of(tmp_path, other, *served), RunFolder.of(recipe), Processes())
    assert len(proxy.asked) == num_asked
    again = read_samples(tmp_path / "generate/kept.jsonl")
    assert [s.answer for s in again] == [s.answer for s in samples] and again[
        0
    ].prompt_ids != samples[0].prompt_ids


def test_a_teacher_loaded_here_is_asked_in_its_own_tokens(student, tmp_path):
    recipe = recipe_of(tmp_path, student, "quantize.formats=[]")
    run(recipe, stages=["generate", "capture", "initialize", "train"])
    teacher = connect(recipe)
    pair = teacher.tokenizers
    rows = {row["key"]: row for row in read_row_logs(tmp_path / "generate/raw")[0]}
    for _, kept in read_jsonl(tmp_path / "generate/kept.jsonl"):
        assert chat.text_of(pair.teacher, rows[kept["key"]]["token_ids"]) == kept["answer"]
        assert chat.text_of(pair.student, kept["answer_ids"]) == kept["answer"]
    prompts, trained = split_prompts(recipe)[1], tmp_path / "train/student"
    (tmp_path / "evaluate").mkdir()
    own = evaluate.TeacherEval(teacher, tmp_path / "evaluate", trained, prompts)
    with Progress("evaluate", 2 * len(prompts), "answers", shown=False) as bar:
        eval_set = evaluate.evaluate_teacher(own, bar)
        made = evaluate_model(eval_set, "student", trained, bar)
        figures = figures_of(eval_set, made)
    evaluated = json.loads(own.figures.read_text())
    assert evaluated["exact_match"] > 0.5
    assert eval_set.stop_ids == chat.stop_ids(pair.student, [pair.student.eos_token_id])

    # the teacher's answers are scored as the student would write them: its NLL by hand
    pairs = list(zip(eval_set.prompt_ids, eval_set.teacher_ids, strict=True))
    total = nats_of(trained, pairs, len(pair.student))
    assert total / sum(len(a or []) for a in eval_set.teacher_ids) == pytest.approx(
        figures["nll"], rel=1e-3
    )

    # and as the teacher wrote them, in its own tokens: the same texts, so the same bytes
    wrote = [
        (teacher.tokenizers.prompt_ids(recipe, list(prompt.messages)), row["token_ids"])
        for prompt, (_, row) in zip(prompts, read_jsonl(own.answers), strict=True)
        if row["finish_reason"] == "stop"
    ]
    num_bytes = sum(
        len(chat.text_of(pair.teacher, ids).strip().encode("utf-8")) for _, ids in wrote
    )
    teachers_nats = nats_of(QUICKSTART.parent / "quickstart/teacher", wrote, len(pair.asked))
    num_tokens = sum(len(ids) for _, ids in wrote)
    assert evaluated["nll"] == pytest.approx(teachers_nats / num_tokens, rel=1e-3)
    assert evaluated["nll_per_byte"] == pytest.approx(teachers_nats / num_bytes, rel=1e-3)
    assert figures["nll_per_byte"] == pytest.approx(total / num_bytes, rel=1e-3)
    check_report(run(recipe), tmp_path)


def nats_of(model_folder, pairs, vocab_size):
    """Nats of the answers after their prompts: (prompt ids, answer ids or None)."""
    model, total = load.load_model(str(model_folder), load.Placement("cpu", "float32")), 0.0
    for prompt, answer in pairs:
        if answer is not None:
            with torch.no_grad():  # rows of the embedding beyond the tokenizer stand for no token
                logits = model(torch.tensor([prompt + answer])).logits[
                    0, len(prompt) - 1 : -1, :vocab_size
                ]
            total -= float(logits.log_softmax(-1).gather(1, torch.tensor(answer)[:, None]).sum())
    return total


def check_report(result, folder):
    """The teacher's NLL stands beside the student's by the byte, and by the token nowhere."""
    rows = {row["model"]: row for row in result.table}
    assert rows["teacher"]["nll"] is None and rows["student"]["nll"] > 0
    assert 0 < rows["teacher"]["nll_per_byte"] < rows["student"]["nll_per_byte"]
    heading, _, teachers, *_ = result.text.splitlines()
    assert re.search(r"NLL +NLL/byte +KL", heading)
    assert teachers.split()[-5:-3] == ["–", f"{rows['teacher']['nll_per_byte']:.5f}"]
    card = (folder / "report/MODEL_CARD.md").read_text()
    assert "only NLL/byte" in card and teachers in card
    page = (folder / "report/report.html").read_text()
    assert "<th>NLL/byte</th>" in page and "so only this can be compared" in page
    nll = manifest(folder, "evaluate")["models"]["teacher"]["nll"]
    assert f"{nll:.4f}" not in result.text + card + page


def test_where_both_have_one_tokenizer_the_very_tokens_are_learnt(tmp_path):
    teacher = QUICKSTART.parent / "quickstart" / "teacher"
    pair = connect(recipe_of(tmp_path, teacher)).tokenizers
    assert pair.same and pair.difference is None
    answer = [5, 6, 7, pair.student.eos_token_id]
    assert pair.training_ids(recipe_of(tmp_path, teacher), [], [1, 2], answer, "anything else") == (
        [1, 2],
        answer,
    )


def test_a_signal_and_another_tokenizer_is_refused_with_the_way_out(student, tmp_path):
    recipe = load_recipe(QUICKSTART, [f"student={{method: base, model: {student}}}"])
    with pytest.raises(
        MismatchError,
        match=r"different tokenizers .*capture\.signal=none train\.soft_weight=0 train\.hard_weight=1",
    ):
        plan._check_tokenizers(recipe, plan._tokenizers_here(recipe))
    recipe = recipe_of(tmp_path, student)
    note = plan._check_tokenizers(recipe, plan._tokenizers_here(recipe))
    assert "its own tokenizer (vocabulary of" in (note or "")


def test_a_name_that_is_no_model_here_says_that_none_is_needed(student, tmp_path):
    recipe = recipe_of(tmp_path, student, "teacher.model=big-model", "teacher.server=http://h:1")
    for find in (lambda recipe: connect(recipe).tokenizers, teacher_size):
        with pytest.raises(MissingError, match=r"big-model.* set teacher\.server_gives=text"):
            find(recipe)


def test_the_pages_example_is_a_recipe_that_can_be_planned(student, tmp_path):
    """Kimi K2 by its API and a student of another family: the catalogue knows the licence, no file of the teacher is read."""
    page = (ROOT / "recipes/cross_tokenizer.md").read_text(encoding="utf-8")
    words = re.search(r"KIMI_KEY=.*?distill run (.*?[^\\])\n", page, re.DOTALL)
    assert words is not None
    source, *overrides = shlex.split(words[1].replace("\\\n", " "))
    recipe = load_recipe(
        ROOT / source,
        [
            *overrides,
            f"student.model={student}",
            "student.licence=apache-2.0",
            "train.max_length=512",  # the context of the tests' student
            f"run_folder={tmp_path}",
        ],
    )
    planned = plan.make_plan(recipe, RunFolder(tmp_path), PLANNED)
    assert (
        planned.licence.level == "allow"
        and "learning from its answers" in planned.licence.sentences[0]
    )
    assert "its own tokenizer (the teacher's is not known)" in planned.text
    assert planned.stages["generate"].memory < 1e9 and planned.stages["generate"].download < 1e9


@pytest.mark.parametrize(
    ("more", "way_out"),
    [
        (["teacher.server=null"], "name the server, or remove server_gives"),
        (
            ["capture.signal=sampled", "train.soft_weight=1"],
            "a signal is about the teacher's tokens. Set capture.signal to none",
        ),
        (["student={method: random}"], "Take method base or layers"),
        (
            ["generate.prompts=[{expand: magpie, num: 4}]", "generate.task=null"],
            "take self_instruct or personas",
        ),
    ],
)
def test_what_a_teacher_of_text_alone_cannot_do_is_refused(more, way_out, tmp_path):
    with pytest.raises(RecipeError, match=way_out):
        recipe_of(
            tmp_path, tmp_path, "teacher.server=http://h:1", "teacher.server_gives=text", *more
        )


def test_a_student_without_chat_template_is_said_before_anything_is_asked(student, tmp_path):
    tokenizer = load.load_tokenizer(str(student))
    tokenizer.chat_template = None
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_bytes((student / "config.json").read_bytes())
    with pytest.raises(
        MissingError, match=r"no chat template; take a chat model, or add chat_template\.jinja"
    ):
        generate.run(
            recipe_of(tmp_path / "run", tmp_path), RunFolder(tmp_path / "run"), Processes()
        )
    assert not (tmp_path / "run").exists()


def test_samples_in_other_tokens_than_the_students_are_not_learnt(student, tmp_path):
    folder, tokenizer = RunFolder(tmp_path), load.load_tokenizer(str(student))
    recipe = load_recipe(QUICKSTART, [])
    (tmp_path / "generate").mkdir()

    def generated(format_of: str) -> None:
        output = StageOutput(generate_result(format=format_of), [])
        folder.finish("generate", Fingerprint(), output, started=0.0)

    generated(chat.fingerprint_of_format(tokenizer))
    _require_own_tokens(recipe, folder, tokenizer)
    generated("of another")
    with pytest.raises(
        MismatchError, match="--redo generate`, which asks the teacher nothing again"
    ):
        _require_own_tokens(recipe, folder, tokenizer)


def test_an_answer_that_holds_a_token_of_the_students_is_dropped(student):
    tokenizer = load.load_tokenizer(str(student))
    assert chat.own_mark(tokenizer, "Llama ends with <|eot_id|> here.") == "<|eot_id|>"
    assert chat.own_mark(tokenizer, "<think>a</think> <|im_end|>") is None
