"""A server that is asked how likely given tokens are: what it must say, and what is refused."""

import math

import pytest
import torch
from raw_server_helpers import RawServer, http, quickstart_tokenizer, teacher_on
from scoring_helpers import as_vllm
from server_helpers import TEACHER

from distill.core.jsonl import row_logs
from distill.errors import MissingError, ServerError
from distill.models import load
from distill.planning import preflight
from distill.signals.columns import Columns
from distill.signals.encoding import TopKRecord
from distill.signals.header import SignalHeader
from distill.teachers import connect_to_score
from distill.teachers.base import SignalSequence
from distill.teachers.server.scoring import ScoringTeacher

TOP_K = 5
SIGNAL = ["capture.from_server=true", "capture.signal=top_k", f"capture.top_k={TOP_K}"]
SEQUENCES = [
    SignalSequence("00" * 16, "a", [1, 40, 41], [50, 51, 2]),
    SignalSequence("11" * 16, "b", [1, 42], [52, 2]),
]
OWN = [sequence.ids for sequence in SEQUENCES]
KIND = "scores of a server"


@pytest.fixture
def server():
    made = RawServer()
    yield made
    made.stop()


@pytest.fixture(scope="module")
def weights():
    return load.load_model(str(TEACHER), load.Placement("cpu", "float32"))


def scoring(url, folder, *more) -> ScoringTeacher:
    recipe = teacher_on(url, *SIGNAL, *more, folder=folder).recipe
    teacher = connect_to_score(recipe)
    assert isinstance(teacher, ScoringTeacher)
    teacher.first_delay = 0.0
    return teacher


def header(teacher):
    return SignalHeader("top_k", len(teacher.tokenizers.asked), top_k=TOP_K)


def signals(teacher, captured=()):
    columns = Columns(len(teacher.tokenizers.asked))
    return list(teacher.signals(header(teacher), columns, [SEQUENCES], set(captured)))


def test_it_says_of_given_tokens_what_the_weights_say(server, weights, tmp_path):
    server.send = lambda number, path, body: http(as_vllm(weights, body["prompt"], TOP_K))
    teacher = scoring(server.url, tmp_path)
    for sequence, record, hidden in signals(teacher):
        assert isinstance(record, TopKRecord)
        assert hidden is None and record.num_tokens == len(sequence.answer_ids)
        with torch.no_grad():
            logp_TV = weights(torch.tensor([sequence.ids])).logits[0].log_softmax(-1)
        start = len(sequence.prompt_ids) - 1
        for t in range(record.num_tokens):
            top = logp_TV[start + t].topk(TOP_K)
            assert sorted(top.indices.tolist()) == record.ids[t].tolist()
            assert math.exp(record.tail_logp[t]) == pytest.approx(
                1 - float(top.values.exp().sum()), abs=1e-5
            )
    asked = [body for _, body in server.asked]
    assert asked[-1]["max_tokens"] == 1 and asked[-1]["prompt_logprobs"] == TOP_K
    assert [body["prompt"] for body in asked[1:]] == [s.ids for s in SEQUENCES]


def test_what_is_there_is_not_asked_again_and_what_was_asked_counts(server, weights, tmp_path):
    server.send = lambda number, path, body: http(as_vllm(weights, body["prompt"], TOP_K))
    teacher = scoring(server.url, tmp_path)
    found = signals(teacher, captured=[SEQUENCES[0].key])
    assert [sequence.key for sequence, _, _ in found] == [SEQUENCES[1].key]
    rows = list(row_logs(tmp_path / "generate/scored", []))
    assert [row["key"] for row in rows] == [SEQUENCES[1].key]
    assert rows[0]["server"]["prompt_tokens"] == len(SEQUENCES[1].ids)
    assert teacher.logs.usage_log().total().requests == 1


def test_a_server_that_cannot_score_is_told_at_plan_with_the_way_out(server, tmp_path):
    """llama.cpp's and most others know no prompt_logprobs, and leave them out."""
    plain = {"choices": [{"text": "a", "finish_reason": "length"}], "usage": {}}
    server.send = lambda number, path, body: http(plain)
    recipe = teacher_on(server.url, *SIGNAL, "rounds.num_rounds=1", folder=tmp_path).recipe
    with pytest.raises(ServerError, match=r"vLLM alone gives .*set capture\.from_server to false"):
        preflight.check_scoring(recipe)


