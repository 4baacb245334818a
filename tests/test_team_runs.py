"""Runs whose teacher several ranks hold together: what comes of it is what one process makes."""

import json
import re
import shutil
import signal
import time

import pytest
from benchmark_helpers import FRUIT, FRUIT_ROWS, SUMS, SUMS_ROWS, write
from log_helpers import read_row_logs
from run_helpers import QUICKSTART, call_distill, sha, small
from safetensors.torch import load_file, save_file
from sharding_helpers import ranks

from distill import benchmark, capture, evaluate, generate, pipeline, safety
from distill.benchmarks.reading import read_all
from distill.core.progress import Progress
from distill.core.run_folder import RunFolder
from distill.core.stored_json import write_json
from distill.core.watch import ENDED
from distill.data.prompts import split_prompts
from distill.evaluation.eval_set import question_sets
from distill.models.sampling import Sampling
from distill.pipeline import at_work
from distill.recipe import load_recipe
from distill.signals.store import SignalStore
from distill.teachers.held_out import answers_to
from distill.teachers.requests import RequestOptions
from distill.teachers.routes import routes_of

TEACHER = QUICKSTART.parent / "quickstart/teacher"
PARTS = "teacher.tensor_parallel=2"
ASKS = ["generate", "capture"]
SHORT = RequestOptions(Sampling(max_new_tokens=4))


def save_teacher(folder):
    """The quickstart's teacher with each of its three key/value heads written twice, so that two ranks can share them."""
    shutil.copytree(TEACHER, folder)
    config = json.loads((folder / "config.json").read_text())
    heads, width = config["num_key_value_heads"], config["head_dim"]
    config["num_key_value_heads"] = config["num_attention_heads"]
    (folder / "config.json").write_text(json.dumps(config))
    (file,) = folder.glob("*.safetensors")
    weights = load_file(file)
    for name, weight in weights.items():
        if name.endswith(("k_proj.weight", "v_proj.weight")):
            each = weight.view(heads, width, -1).repeat_interleave(2, dim=0)
            weights[name] = each.reshape(2 * heads * width, -1).contiguous()
    save_file(weights, file, {"format": "pt"})


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("teams")
    save_teacher(folder / "teacher")
    return folder


def words_of(place, name, *more):
    """Three or four blocks of answers."""
    given = [
        f"teacher.model={place / 'teacher'}",
        "generate.num_prompts=12",
        "generate.max_new_tokens=40",
        "teacher.batch_tokens=400",
        "evaluate.num_examples=12",
        "evaluate.max_new_tokens=4",
    ]
    return small(place / name, *given, *more)


def launched(num, words, stages):
    return ranks(call_distill, num, ["run", *map(str, words), "--stages", ",".join(stages)])


def ended(started):
    results = [one.result(240) for one in started]
    assert [r.returncode for r in results] == [0] * len(results), "".join(
        r.stderr[-2500:] for r in results
    )
    return results


@pytest.fixture(scope="module")
def alone(place):
    """Answers and signals of one process."""
    file, *more = map(str, words_of(place, "alone"))
    pipeline.run(load_recipe(file, more), stages=ASKS)
    return place / "alone"


def stored(folder):
    (shards,) = (folder / "capture/signals").iterdir()
    return SignalStore(shards)


def assert_same(folder, expected):
    """The same samples, and the same draws: these follow from seeds, but one between two ids may fall to the other."""
    assert sha(folder / "generate/kept.jsonl") == sha(expected / "generate/kept.jsonl")
    mine, theirs = stored(folder), stored(expected)
    keys = sorted(mine.keys())
    assert keys == sorted(theirs.keys()) and len(keys) > 4
    same = [drawn(mine.read(key)) == drawn(theirs.read(key)) for key in keys]
    assert sum(same) >= len(same) - 1


def drawn(record):
    return [list(map(int, values)) for values in (record.ids, record.counts)]


def test_two_ranks_that_hold_the_teacher_make_what_one_process_makes(place, alone):
    results = ended(launched(2, words_of(place, "two", PARTS), ASKS))
    assert "teacher: its weights are divided over 2 processes (tensor parallel" in results[0].stdout
    assert results[1].stdout == "", "the leader tells"
    assert_same(place / "two", alone)
    logs = list((place / "two/generate/raw").glob("*.jsonl"))
    assert len(logs) == 1, "the leader writes"


def go_on_and_evaluate(words):
    """As a rank, or alone: make answers and signals, and have the teacher answer held-out prompts."""
    recipe = load_recipe(words[0], words[1:])
    folder = RunFolder.of(recipe)
    with at_work(recipe, folder) as processes:
        pipeline.run_stages([generate.STAGE, capture.STAGE], recipe, folder, processes)
        (route,) = routes_of(recipe)
        teacher, prompts = route.connect(folder, processes.local_rank), split_prompts(recipe)[1]
        ends = teacher.stop_ids()
        asked, _ = question_sets(recipe, prompts, teacher.tokenizers, ends, folder.path)
        with Progress("evaluate", len(prompts), "answers", shown=False) as bar, teacher:
            made = teacher.evaluate(asked, bar, processes)
        write_json(folder.path / f"answers-{processes.rank}.json", {"answers": made.answers})
    return 0


