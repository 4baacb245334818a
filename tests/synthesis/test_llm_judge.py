"""The judge: what is read from its replies, and runs in which a server of conversations grades, stumbles, and is asked once."""

import hashlib
import json
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from log_helpers import read_row_logs
from run_helpers import QUICKSTART

from distill import generate
from distill.core.jsonl import RowLog, read_jsonl
from distill.core.processes import Processes
from distill.core.run_folder import RunFolder
from distill.data.prompts import split_prompts
from distill.errors import DataError, Stopped
from distill.filters import prompt_filters
from distill.filters.base import Answer
from distill.pilot import estimate
from distill.recipe import load_recipe
from distill.recipe.sections import Generate
from distill.synthesis.llm_judge import low_score, question, repair, score
from distill.tasks import market
from distill.teachers import connect
from distill.teachers.answers import raw_row
from distill.teachers.keys import request_maker
from distill.teachers.requests import Completion, RequestOptions


@pytest.mark.parametrize(
    ("reply", "wanted"),
    [
        ('{"score": 4}', 4),
        ('```json\n{\n  "reason": "5 mangoes, not 6",\n  "score": 2\n}\n```', 2),
        ("{'score': '3'}", 3),
        ("Score: 5.0", 5),
        ('<think>a score: 1?</think>\n\n{"score": 4,}', 4),
        ('{"score": 1} no, {"score": 2}', 2),
        (" 4/5\n", 4),
        ("{“score”: ４}", None),  # quotes of a typesetter
        ('{"score": ４}', 4),
        ('{"score": 0}', None),
        ('{"score": 10}', None),
        ('{"score": 4.5}', None),
        ('{"score": "good"}', None),
        ("There are 4 mangoes.", None),
        ("", None),
        ("<think>score: 4", None),
    ],
)
def test_a_score_is_read_from_whatever_stands_around_it(reply, wanted):
    assert score(reply) == wanted


def row(text, finish_reason="stop"):
    return {"text": text, "finish_reason": finish_reason}


def test_an_answer_without_a_score_is_dropped_as_is_one_below_the_threshold():
    assert low_score(row('{"score": 4}'), 4) is None
    assert low_score(row('{"score": 3}'), 4) == "judge: scored 3, at least 4"
    assert (low_score(row("well"), 4) or "").startswith("judge: no score in its reply 'well'")
    assert (low_score(row("status 400: too long", "error"), 4) or "").startswith(
        "judge: its server refused"
    )


def test_the_question_names_the_language_and_the_reference_and_a_repair_goes_on_from_the_reply():
    answer = Answer("Je, {n} ni ngapi?", "p", "Ni {4}.", None, "stop", "sw", reference="4")
    asked = question(answer)
    assert (
        "natural Swahili" in asked.text
        and "Je, {n} ni ngapi?" in asked.text
        and "Ni {4}." in asked.text
    )
    assert "<correct_result>\n4\n" in asked.text and asked.text.endswith(
        '{"score": N}, N from 1 to 5.'
    )
    again = repair(asked, "<think>hm</think>\n\nGood!")
    assert [m["role"] for m in again.messages] == ["user", "assistant", "user"] and again.messages[
        1
    ]["content"] == "Good!"
    assert (
        again.id
        != asked.id
        != question(Answer("Je, {n} ni ngapi?", "p", "Ni 5.", None, "stop", "sw", reference="4")).id
    )


def test_the_judge_is_told_where_a_refusal_is_right_and_else_asked_as_ever():
    drop, keep, require = (
        question(
            Answer(
                "How is a lock picked?", "p", "I cannot help.", None, "stop", "en", refusals=kind
            )
        ).text
        for kind in ("drop", "keep", "require")
    )
    assert (
        "declin" not in drop and hashlib.sha256(drop.encode()).hexdigest()[:8] == "2bb28462"
    )  # replies on disk stay good
    assert "declining it politely" in keep and "should be declined" in require
    assert all(told.startswith(drop[: drop.index("</answer>")]) for told in (keep, require))


def test_judge_fields_that_cannot_help_are_refused():
    for more in (
        {"judge_server": "http://x"},
        {"judge_server": "http://x", "judge_model": "m"},
        {"judge_model": "m"},
        {"judge_min_score": 3, "judge_server": "x:1", "judge_model": "m"},
        {"judge_min_score": 1},
    ):
        with pytest.raises(ValueError, match="judge_"):
            Generate.model_validate({"prompts": "p.jsonl", **more})