def test_a_server_that_is_away_at_plan_is_a_warning(tmp_path):
    recipe = teacher_on(
        "http://127.0.0.1:9", *SIGNAL, "rounds.num_rounds=1", folder=tmp_path
    ).recipe
    assert "was not asked" in (preflight.check_scoring(recipe) or "")
    with pytest.raises(MissingError):
        ScoringTeacher(recipe).check()


def test_a_server_that_reads_the_ids_as_other_text_scores_another_text(server, weights, tmp_path):
    """It repeats the ids that it was sent, and its log-probs are fine: of another vocabulary."""
    letters = [chr(ord("a") + i % 26) for i in range(len(quickstart_tokenizer()))]
    server.send = lambda number, path, body: http(
        as_vllm(weights, body["prompt"], TOP_K, letters.__getitem__)
    )
    with pytest.raises(ServerError, match=r"as other text than the tokenizer.*another vocabulary"):
        scoring(server.url, tmp_path).check()


def test_without_rounds_nobody_is_asked(tmp_path):
    recipe = teacher_on("http://127.0.0.1:9", *SIGNAL, folder=tmp_path).recipe
    assert preflight.check_scoring(recipe) is None


def broken(choice):
    """Answers of which each is wrong in one way."""
    rows = choice["prompt_logprobs"]
    last = rows[-1]
    own = str(choice["prompt_token_ids"][-1])
    return {
        "no scores": {"prompt_logprobs": None},
        "too few": {"prompt_logprobs": rows[:-1]},
        "too many": {"prompt_logprobs": [*rows, last]},
        "of the first token": {"prompt_logprobs": [last, *rows[1:]]},
        "of no token": {"prompt_logprobs": [*rows[:-1], None]},
        "not its own": {
            "prompt_logprobs": [*rows[:-1], {k: v for k, v in last.items() if k != own}]
        },
        "not finite": {"prompt_logprobs": [*rows[:-1], last | {own: {"logprob": -math.inf}}]},
        "NaN": {"prompt_logprobs": [*rows[:-1], last | {own: {"logprob": math.nan}}]},
        "above 0": {"prompt_logprobs": [*rows[:-1], last | {own: {"logprob": 3.0}}]},
        "no number": {"prompt_logprobs": [*rows[:-1], last | {own: {"logprob": "x"}}]},
        "a bare number": {"prompt_logprobs": [*rows[:-1], last | {own: -1.0}]},
        "an id that is none": {"prompt_logprobs": [*rows[:-1], last | {"x": {"logprob": -9.0}}]},
        "an id below 0": {"prompt_logprobs": [*rows[:-1], last | {"-4": {"logprob": -9.0}}]},
        "an id too large": {
            "prompt_logprobs": [*rows[:-1], last | {"99999999": {"logprob": -9.0}}]
        },
        "other ids": {"prompt_token_ids": [*choice["prompt_token_ids"][:-1], 3]},
        "no ids": {"prompt_token_ids": None},
        "too small": {
            "prompt_logprobs": [None, *({k: {"logprob": -60.0} for k in r} for r in rows[1:])]
        },
        "fewer than asked": {
            "prompt_logprobs": [None, *({own: {"logprob": -0.1}} for _ in rows[1:])]
        },
    }


def test_what_is_no_score_of_these_tokens_is_never_learnt(server, weights, tmp_path, tally):
    """First from the probe on, then of a server that was good when it was found."""
    names = list(broken(as_vllm(weights, SEQUENCES[0].ids, TOP_K)["choices"][0]))
    for first_bad in (0, 1):
        for name in names:
            num_good = len(server.asked) + first_bad

            def send(number, path, body, name=name, num_good=num_good, first_bad=first_bad):
                reply = as_vllm(weights, body["prompt"], TOP_K)
                if number >= num_good and (not first_bad or body["prompt"] in OWN):
                    choice = reply["choices"][0]
                    choice.update(broken(choice)[name])
                return http(reply)

            server.send = send
            teacher = scoring(server.url, tmp_path / name.replace(" ", "-") / str(first_bad))
            tally.must_refuse(f"{name} {first_bad}", lambda teacher=teacher: signals(teacher))