def test_of_four_ranks_two_teams_share_the_work_and_one_that_dies_ends_all(place, alone):
    words, raw = words_of(place, "four", PARTS), place / "four/generate/raw"
    started = launched(4, words, ASKS)
    end = time.monotonic() + 120
    while time.monotonic() < end and len(read_row_logs(raw)[0]) < 3:
        time.sleep(0.05)
    started[3].send_signal(signal.SIGKILL)
    others = [one.result(60) for one in started[:3]]
    assert [one.returncode for one in others] == [ENDED] * 3, others[2].stderr[-2000:]
    assert "rank 3 on " in others[0].stderr and "run the same command" in others[0].stderr
    before = {row["key"] for row in read_row_logs(raw)[0]}
    results = ended(ranks(go_on_and_evaluate, 4, list(map(str, words))))
    assert [bool(one.stdout) for one in results] == [True, False, False, False]
    assert_same(place / "four", alone)
    keys = [row["key"] for row in read_row_logs(raw)[0]]
    assert len(keys) == len(set(keys)) > len(before) >= 3, "nothing is asked twice"
    shards = " ".join(path.name for path in place.glob("four/capture/signals/*/*.shard"))
    assert set(re.findall(r"share(\d)", shards)) == {"0", "1"}, "each team's leader writes"
    whole = [*map(str, words_of(place, "alone"))]
    go_on_and_evaluate(whole)
    (expected,) = (read_json(path) for path in (place / "alone").glob("answers-*.json"))
    found = [read_json(path) for path in (place / "four").glob("answers-*.json")]
    assert found == [expected] * 4 and len(expected["answers"]) == 12


ASKED = "evaluate.safety={sets: [harmless], num_requests: 1, max_new_tokens: 4}"


def ask_in_all_ways(words):
    """As a rank, or alone: evaluate the teacher, ask it benchmarks and requests, and let it judge as it does in safety."""
    recipe = load_recipe(words[0], words[1:])
    folder = RunFolder.of(recipe)
    with at_work(recipe, folder) as processes:
        evaluate.run(recipe, folder, processes)
        models, _ = benchmark.models_of(recipe, folder, processes.local_rank)
        benchmark._ask_all(folder.stage("benchmark"), read_all(recipe), models[:1], processes)
        asked = [route.connect(folder, processes.local_rank) for route in routes_of(recipe)]
        work, _ = safety._work(recipe, folder, asked, tell=False)
        with Progress("safety", 5, "answers", shown=False) as bar:
            safety._ask_teachers(work, asked, bar, processes)
            with asked[0].dividing(processes):
                if processes.is_main:
                    answers_to(asked[0], work.prompts[:2], [[5, 6], [7]], SHORT, bar)
    return 0


def test_every_stage_that_asks_the_teacher_does_so_with_all_who_hold_it(finished, tmp_path):
    """The quickstart's own teacher has three key/value heads, for three ranks."""
    uses = [write(tmp_path, FRUIT, FRUIT_ROWS, "en"), write(tmp_path, SUMS, SUMS_ROWS, "en")]
    words = {}
    for name in ("parts", "whole"):
        shutil.copytree(finished, tmp_path / name)
        shutil.rmtree(tmp_path / name / "generate/held_out")
        for file in ("teacher_answers.jsonl", "teacher.json"):
            (tmp_path / name / "evaluate" / file).unlink()
        given = small(tmp_path / name, ASKED, f"evaluate.benchmarks={json.dumps(uses)}")
        words[name] = list(map(str, given))
    ended(ranks(ask_in_all_ways, 3, [*words["parts"], "teacher.tensor_parallel=3"]))
    ask_in_all_ways(words["whole"])
    for name in ("evaluate/teacher_answers.jsonl", "safety/teacher.jsonl"):
        assert sha(tmp_path / "parts" / name) == sha(tmp_path / "whole" / name)
    mine, theirs = (rows_of(tmp_path / name) for name in ("parts", "whole"))
    assert mine == theirs and len(mine) == 2
    mine, theirs = (read_json(tmp_path / n / "evaluate/teacher.json") for n in ("parts", "whole"))
    assert mine["exact_match"] == theirs["exact_match"]
    assert mine["nll"] == pytest.approx(theirs["nll"], abs=1e-5)
    logs = [read_row_logs(tmp_path / n / "generate/held_out")[0] for n in ("parts", "whole")]
    mine, theirs = ({row["key"]: row["token_ids"] for row in rows} for rows in logs)
    assert mine == theirs and len(mine) == len(logs[0])


def rows_of(folder):
    """The teacher's answers to benchmarks; log-probs to four digits."""
    found = {path.name: read_json(path) for path in folder.glob("benchmark/teacher/*.json")}
    return {name: rounded(values["rows"]) for name, values in found.items()}


def rounded(value):
    if isinstance(value, float):
        return round(value, 4)
    if isinstance(value, dict):
        return {key: rounded(inner) for key, inner in value.items()}
    return [rounded(inner) for inner in value] if isinstance(value, list) else value


def read_json(path):
    return json.loads(path.read_text())


@pytest.mark.parametrize(
    ("first", "last"),
    [(["run"], ["--stages", ",".join(ASKS)]), (["generate"], ["--shard", "auto"])],
    ids=["run", "shard"],
)
def test_a_launch_that_cannot_hold_the_teacher_ends_before_any_work(place, first, last):
    folder = place / f"three-{first[0]}"
    words = map(str, words_of(place, folder.name, PARTS))
    started = ranks(call_distill, 3, [*first, *words, *last])
    results = [one.result(120) for one in started]
    assert [one.returncode for one in results] == [2, 2, 2]
    assert "there are 3: start them with `accelerate launch" in results[0].stderr
    assert "--num_processes 4" in results[0].stderr
    assert not (folder / "generate/raw").exists()
