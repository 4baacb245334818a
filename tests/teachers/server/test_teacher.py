"""A teacher on a server, whole: what it answers is what a student can learn."""

import dataclasses
import json

import pytest
from families import BY_NAME, tokenizer_of
from raw_server_helpers import (
    ExactServer,
    RawServer,
    answering,
    http,
    quickstart_tokenizer,
    teacher_on,
)
from run_helpers import QUICKSTART
from server_helpers import said

from distill import capture, chat, generate
from distill.chat.tokenizers import Tokenizers
from distill.core.jsonl import RowLog, read_jsonl, write_jsonl
from distill.core.processes import Processes
from distill.core.run_folder import RunFolder
from distill.data.samples import Prompt
from distill.errors import DataError
from distill.recipe import load_recipe
from distill.signals.from_server import packed
from distill.teachers import connect as connect_teacher
from distill.teachers.answers import raw_row
from distill.teachers.kept import candidate
from distill.teachers.requests import AnswerJob, Block, Request, RequestOptions


def quiet(text):
    pass


@pytest.mark.parametrize("shows", [{}, {"reasoning_content": "3 and 4"}], ids=["hidden", "apart"])
def test_an_answer_whose_reasoning_the_server_keeps_to_itself_is_whole(api, tmp_path, shows):
    """R1's template opens the reasoning in the prompt; an answer without a closing tag would be taken for one that was cut."""
    tokenizer = tokenizer_of(BY_NAME["deepseek-r1"])
    recipe = load_recipe(
        QUICKSTART,
        [
            f"teacher.server={api.url}",
            "generate.task=null",
            "generate.max_new_tokens=40",
            "languages=[en]",
        ],
    )
    prompt = Prompt(({"role": "user", "content": "What is 3 + 4?"},), "en")
    teacher = connect_teacher(recipe)
    teacher.tokenizers = Tokenizers(tokenizer, tokenizer)
    options = RequestOptions.of(recipe)
    request = Request("k", prompt, chat.prompt_ids(tokenizer, prompt.text), 0, 1)
    assert chat.opens_thinking(tokenizer, request.prompt_ids)
    completions = []
    for reason, text in (("stop", "They are seven apples."), ("length", "They are")):
        api.reply = lambda number, body, text=text, reason=reason: said(
            text, reason=reason, **shows
        )
        block = Block([request])
        teacher.answer(
            AnswerJob(iter([block]), options, {}, lambda q, a: completions.append(a), quiet)
        )
    full, cut = completions

    def candidate_of(completion):
        row = raw_row(teacher, request, completion, options)
        return candidate(recipe, request, row, teacher.tokenizers)

    whole = candidate_of(full)
    assert (whole.finish_reason, whole.answer_text) == ("stop", "They are seven apples.")
    assert whole.reasoning == shows.get("reasoning_content")
    learnt = tokenizer.decode([*request.prompt_ids, *full.token_ids])
    assert (
        learnt.count("<think>") == learnt.count("</think>") == 1
        and full.token_ids[-1] == tokenizer.eos_token_id
    )
    assert candidate_of(cut).finish_reason == "length"


@pytest.fixture
def exact_server():
    """A server whose answer to everything is right, with log-probs."""
    made, good = RawServer(), ExactServer(quickstart_tokenizer())
    made.send = answering(
        exact=lambda n, body: http(good.exact("4" if body["n_predict"] == 2 else "It is 4 apples."))
    )
    yield made
    made.stop()


def run_of_log_probs(server, folder):
    """(the recipe, its folder): four answers with their log-probs."""
    questions = (
        "the red ones",
        "the green ones",
        "those on the shelf",
        "what John sold today",
        "here",
    )
    prompts = [{"prompt": f"How many apples are {question}?"} for question in questions]
    write_jsonl(folder / "prompts.jsonl", prompts)
    some = [
        f"generate.prompts={folder}/prompts.jsonl",
        "generate.num_prompts=null",
        "generate.task=null",
        "languages=[en]",
        "evaluate.num_examples=1",
        "evaluate.prompts=null",
    ]
    teacher = teacher_on(server.url, *some, folder=folder, from_server=True)
    run = RunFolder.of(teacher.recipe)
    generate.run(teacher.recipe, run, Processes())
    return teacher.recipe, run


