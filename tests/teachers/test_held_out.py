"""What a teacher is asked for no student to learn is kept reply by reply: a kill pays for nothing twice."""

import signal
import threading
from collections import Counter

import pytest
from run_helpers import QUICKSTART, Forked, environment, signal_when
from server_helpers import said

from distill import evaluate
from distill.conduct import judge
from distill.conduct.answers import Told
from distill.conduct.outcomes import Outcome
from distill.conduct.sets import Item
from distill.core.progress import Progress
from distill.data.prompts import split_prompts
from distill.errors import Stopped
from distill.evaluation.eval_set import question_sets
from distill.recipe import load_recipe
from distill.teachers import connect
from distill.teachers.held_out import seconds_of

TEACHER = QUICKSTART.parent / "quickstart" / "teacher"
NUM, AT_ONCE = 24, 4


def teacher_of(folder, url, *more):
    served = [f"teacher.server={url}", f"generate.judge_server={url}", "generate.judge_model=one"]
    recipe = load_recipe(
        QUICKSTART,
        [
            *(served if url else []),
            "generate.judge_min_score=2",
            f"generate.concurrency={AT_ONCE}",
            f"evaluate.num_examples={NUM}",
            "generate.max_new_tokens=24",
            "evaluate.max_new_tokens=16",
            f"run_folder={folder}",
            *more,
        ],
    )
    return connect(recipe)


def sampled(teacher):
    """Ask as evaluate and the race do for the answers that students are scored on."""
    path = teacher.logs.answers.stage / "teacher_answers.jsonl"
    prompts = split_prompts(teacher.recipe)[1]
    with Progress("evaluate", len(prompts), "answers") as bar:
        evaluate.write_answers(teacher, prompts, path, bar)
        assert bar.done == len(prompts)
    return path.read_bytes()


def greedy(teacher):
    """Ask as evaluate and safety do for what is compared with the students' answers."""
    prompts, recipe = split_prompts(teacher.recipe)[1], teacher.recipe
    asked = question_sets(recipe, prompts, teacher.tokenizers, teacher.stop_ids(), TEACHER)[1]
    with Progress("safety", NUM, "answers") as bar:
        return teacher.evaluate(asked, bar).answers


def judged(teacher):
    told = [
        Told(Item(str(i), "harmful", "en", f"Why {i}?"), "No.", Outcome("refuses"), False, "cpu")
        for i in range(NUM)
    ]
    with Progress("safety", NUM, "replies of the judge") as bar:
        return judge.replies_of(teacher, told, bar)


KINDS = [sampled, greedy, judged]


def ask_there(kind, *arguments):
    kind(teacher_of(*arguments))


def questions(api):
    """Return how often each question came, without the probes of a connection."""
    texts = [body["messages"][-1]["content"] for body in api.asked if body["max_tokens"] > 2]
    return Counter(texts)


def replied(number, body):
    return said(f"4 and {len(body['messages'][-1]['content'])}")


@pytest.mark.parametrize("kind", KINDS)
def test_after_a_kill_only_what_was_in_flight_is_asked_again(api, tmp_path, kind):
    is_killed = threading.Event()

    def replied_till_then(number, body):
        if number > NUM // 2:
            is_killed.wait(60)
        return replied(number, body)

    api.reply = replied_till_then
    child = Forked(ask_there, kind, tmp_path, api.url, variables=environment())
    status = signal_when(child, lambda: len(api.asked) > NUM // 2 + AT_ONCE, signal.SIGKILL)
    assert status == -signal.SIGKILL
    is_killed.set()
    made = kind(teacher_of(tmp_path, api.url))
    times = questions(api)
    assert len(made) >= NUM and len(times) == NUM
    assert sum(times.values()) <= NUM + AT_ONCE and max(times.values()) == 2
    before = len(api.asked)
    assert kind(teacher_of(tmp_path, api.url)) == made and len(api.asked) == before
    assert kind(teacher_of(tmp_path, "http://127.0.0.1:1")) == made, "nobody need answer"


@pytest.mark.parametrize("kind", KINDS)
def test_a_limit_of_the_run_counts_what_was_used_for_these(api, tmp_path, kind):
    api.reply = replied
    for _ in range(2):
        with pytest.raises(Stopped, match=r"max_requests \(12 of 12\)"):
            kind(teacher_of(tmp_path, api.url, "generate.max_requests=12"))
    assert sum(questions(api).values()) <= 12
    kind(teacher_of(tmp_path, api.url, "generate.max_requests=200"))
    assert set(questions(api).values()) == {1}


def test_greedy_sampled_and_shorter_answers_are_not_taken_for_each_other(api, tmp_path):
    api.reply = replied
    sampled(teacher_of(tmp_path, api.url))
    greedy(teacher_of(tmp_path, api.url))
    greedy(teacher_of(tmp_path, api.url, "evaluate.max_new_tokens=8"))
    sampled(teacher_of(tmp_path, api.url, "seed=2", "evaluate.num_examples=3"))
    asked = [body for body in api.asked if body["max_tokens"] > 2]
    assert Counter((body["temperature"] > 0, body["max_tokens"]) for body in asked) == {
        (True, 24): NUM + 3,
        (False, 16): NUM,
        (False, 8): NUM,
    }


def test_what_a_server_refuses_is_asked_again_only_if_the_recipe_says_so(api, tmp_path):
    def refusing(number, body):
        is_probe = body["max_tokens"] <= 2
        return replied(number, body) if is_probe or number % 3 else (400, {"error": "no"})

    api.reply = refusing
    found = greedy(teacher_of(tmp_path, api.url))
    refused = sum(reason == "error" for _, reason in found)
    assert 0 < refused < NUM
    replies = [row["reply"] for row in judged(teacher_of(tmp_path, api.url))]
    assert 0 < replies.count("") < NUM, "an error's own words are no reply"
    api.reply = replied
    before = sum(questions(api).values())
    assert greedy(teacher_of(tmp_path, api.url)) == found
    assert sum(questions(api).values()) == before
    again = greedy(teacher_of(tmp_path, api.url, "generate.retry_errors=true"))
    assert {reason for _, reason in again} == {"stop"}
    assert sum(questions(api).values()) == before + refused


def test_a_teacher_loaded_here_says_the_same_bits_after_a_kill(tmp_path):
    more = ("teacher.batch_tokens=600",)
    whole = sampled(teacher_of(tmp_path / "whole", None, *more))
    made = sampled(teacher_of(tmp_path / "broken", None, *more))
    (log,) = (tmp_path / "broken" / "generate" / "held_out").glob("*.jsonl")
    lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join(lines[::2]) + lines[1][:30])
    assert sampled(teacher_of(tmp_path / "broken", None, *more)) == made == whole
    logged = (tmp_path / "broken" / "generate" / "held_out").glob("*.jsonl")
    keys = [line.split(b"\t")[0] for path in logged for line in path.read_bytes().splitlines()]
    assert sum(b"{" in key for key in keys) == len(lines) + 1, "the torn one, and none twice"


def test_the_speed_is_of_the_time_in_which_the_server_answered():
    def row(*span):
        return {"server": dict(zip(("start", "end"), span, strict=True))}

    rows = [row(100.0, 103.0), row(900.0, 901.0), row(101.0, 102.0), row(102.5, 104.0)]
    assert seconds_of(rows) == 5.0
    assert seconds_of([{}, {"server": None}, row("x", 1.0), row(None, None)]) == 0.0
