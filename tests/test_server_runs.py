"""generate through a real server (llama.cpp's own), with kills and faults: nothing is paid twice, nothing is lost."""

import csv
import json
import shutil
import signal
import threading
import time

import pytest
from log_helpers import read_row_logs
from run_helpers import (
    QUICKSTART,
    SHARED_DATA,
    killed_when,
    made_once,
    run,
    run_forked,
    start_forked,
)
from server_helpers import TEACHER, log_probs_against_the_weights

from distill.core.jsonl import read_jsonl, write_jsonl
from distill.errors import RecipeError
from distill.recipe import load_recipe

MGSM = SHARED_DATA / "mgsm"
NUM = 80
CONCURRENCY = 6


def arguments(folder, url, *more):
    return [
        QUICKSTART,
        f"teacher.server={url}",
        f"run_folder={folder}",
        f"generate.num_prompts={NUM}",
        f"generate.concurrency={CONCURRENCY}",
        "generate.sampling_temperature=0",
        *more,
    ]


def logged(folder):
    return read_row_logs(folder / "generate/raw")[0] if (folder / "generate/raw").is_dir() else []


def kept(folder):
    return {
        row["prompt_id"]: row["answer"] for _, row in read_jsonl(folder / "generate/kept.jsonl")
    }


@pytest.fixture(scope="module")
def unbroken(llama_server, tmp_path_factory):
    def make(folder):
        result = run_forked(*arguments(folder, llama_server), word="generate")
        assert result.returncode == 0, result.stderr[-2000:]

    return made_once(tmp_path_factory, "served", make)


def asked(proxy):
    """Requests for answers, without the probes at the start of every run."""
    return [a for a in proxy.asked if a.get("n_predict", a.get("max_tokens")) > 2]


def test_killed_twice_behind_a_failing_proxy_every_answer_is_there_once(proxy, unbroken, tmp_path):
    faults = {7: "429", 20: "cut", 33: "500", 41: "not json", 60: "503", 77: "cut"}
    proxy.trouble = lambda number, path: faults.get(number)
    folder = tmp_path / "run"
    for enough in (25, 50):
        status = killed_when(
            arguments(folder, proxy.url), lambda enough=enough: len(logged(folder)) >= enough
        )
        assert status == -signal.SIGKILL
    # what a power cut leaves: a torn line and zeros at the end of a file
    newest = max((folder / "generate/raw").glob("*.jsonl"), key=lambda p: p.stat().st_mtime)
    newest.write_bytes(newest.read_bytes() + b'{"key": "half an ans' + bytes(64))
    result = run_forked(*arguments(folder, proxy.url), word="generate")
    assert result.returncode == 0, result.stderr[-2000:]

    rows = logged(folder)
    num = len({row["key"] for row in logged(unbroken)})
    assert len(rows) == num and len({row["key"] for row in rows}) == num
    assert len(asked(proxy)) <= num + len(faults) + 2 * CONCURRENCY, (
        "no call beyond those in flight at a kill"
    )
    mine, theirs = kept(folder), kept(unbroken)
    same = sum(theirs.get(key) == answer for key, answer in mine.items())
    assert same >= 0.98 * len(theirs)  # another batch rounds differently: a near tie may turn
    assert (
        json.loads((folder / "generate/manifest.json").read_text())["result"][
            "num_broken_log_lines"
        ]
        == 1
    )