def rewritten(folder, change):
    """Change the rows of the log of answers, as an earlier version would have written them."""
    (path,) = (folder / "generate/raw").glob("*.jsonl")
    rows = [json.loads(line.rpartition("\t")[0]) for line in path.read_text().splitlines()]
    path.unlink()
    with RowLog(path.parent) as log:
        for number, row in enumerate(rows):
            log.append(row | change(number, row))
    return rows


def test_log_probs_in_the_log_that_are_none_get_no_soft_loss_and_that_is_said(
    exact_server, tmp_path, capsys
):
    """Earlier versions took them as they came; then capture died at each start."""
    recipe, run = run_of_log_probs(exact_server, tmp_path)
    k, vocab_size = recipe.capture.top_k, len(quickstart_tokenizer())

    def change(number, row):
        raw_logits = [dict.fromkeys(range(k), 14.5)] * len(row["token_ids"])
        return {"top_k": ["AAAA", packed(raw_logits, k, vocab_size), 7, row["top_k"]][number]}

    rewritten(tmp_path, change)
    output = capture.run(recipe, run, Processes())
    result, said = output.result, capsys.readouterr().err
    assert "with 3 of 4 answers is none" in said and "they get no soft loss" in said
    assert result.num_sequences == 4 and result.num_unknown == 3 * result.num_tokens // 4 + 1


def test_an_answer_of_ids_that_no_text_has_is_set_aside_and_asked_for_again(
    exact_server, tmp_path, capsys
):
    """The way out that capture names leads there."""
    recipe, run = run_of_log_probs(exact_server, tmp_path)
    whole = rewritten(
        tmp_path, lambda n, row: {"token_ids": [5000, *row["token_ids"]]} if n == 1 else {}
    )
    kept = tmp_path / "generate/kept.jsonl"
    rows = [row for _, row in read_jsonl(kept)]
    rows[1]["answer_ids"] = [5000, *rows[1]["answer_ids"]]
    write_jsonl(kept, rows)
    with pytest.raises(
        DataError, match=r"kept\.jsonl: the answer .* token id 5000.*--redo generate"
    ):
        capture.run(recipe, run, Processes())
    num_asked = len(exact_server.asked)
    output = generate.run(recipe, run, Processes())
    assert len(exact_server.asked) == num_asked + 2 + 1, "discovery, and the one answer"
    assert "1 rows are set aside, and asked for again" in capsys.readouterr().err
    assert output.result.num_kept == len(whole) and output.result.num_broken_log_lines == 1
    assert capture.run(recipe, run, Processes()).result.num_unknown == len(whole), "the end tokens"


def test_an_empty_answer_has_a_signal_of_which_nothing_is_known(exact_server, tmp_path):
    """Its end token is ours: no log-prob came with it."""
    good = ExactServer(quickstart_tokenizer())
    exact_server.send = answering(
        exact=lambda n, body: http(good.exact("4" if body["n_predict"] == 2 else ""))
    )
    teacher = teacher_on(exact_server.url, folder=tmp_path, from_server=True)
    options = RequestOptions.of(teacher.recipe)
    request = Request("k", Prompt(({"role": "user", "content": "?"},), "en"), [1], 0, 5)
    rows = []
    block = Block([request])
    job = AnswerJob(
        iter([block]),
        options,
        {},
        lambda q, a: rows.append(raw_row(teacher, q, a, options)),
        quiet,
    )
    teacher.answer(job)
    assert rows[0]["token_ids"] == teacher.stop_ids()[:1] and rows[0]["top_k"]


def test_no_more_log_probs_are_asked_for_than_leave_a_tail(tmp_path):
    teacher = teacher_on("http://127.0.0.1:1", folder=tmp_path)
    options = RequestOptions.of(teacher.recipe)
    for asked, given in ((0, 0), (20, 20), (1023, 1023), (1024, 1023), (9999, 1023)):
        sampling = dataclasses.replace(options.sampling, num_log_probs=asked)
        few = dataclasses.replace(options, sampling=sampling)
        assert teacher.num_log_probs(few) == teacher.full_sampling(few).num_log_probs == given
