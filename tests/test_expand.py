"""generate where the teacher writes prompts: killed, in shards, through a server; nothing is asked twice."""

import json
import shutil

import pytest
from log_helpers import read_row_logs
from run_helpers import QUICKSTART
from server_helpers import TEACHER

from distill import generate
from distill.core import shutdown
from distill.core.jsonl import RowLog, read_jsonl, write_jsonl
from distill.core.processes import Processes
from distill.core.run_folder import RunFolder
from distill.data.prompts import split_prompts
from distill.errors import MissingError, ServerError, Stopped
from distill.formats.gguf.write import write_gguf
from distill.planning.demands import demand_of
from distill.recipe import load_recipe

QUESTIONS = QUICKSTART.parent / "quickstart" / "prompts.jsonl"
ALL_THREE = "{expand: self_instruct, num: 4, num_shown: 2}, {expand: magpie, num: 10}, {expand: personas, file: %s, num: 4}"


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    path = tmp_path_factory.mktemp("given") / "places.jsonl"
    write_jsonl(path, [{"persona": "A tailor in Kano"}, {"place": "Kisumu lies on the lake."}])
    return path


def recipe_of(folder, sources, *more):
    return load_recipe(
        QUICKSTART,
        [
            f"generate.prompts=[{sources}, {{file: {QUESTIONS}}}]",
            "generate.task=null",
            "generate.num_prompts=8",
            "generate.max_new_tokens=32",
            "evaluate.num_examples=3",
            "teacher.batch_tokens=900",
            f"run_folder={folder}",
            *more,
        ],
    )


def run(folder, sources, *more, job=0, num_jobs=1):
    recipe = recipe_of(folder, sources, *more)
    output = generate.run(recipe, RunFolder.of(recipe), Processes(job=job, num_jobs=num_jobs))
    return None if output is None else output.result


def logged(folder, name):
    rows = read_row_logs(folder / "generate" / name)[0]
    assert len({row["key"] for row in rows}) == len(rows), "nothing is asked twice"
    return {row["key"]: row["text"] for row in rows}


def ended(folder):
    """What must not depend on kills and shards."""
    texts = [
        (folder / "generate" / name).read_text()
        for name in ("prompts.jsonl", "kept.jsonl", "dropped.jsonl")
    ]
    return texts, logged(folder, "raw_prompts"), logged(folder, "raw")


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory, places):
    folder = tmp_path_factory.mktemp("whole") / "run"
    run(folder, ALL_THREE % places)
    return folder


def test_all_three_are_asked_for_and_what_they_give_is_asked_after_people(unbroken, places):
    asked = [row for _, row in read_jsonl(unbroken / "generate/prompts.jsonl")]
    sources = [row["source"] for row in asked]
    assert sources[:8] == [str(QUESTIONS)] * 8 and len(sources) > 8, (
        "people's prompts first, wherever the source stands"
    )
    dropped = [
        row for _, row in read_jsonl(unbroken / "generate/dropped.jsonl") if "answer" not in row
    ]
    assert len(logged(unbroken, "raw_prompts")) == 18 == len(asked) - 8 + len(dropped), (
        "each is asked or has its reason"
    )
    assert {row["prompt_id"] for row in asked[8:]}.isdisjoint(
        p.id for p in split_prompts(recipe_of(unbroken, ALL_THREE % places))[1]
    )


def test_killed_while_prompts_are_written_it_ends_as_unbroken(
    unbroken, places, tmp_path, monkeypatch
):
    append = RowLog.append
    for limit in (5, 6):

        def until(self, row, left=[limit]):  # noqa: B006 - a counter of this kill
            if not left[0]:
                raise KeyboardInterrupt
            left[0] -= 1
            append(self, row)

        monkeypatch.setattr(RowLog, "append", until)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, ALL_THREE % places)
    monkeypatch.setattr(RowLog, "append", append)
    run(tmp_path, ALL_THREE % places)
    assert ended(tmp_path) == ended(unbroken)
    before = sorted(p.name for p in tmp_path.rglob("*"))
    monkeypatch.setattr(
        "distill.models.load.load_model", lambda *_, **__: pytest.fail("a second run asks nothing")
    )
    run(tmp_path, ALL_THREE % places)
    assert sorted(p.name for p in tmp_path.rglob("*")) == before


def test_shards_without_a_shared_disk_divide_the_prompts_then_the_answers(
    unbroken, places, tmp_path, capsys
):
    folders = [tmp_path / "a", tmp_path / "b"]
    for word in ("raw_prompts", "raw"):
        for job, folder in enumerate(folders):
            run(folder, ALL_THREE % places, job=job, num_jobs=2)
        assert ("are other shards'" in capsys.readouterr().out) == (word == "raw_prompts")
        assert all(
            0 < len(logged(folder, word)) < len(logged(unbroken, word)) for folder in folders
        )
        for one, other in (folders, folders[::-1]):
            shutil.copytree(one / "generate" / word, other / "generate" / word, dirs_exist_ok=True)
    run(folders[0], ALL_THREE % places)
    assert ended(folders[0]) == ended(unbroken)