def test_a_second_run_asks_nothing_and_a_changed_filter_neither(proxy, unbroken, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(unbroken, folder)
    assert run_forked(*arguments(folder, proxy.url), word="generate").returncode == 0
    changed = run_forked(
        *arguments(folder, proxy.url, "generate.max_characters=40"),
        "--redo",
        "generate",
        word="generate",
    )
    assert changed.returncode == 0, changed.stderr[-2000:]
    assert not proxy.asked and len(kept(folder)) < len(kept(unbroken))


def test_more_prompts_ask_only_the_new_ones_and_a_longer_limit_only_what_was_cut(
    proxy, unbroken, tmp_path
):
    folder = tmp_path / "run"
    shutil.copytree(unbroken, folder)
    before = len(logged(folder))
    more = run_forked(
        *arguments(folder, proxy.url, f"generate.num_prompts={NUM + 10}"),
        "--redo",
        "generate",
        word="generate",
    )
    assert more.returncode == 0, more.stderr[-2000:]
    new = len(logged(folder)) - before
    assert len(asked(proxy)) == new and 5 <= new <= 10
    cut = sum(row["finish_reason"] == "length" for row in logged(folder))
    proxy.asked.clear()
    limits = [f"generate.num_prompts={NUM + 10}", "generate.max_new_tokens=97"]
    assert (
        run_forked(
            *arguments(folder, proxy.url, *limits), "--redo", "generate", word="generate"
        ).returncode
        == 0
    )
    assert len(asked(proxy)) == cut


def test_a_limit_keeps_what_was_paid_for_and_says_how_to_go_on(proxy, tmp_path):
    folder = tmp_path / "run"
    stopped = run_forked(*arguments(folder, proxy.url, "generate.max_requests=20"), word="generate")
    assert (
        stopped.returncode == 130
        and "generate.max_requests" in stopped.stderr
        and "same command" in stopped.stderr
    )
    assert 15 <= len(logged(folder)) <= 20
    assert run_forked(*arguments(folder, proxy.url), word="generate").returncode == 0
    assert len(logged(folder)) == len({row["key"] for row in logged(folder)}) > 60


def test_a_key_never_reaches_a_file_or_the_terminal(proxy, tmp_path):
    folder = tmp_path / "run"
    result = run_forked(
        *arguments(folder, proxy.url, "generate.num_prompts=10", "teacher.api_key_env=MY_KEY"),
        word="generate",
        MY_KEY="sk-secret-77",
    )
    assert result.returncode == 0, result.stderr[-2000:]
    assert {h["Authorization"] for h in proxy.headers} == {"Bearer sk-secret-77"}
    assert "sk-secret-77" not in result.stdout + result.stderr
    for path in folder.rglob("*"):
        assert not path.is_file() or b"sk-secret-77" not in path.read_bytes()


def test_a_whole_run_from_a_server_that_gives_text_only(proxy, tmp_path):
    """Text in, text out: no signal, the student learns the text; every stage says what it had."""
    proxy.trouble = lambda number, path: "404" if path == "/completion" else None
    folder = tmp_path / "run"
    result = run(
        *arguments(folder, proxy.url, "generate.num_prompts=40", "generate.sampling_temperature=1"),
        "capture.signal=none",
        "train.soft_weight=0",
        "train.hard_weight=1",
        "train.epochs=1",
        "quantize.formats=[q8_0]",
        "evaluate.num_examples=10",
        "evaluate.max_new_tokens=48",
    )
    assert result.returncode == 0, result.stderr[-3000:]
    assert "text only" in result.stderr and "no gain to tell" in result.stdout
    evaluated = json.loads((folder / "evaluate/manifest.json").read_text())["result"]["models"]
    assert evaluated["teacher"]["exact_match"] > 0.5 and evaluated["teacher"]["nll"] is None
    assert "the teacher has no NLL: where it runs, nothing is scored" in result.stderr
    assert evaluated["teacher"]["nll_per_byte"] is None and evaluated["student"]["nll_per_byte"] > 0
    assert evaluated["student"]["nll"] > 0 and (folder / "report/report.html").is_file()
    assert not list(folder.glob("capture/signals/*"))


def test_a_whole_run_on_log_probs_that_came_with_the_answers(proxy, tmp_path):
    """No weights: the signal is the server's, killed and capped on the way, and what a pass over the weights says."""
    folder = tmp_path / "run"
    given = arguments(
        folder,
        proxy.url,
        "generate.num_prompts=40",
        "generate.sampling_temperature=1",
        "capture.signal=top_k",
        "capture.top_k=20",
        "capture.from_server=true",
        "train.epochs=1",
        "quantize.formats=[]",
        "evaluate.num_examples=10",
        "evaluate.max_new_tokens=48",
    )
    assert killed_when(given, lambda: len(logged(folder)) >= 15) == -signal.SIGKILL
    result = run_forked(*given)
    assert result.returncode == 0, result.stderr[-3000:]
    assert "20 log-probs with each" in result.stderr
    rows = logged(folder)
    assert len(rows) == len({row["key"] for row in rows}) and all(row["top_k"] for row in rows)

    captured, worst, in_common = log_probs_against_the_weights(folder)
    assert captured["num_unknown"] <= 0.01 * captured["num_tokens"]
    assert worst < 0.05 and in_common > 19.5  # the server computes in float16
    assert "text only" not in result.stderr and (folder / "report/report.html").is_file()

    shutil.rmtree(
        folder / "capture"
    )  # taken over once more, by claims: the log is read once, however small the shards
    assert (
        run_forked(*given, "capture.shard_tokens=300", "--shard", "auto", word="capture").returncode
        == 0
    )
    assert sorted(path.suffix for path in (folder / "capture/leases").iterdir()) == [".0", ".done"]
    result = run_forked(*given, "capture.shard_tokens=300", word="capture")
    assert result.returncode == 0 and "from the server's answers" not in result.stderr
    assert (
        json.loads((folder / "capture/manifest.json").read_text())["result"]["num_tokens"]
        == captured["num_tokens"]
    )


@pytest.mark.parametrize(
    "fields, way_out",
    [
        (["teacher.server=null"], "name the server"),
        (["capture.signal=sampled"], "set signal to top_k"),
        (["capture.hidden_states=int8"], "set hidden_states to none"),
        (["generate.reasoning=drop"], "set reasoning to keep or short"),
    ],
)
def test_log_probs_that_cannot_be_had_from_a_server_are_refused(fields, way_out):
    recipe = [
        "teacher.server=http://h:1",
        "capture.signal=top_k",
        "capture.from_server=true",
        *fields,
    ]
    with pytest.raises(RecipeError, match=way_out):
        load_recipe(QUICKSTART, recipe)


def test_no_signal_and_a_soft_weight_is_refused(tmp_path):
    result = run_forked(QUICKSTART, "capture.signal=none", f"run_folder={tmp_path / 'run'}")
    assert (
        result.returncode == 2
        and "soft_weight to 0" in result.stderr
        and not (tmp_path / "run").exists()
    )


@pytest.mark.skipif(
    not MGSM.is_dir(), reason="MGSM is not beside the checkout (../shared/data/mgsm)"
)
def test_real_prompts_in_five_languages_with_a_kill_in_the_middle(real_proxy, request, tmp_path):
    codes = ("en", "zh", "sw", "bn", "th")
    each = 3 if "transformers_server" in request.node.name else 12  # that one answers one at a time
    rows = []
    for code in codes:
        with open(MGSM / f"mgsm_{code}.tsv", encoding="utf-8", newline="") as f:
            lines = list(csv.reader(f, delimiter="\t", quoting=csv.QUOTE_NONE))[:each]
        rows += [
            {"prompt": question, "language": code, "reference": number}
            for question, number in lines
        ]
    write_jsonl(tmp_path / "prompts.jsonl", rows)
    folder = tmp_path / "run"
    given = arguments(
        folder,
        real_proxy.url,
        f"generate.prompts={tmp_path / 'prompts.jsonl'}",
        "generate.task=null",
        "evaluate.prompts=null",
        "generate.max_new_tokens=32",
        f"languages=[{', '.join(codes)}]",
        "capture.signal=none",
        "train.soft_weight=0",
        "train.hard_weight=1",
        f"teacher.server_model={TEACHER}",
    )
    assert killed_when(given, lambda: len(logged(folder)) >= each) == -signal.SIGKILL
    result = run_forked(*given, word="generate")
    assert result.returncode in (0, 2), result.stderr[
        -2000:
    ]  # a teacher of market problems may say nothing worth keeping
    if result.returncode == 2:
        assert "no sample passed the filters" in result.stderr
    found = logged(folder)
    assert len(found) == len({row["key"] for row in found}) >= 0.75 * len(rows)
    assert len(asked(real_proxy)) <= len(found) + CONCURRENCY


@pytest.mark.parametrize(
    "shards", [("1/3", "2/3", "3/3"), ("auto", "auto", "auto")], ids=["shares", "claims"]
)
def test_three_jobs_share_one_folder_one_is_killed_and_the_run_asks_only_for_the_rest(
    proxy, unbroken, tmp_path, shards
):
    opened = threading.Event()  # from the 40th request on the server waits for us
    proxy.trouble = lambda number, path: None if number < 40 or opened.wait(300) else "500"
    folder = tmp_path / "run"
    given = arguments(folder, proxy.url)
    jobs = [start_forked(*given, "--shard", shard, word="generate") for shard in shards]
    end = time.monotonic() + 300
    while (len(proxy.asked) < 40 or len(logged(folder)) < 25) and time.monotonic() < end:
        time.sleep(0.01)
    jobs[1].send_signal(signal.SIGKILL)
    beside = run_forked(*given, word="generate")
    opened.set()
    assert [job.wait(300) for job in jobs] == [0, -signal.SIGKILL, 0]
    assert beside.returncode == 2 and "another process works in this run folder" in beside.stderr
    assert not (folder / "generate/kept.jsonl").exists(), "a shard judges nothing"
    num = len(logged(unbroken))
    assert num / 2 < len(logged(folder)) < num
    assert run_forked(*given, word="generate").returncode == 0
    assert len(logged(folder)) == len({row["key"] for row in logged(folder)}) == num
    assert len(asked(proxy)) <= num + CONCURRENCY
    mine, theirs = kept(folder), kept(unbroken)
    assert len(mine.keys() & theirs.keys()) >= 0.98 * len(
        theirs
    )  # other batches round differently: a near tie may turn


@pytest.mark.parametrize("shard", ["0/3", "4/3", "1", "a/b", "-1/3"])
def test_a_wrong_shard_is_refused(shard, tmp_path):
    wrong = run_forked(
        QUICKSTART, f"--shard={shard}", f"run_folder={tmp_path / 'run'}", word="generate"
    )
    assert wrong.returncode == 2 and "I/N" in wrong.stderr and not (tmp_path / "run").exists()