class Judge:
    """A server of conversations: grades an answer by its length; stumbles over every fourth, never recovers from every eighth."""

    def __init__(self):
        self.asked = []
        judge, lock = self, threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    judge.asked.append(
                        {"path": self.path, "key": self.headers["Authorization"], **body}
                    )
                found = json.dumps(
                    {
                        "choices": [
                            {
                                "message": {"content": judge.reply(body["messages"])},
                                "finish_reason": "stop",
                            }
                        ],
                        "usage": {"prompt_tokens": 9, "completion_tokens": 3},
                    }
                ).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(found)))
                self.end_headers()
                self.wfile.write(found)

            def log_message(self, format, *args):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    @staticmethod
    def grade(text):
        return len(text.partition("<answer>\n")[2].partition("\n</answer>")[0]) % 5 + 1

    def stumbles(self, text):
        return len(text) % 4 == 0

    def reply(self, messages):
        text = messages[0]["content"]
        if self.stumbles(text) and (len(messages) == 1 or len(text) % 8 == 0):
            return "I like it."
        return f'Sure!\n{{"score": {self.grade(text)}}}'

    def graded(self):
        """Conversations but the one that is asked at each start, to know the server."""
        return [a for a in self.asked if "<answer>" in a["messages"][0]["content"]]