def test_more_prompts_ask_only_for_the_new_ones(unbroken, places, tmp_path):
    shutil.copytree(unbroken, tmp_path / "run")
    result = run(tmp_path / "run", (ALL_THREE % places).replace("num: 10", "num: 13"))
    assert len(logged(tmp_path / "run", "raw_prompts")) == 21 and result.num_prompts == 8 + 21


def test_a_server_writes_them_too_and_a_stop_pays_for_nothing_twice(
    proxy, places, tmp_path, monkeypatch
):
    sources, server = ALL_THREE % places, [f"teacher.server={proxy.url}", "generate.concurrency=2"]
    proxy.trouble = lambda number, path: "cut" if number == 6 else None
    append = RowLog.append

    def then_stop(self, row):
        append(self, row)
        if len(logged(tmp_path, "raw_prompts")) == 7:
            shutdown._requested.append("SIGTERM")

    monkeypatch.setattr(RowLog, "append", then_stop)
    with pytest.raises(Stopped):
        run(tmp_path, sources, *server)
    shutdown._requested.clear()
    monkeypatch.setattr(RowLog, "append", append)
    assert (
        7 <= len(logged(tmp_path, "raw_prompts")) <= 8 and not (tmp_path / "generate/raw").exists()
    )
    run(tmp_path, sources, *server)
    assert len(logged(tmp_path, "raw_prompts")) == 18
    asked = [
        a for a in proxy.asked if a.get("n_predict", 0) > 2
    ]  # without the probes at each start
    magpie = [a for a in asked if len(a["prompt"]) < 6]  # <|im_start|>user and a line end
    assert 10 <= len(magpie) <= 12 and all(
        a["temperature"] == 1 and "top_p" not in a for a in magpie
    )
    assert len({a["seed"] for a in magpie}) == 10
    assert len(asked) <= 18 + len(logged(tmp_path, "raw")) + 1 + 2, (
        "beyond the fault, at most those under way at the stop"
    )


def test_a_limit_counts_prompts_and_answers_together(proxy, places, tmp_path):
    with pytest.raises(Stopped, match=r"generate\.max_requests \(24 of 24\)"):
        run(
            tmp_path,
            ALL_THREE % places,
            f"teacher.server={proxy.url}",
            "generate.max_requests=24",
            "generate.concurrency=1",
        )
    assert len(logged(tmp_path, "raw_prompts")) == 18 and len(logged(tmp_path, "raw")) <= 6
    assert len(proxy.asked) == 24, "what a start asks to know the server is a request, too"


def test_a_server_of_conversations_alone_gives_no_magpie_but_the_others(proxy, places, tmp_path):
    proxy.trouble = lambda number, path: "404" if path == "/completion" else None
    server = f"teacher.server={proxy.url}"
    with pytest.raises(ServerError, match=r"takes conversations only.*self_instruct or personas"):
        run(tmp_path / "a", ALL_THREE % places, server)
    run(tmp_path / "b", f"{{expand: personas, file: {places}, num: 3}}", server)
    assert len(logged(tmp_path / "b", "raw_prompts")) == 3


def test_a_gguf_teacher_writes_them_too(places, tmp_path):
    write_gguf(TEACHER, tmp_path / "t.gguf", "f16", metadata={})
    sources = f"{{expand: magpie, num: 4}}, {{expand: personas, file: {places}, num: 2}}"
    run(tmp_path / "run", sources, f"teacher.gguf={tmp_path / 't.gguf'}")
    rows = read_row_logs(tmp_path / "run/generate/raw_prompts")[0]
    assert (
        len(rows) == 6 == len({row["key"] for row in rows})
        and len({row["text"] for row in rows}) > 4
    ), "drawn, each by its own seed"


def test_the_plan_counts_them(places, tmp_path):
    recipe = recipe_of(tmp_path, ALL_THREE % places)
    work = demand_of(recipe)
    assert (work.num_written, work.num_answers) == (
        18,
        8 + 18,
    ) and "18 prompts to write, 26 answers" in str(work)
    alone = recipe_of(
        tmp_path, "{expand: magpie, num: 7}", "generate.prompts=[{expand: magpie, num: 7}]"
    )
    assert demand_of(alone).num_answers == 7
    assert json.loads(json.dumps(recipe.generate.identity()))["prompts"][1] == {
        "expand": "magpie",
        "num": 10,
    }
    with pytest.raises(MissingError, match="no such file"):
        run(tmp_path, "{expand: personas, file: none.txt, num: 7}")