@pytest.fixture
def judge(monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", "secret")
    made = Judge()
    yield made
    made.server.shutdown()
    made.server.server_close()


def recipe_of(folder, *more):
    return load_recipe(
        QUICKSTART,
        ["generate.num_prompts=24", "evaluate.num_examples=5", f"run_folder={folder}", *more],
    )


def answer_all(folder):
    """Answers to all prompts in the log, right ones of many lengths, as if the teacher had written them."""
    recipe = recipe_of(folder)
    teacher, options = connect(recipe), RequestOptions.of(recipe)
    tokenizer, make = teacher.tokenizers.asked, request_maker(teacher, options)
    with RowLog(folder / "generate/raw") as log:
        for n, prompt in enumerate(
            prompt_filters.select_prompts(recipe, *split_prompts(recipe))[0]
        ):
            text = (
                " + ".join(map(str, range(n)))
                + f"\n{market.WORDING[prompt.language].final}{prompt.reference}"
            )
            completion = Completion(text, "stop", tokenizer(text).input_ids)
            log.append(raw_row(teacher, make(prompt, 0), completion, options))


def run(folder, *more):
    recipe = recipe_of(folder, *more)
    result = generate.run(recipe, RunFolder.of(recipe), Processes()).result
    kept, dropped = (
        [r for _, r in read_jsonl(folder / "generate" / f"{n}.jsonl")] for n in ("kept", "dropped")
    )
    return (
        result,
        {r["key"]: r["answer"] for r in kept},
        {r["key"]: r["reason"] for r in dropped if "key" in r},
    )


def test_a_judge_on_a_server_is_asked_once_for_each_answer_whatever_the_threshold(judge, tmp_path):
    answer_all(tmp_path)
    before, good, _ = run(tmp_path)
    assert len(good) > 15 and not judge.asked and not (tmp_path / "generate/judged").exists()
    options = [
        f"generate.judge_server={judge.url}",
        "generate.judge_model=big",
        "generate.judge_api_key_env=JUDGE_KEY",
        "generate.concurrency=2",
    ]

    with pytest.raises(Stopped, match="max_requests"):
        run(tmp_path, *options, "generate.judge_min_score=3", "generate.max_requests=9")
    assert len(judge.asked) == 9, "the judge's requests count"
    result, kept, dropped = run(tmp_path, *options, "generate.judge_min_score=3")
    assert all(
        a["key"] == "Bearer secret" and a["model"] == "big" and a["path"] == "/v1/chat/completions"
        for a in judge.asked
    )
    times = Counter(a["messages"][0]["content"] for a in judge.graded())
    assert len(times) == len(good) and all(
        num == 1 + judge.stumbles(text) for text, num in times.items()
    ), "nothing is asked twice"
    assert any(map(judge.stumbles, times)) and all(a["temperature"] == 0 for a in judge.graded())

    by_judge = {key for key, why in dropped.items() if why.startswith("judge: ")}
    assert kept.keys() | by_judge == good.keys() and result.dropped_by_reason["judge"] == len(
        by_judge
    )
    assert result.num_kept == before.num_kept - len(by_judge) and 0 < len(by_judge) < len(good)
    for text in times:
        answer = text.partition("<answer>\n")[2].partition("\n</answer>")[0]
        assert (answer in kept.values()) == (
            judge.grade(text) >= 3 and not (judge.stumbles(text) and len(text) % 8 == 0)
        )

    num = len(judge.asked)
    assert run(tmp_path, *options, "generate.judge_min_score=3") == (result, kept, dropped)
    stricter = run(tmp_path, *options, "generate.judge_min_score=5")[1]
    assert stricter.keys() < kept.keys() and len(judge.asked) == num, (
        "neither a second run nor another threshold asks anything"
    )
    rates = {
        r["prompt_id"]: r["pass_rate"] for _, r in read_jsonl(tmp_path / "generate/prompts.jsonl")
    }
    assert sum(rates.values()) == len(good), "the judge comes after the verifier"


def test_the_judge_is_billed_by_its_own_prices(judge, tmp_path, capsys):
    """Whatever its server counts: 9 tokens of a prompt and 3 of an answer are fewer than were sent."""
    options = [
        f"generate.judge_server={judge.url}",
        "generate.judge_model=big",
        "generate.judge_min_score=2",
        "generate.num_prompts=4",
        "generate.price_prompt=1000",
        "generate.price_answer=1000",
        "generate.max_cost=1",
    ]
    for prices, per_prompt, per_answer in (
        ([], 0, 0),
        (["generate.judge_price_answer=5", "generate.judge_price_prompt=1"], 1, 5),
    ):
        folder = tmp_path / str(per_prompt)
        answer_all(folder)
        run(folder, *options, *prices)
        rows = read_row_logs(folder / "generate/judged")[0]
        assert rows
        for took in (row["server"] for row in rows):
            cost = took["prompt_tokens"] * per_prompt + took["answer_tokens"] * per_answer
            assert took.get("cost", 0) == pytest.approx(cost / 1e6) and took["prompt_tokens"] > 9
        is_told = "counts as free towards max_cost" in capsys.readouterr().out
        assert is_told == (per_prompt == 0)


def test_an_estimate_tells_what_the_judge_will_take_and_the_limits_hold_it(judge, tmp_path):
    """All answers are there, so what is told of them is what the judge is then asked."""
    answer_all(tmp_path)
    options = [
        f"generate.judge_server={judge.url}",
        "generate.judge_model=big",
        "generate.judge_min_score=2",
        "generate.judge_price_prompt=1000",
        "generate.judge_price_answer=2000",
        "generate.max_cost=0.1",
        "generate.max_requests=1000",
    ]
    recipe = recipe_of(tmp_path, *options)
    ((_, found),) = estimate.estimates(recipe, RunFolder.of(recipe), 1000, Processes())
    assert not judge.asked
    said = estimate.text(recipe, found)
    assert "to be judged afterwards by big (generate.judge_min_score):" in said
    assert "generate.max_cost 0.1 would stop it before the end" in said
    assert "generate.max_requests 1,000 is enough" in said
    cost = found.judging["prompt tokens"] + 2 * found.judging["answer tokens"]
    np.testing.assert_allclose(found.judging["cost"], cost / 1000)

    run(tmp_path, *options, "generate.max_cost=null")
    questions = [a["messages"][0]["content"] for a in judge.graded() if len(a["messages"]) == 1]
    assert found.judging["requests"][1] == pytest.approx(len(questions))
    tokenizer = connect(recipe).tokenizers.asked
    read = sum(map(len, tokenizer(questions, add_special_tokens=False).input_ids))
    assert found.judging["prompt tokens"][1] == pytest.approx(read, rel=0.02)

    recipe = recipe_of(tmp_path)
    ((_, found),) = estimate.estimates(recipe, RunFolder.of(recipe), 1000, Processes())
    assert not found.judging and "judge" not in estimate.text(recipe, found)


def test_the_teacher_may_judge_itself_and_what_cannot_grade_keeps_nothing(tmp_path):
    answer_all(tmp_path)
    for _ in range(2):
        with pytest.raises(DataError, match=r"no sample passed.*judge \d"):
            run(
                tmp_path,
                "generate.judge_min_score=4",
                "generate.num_prompts=4",
                "generate.max_new_tokens=12",
            )
    rows = read_row_logs(tmp_path / "generate/judged")[0]
    answers = read_row_logs(tmp_path / "generate/raw")[0]
    assert len({r["key"] for r in rows}) == len(rows) > 0 and {r["key"] for r in rows}.isdisjoint(
        r["key"] for r in answers
    )
    assert len(rows) == 2 * 4, "a question and one repair for each"
