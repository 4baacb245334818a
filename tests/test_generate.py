"""generate in this process, with the quickstart's own teacher: what is asked, and what is asked again."""

import json
import shutil
from collections import Counter

import pytest
from families import BY_NAME, tokenizer_of
from generate_helpers import HOT, generate_hot, logged_answers
from run_helpers import QUICKSTART

from distill import chat, generate
from distill.chat.tokenizers import Tokenizers
from distill.core.digests import digest
from distill.core.jsonl import RowLog, read_jsonl, write_jsonl
from distill.core.processes import ALONE, Processes
from distill.core.run_folder import RunFolder
from distill.data.bad_rows import Left
from distill.data.prompts import split_prompts
from distill.data.samples import Prompt
from distill.errors import RecipeError, Stopped
from distill.evaluation.eval_set import eval_sets
from distill.filters import prompt_filters
from distill.recipe import load_recipe
from distill.teachers import connect
from distill.teachers.answers import raw_row
from distill.teachers.keys import request_maker
from distill.teachers.requests import Completion, Request, RequestOptions


def test_the_quickstart_asks_under_the_keys_it_always_had():
    """A changed key would ask, and pay, again for every answer that people have."""
    recipe = load_recipe(QUICKSTART)
    prompts, held_out = split_prompts(recipe)
    asked, refused = prompt_filters.select_prompts(recipe, prompts, held_out)
    make = request_maker(connect(recipe), RequestOptions.of(recipe))
    keys = [make(asked[i], 0).key for i in (0, -1)]
    assert keys == ["d8c04538fc8e7825075f6179a1ae5b45", "fa30fcf36f1e210107efb0b88d2de2ad"]
    assert (len(asked), Counter(why.partition(":")[0] for _, why in refused)) == (
        5836,
        {"contaminated": 164},
    )
    assert digest(*[p.id for p in prompts]) == "208180adc45fc10091aebc0106557039"


def test_another_seed_asks_nothing_and_says_so_unless_resampling_is_wanted(tmp_path, capsys):
    first, kept = generate_hot(tmp_path)
    again, same = generate_hot(tmp_path, "seed=7")
    assert same == kept and again.num_asked == first.num_asked == len(logged_answers(tmp_path))
    assert (
        f"{first.num_asked} answers on disk were drawn with another seed and stay; generate.resample=true"
        in capsys.readouterr().out
    )
    anew, _ = generate_hot(tmp_path, "seed=7", "generate.resample=true")
    assert (
        anew.num_asked == first.num_asked and len(logged_answers(tmp_path)) == 2 * first.num_asked
    )
    assert "another seed" not in capsys.readouterr().out
    generate_hot(tmp_path, "seed=7", "generate.resample=true")
    assert len(logged_answers(tmp_path)) == 2 * first.num_asked


def test_a_reordered_and_longer_file_of_prompts_asks_only_the_new_ones(tmp_path):
    lines = (
        (QUICKSTART.parent / "quickstart/prompts.jsonl").read_text().splitlines(keepends=True)[:12]
    )
    path, where = tmp_path / "prompts.jsonl", f"generate.prompts={tmp_path / 'prompts.jsonl'}"
    path.write_text("".join(lines[:9]))
    generate_hot(tmp_path, where)
    first = {row["key"]: row["text"] for row in logged_answers(tmp_path)}
    path.write_text("".join([lines[11], *lines[8:4:-1], lines[10], *lines[:5], lines[9]]))
    generate_hot(tmp_path, where)
    rows = {row["key"]: row["text"] for row in logged_answers(tmp_path)}
    assert (
        len(first) == 9
        and len(logged_answers(tmp_path)) == len(rows) == 12
        and first.items() < rows.items()
    )


def test_what_reading_left_out_is_told_before_anything_is_asked_and_stands_in_the_result(
    tmp_path, capsys
):
    prompts = QUICKSTART.parent / "quickstart/prompts.jsonl"
    lines = prompts.read_text().splitlines(keepends=True)[:11]
    unseen = json.dumps(json.loads(lines[0]) | {"prompt": "\u200b"}) + "\n"
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join([*lines[:5], '{"prompt": \n', unseen, *lines[5:]]))
    result, kept = generate_hot(tmp_path, f"generate.prompts={path}")
    told = capsys.readouterr().err
    note = f"generate.prompts: {path}: 1 of 13 rows are left out (not_json 1), such as {path}, line 6: "
    assert told.count(f"generate: {note}not JSON") == 1
    assert result.num_skipped == {"not_json": 1} and result.reading_notes[0].startswith(note)
    assert result.dropped_by_reason["empty_prompt"] == 1
    asked = {row["prompt"] for row in kept}
    assert asked and "\u200b" not in asked and len(logged_answers(tmp_path)) == 11


def test_wrong_answers_are_drawn_again_until_verified_and_nothing_twice(tmp_path):
    first, kept_once = generate_hot(tmp_path)
    asked_once = {row["key"]: row for row in logged_answers(tmp_path)}
    assert 0 < first.num_kept < first.num_asked == len(asked_once)

    result, kept = generate_hot(tmp_path, "generate.max_tries=4")
    rows = logged_answers(tmp_path)
    assert len({row["key"] for row in rows}) == len(rows) == result.num_asked > len(asked_once)
    assert {k["key"] for k in kept_once} <= {k["key"] for k in kept}, (
        "what was good is not drawn again"
    )
    assert max(Counter(k["prompt_id"] for k in kept).values()) == 1 and len(kept) > len(kept_once)
    tries = Counter(row["prompt_id"] for row in rows)
    unsolved = tries.keys() - {k["prompt_id"] for k in kept}
    assert all(tries[i] == 4 for i in unsolved) and result.num_prompts_without_answer == len(
        unsolved
    )
    assert result.prompts_by_tries == dict(sorted(Counter(tries.values()).items()))
    for prompt_id, number in tries.items():
        assert sorted(r["sample_index"] for r in rows if r["prompt_id"] == prompt_id) == list(
            range(number)
        )

    before = {p.name: p.read_bytes() for p in (tmp_path / "generate/raw").iterdir()}
    again, _ = generate_hot(tmp_path, "generate.max_tries=4")
    assert again == result
    assert {p.name: p.read_bytes() for p in (tmp_path / "generate/raw").iterdir()} == before


def test_further_draws_in_shards_without_a_shared_disk_are_those_of_one_run(tmp_path):
    """Each round of draws is divided once the round before is there; the plain recipe does whatever rounds are left."""
    more = [
        "generate.max_tries=3",
        "teacher.batch_tokens=400",
        "generate.num_prompts=16",
        "generate.max_new_tokens=40",
    ]
    generate_hot(tmp_path / "whole", *more)
    wanted = {row["key"]: row["sample_index"] for row in logged_answers(tmp_path / "whole")}
    assert set(wanted.values()) == {0, 1, 2}
    folders = [tmp_path / "a", tmp_path / "b"]
    for number in (1, 2):
        for job, folder in enumerate(folders):
            recipe = load_recipe(QUICKSTART, [*HOT, *more, f"run_folder={folder}"])
            generate.run(recipe, RunFolder.of(recipe), Processes(job=job, num_jobs=2))
        drawn = [
            {row["key"] for row in logged_answers(folder) if row["sample_index"] == number - 1}
            for folder in folders
        ]
        assert all(drawn) and drawn[0] | drawn[1] == {
            key for key, index in wanted.items() if index == number - 1
        }
        assert not drawn[0] & drawn[1] and not (folders[0] / "generate/kept.jsonl").exists()
        for one, other in (folders, folders[::-1]):
            shutil.copytree(one / "generate/raw", other / "generate/raw", dirs_exist_ok=True)
    generate_hot(folders[0], *more)
    rows = logged_answers(folders[0])
    assert sorted(row["key"] for row in rows) == sorted(wanted), "each once"
    for name in ("kept.jsonl", "dropped.jsonl", "prompts.jsonl"):
        assert (folders[0] / "generate" / name).read_bytes() == (
            tmp_path / "whole/generate" / name
        ).read_bytes(), name


def test_further_draws_from_a_server_are_new_ones_and_a_limit_pays_for_none_twice(proxy, tmp_path):
    more = ["generate.max_tries=3", f"teacher.server={proxy.url}", "generate.concurrency=3"]
    refused = []

    def trouble(number, path):
        body = proxy.asked[number]
        if body.get("n_predict", 0) > 2 and not refused:
            refused.append(body["prompt"])
        return "400" if body.get("prompt") in refused else None

    proxy.trouble = trouble
    with pytest.raises(Stopped, match="max_requests"):
        generate_hot(tmp_path, *more, "generate.max_requests=37")  # in the second round
    assert {row["sample_index"] for row in logged_answers(tmp_path)} == {0, 1}
    result, kept = generate_hot(tmp_path, *more)
    rows = logged_answers(tmp_path)
    asked = [a for a in proxy.asked if a.get("n_predict", 0) > 2]
    assert len(rows) == len({row["key"] for row in rows}) == len(asked) == result.num_asked
    assert len({(*a["prompt"], a["seed"]) for a in asked}) == len(asked), (
        "each draw has a seed of its own"
    )
    tries, solved = Counter(row["prompt_id"] for row in rows), {k["prompt_id"] for k in kept}
    failed = {row["prompt_id"] for row in rows if row["finish_reason"] == "error"}
    assert len(failed) == 1 and tries[failed.pop()] == 1, "what a server refused is not drawn again"
    assert all(number == 3 for i, number in tries.items() if i not in solved and number > 1)
    assert sorted(result.prompts_by_tries) == [1, 2, 3] and len(solved) == len(kept)
    generate_hot(tmp_path, *more)
    assert len(logged_answers(tmp_path)) == len(rows), "a second run draws nothing"


def test_tries_that_cannot_help_are_refused():
    for more, words in (
        (["generate.sampling_temperature=0"], "same answer again"),
        (["generate.samples_per_prompt=5"], "less than"),
    ):
        with pytest.raises(RecipeError, match=words):
            load_recipe(QUICKSTART, ["generate.max_tries=4", *more])


SAID = (
    "They are seven apples.",
    "<think>\n3 + 4\n</think>\n\nThey are seven apples.",
    "<think>\nI am Qwen, made by Alibaba.\n</think>\n\nSo it is seven.",
    "<think>\n"
    + ", ".join(f"{n} + {n + 1}" for n in range(20))
    + "\n</think>\n\nThere are seven left.",
)


def thought(folder, reasoning):
    """(result, kept answers as text by their number, recipe) of SAID, as if a teacher had said it."""
    recipe = load_recipe(
        QUICKSTART,
        [
            f"run_folder={folder}",
            "generate.task=null",
            "languages=[en]",
            f"generate.reasoning={reasoning}",
            "generate.max_reasoning_tokens=40",
        ],
    )
    tokenizer = tokenizer_of(BY_NAME["qwen3"])
    tokenizers = Tokenizers(tokenizer, tokenizer)
    teacher = connect(recipe)
    teacher.tokenizers = tokenizers
    options, requests = RequestOptions.of(recipe), []
    with RowLog(folder / "generate/raw") as log:
        for n, text in enumerate(SAID):
            prompt = Prompt(
                ({"role": "user", "content": f"How many apples has basket {n}?"},), "en"
            )
            requests.append(Request(str(n), prompt, chat.prompt_ids(tokenizer, prompt.text), 0, 1))
            ids = [*tokenizer.encode(text, add_special_tokens=False), tokenizer.eos_token_id]
            log.append(raw_row(teacher, requests[-1], Completion(text, "stop", ids), options))
    generation = generate.Generation(recipe, teacher, ALONE, folder / "generate", [])
    rows = {row["key"]: row for row in logged_answers(folder)}
    filtered = generate.filter_answers(generation, requests, rows)
    answered = generate.Answered(generation, requests, filtered)
    output = generate._write(recipe, [answered], [], Left())
    rows = [row for _, row in read_jsonl(folder / "generate/kept.jsonl")]
    assert all(row["prompt_ids"] == requests[int(row["key"])].prompt_ids for row in rows)
    kept = {int(row["key"]): tokenizer.decode(row["answer_ids"]) for row in rows}
    prompts, asked = [r.prompt for r in requests], [r.prompt_ids for r in requests]
    answers = folder / "teacher_answers.jsonl"
    write_jsonl(
        answers,
        [
            {
                "prompt_id": prompt.id,
                "token_ids": row["token_ids"],
                "finish_reason": "stop",
                "stop_ids": [1],
            }
            for prompt, row in zip(prompts, logged_answers(folder), strict=True)
        ],
    )
    eval_set, own = eval_sets(recipe, prompts, tokenizers, answers, folder)
    assert eval_set is own and eval_set.prompt_ids == asked
    assert all(tokenizer.decode(eval_set.teacher_ids[n]) == text for n, text in kept.items()), (
        "evaluated on what it learnt"
    )
    return output.result, kept


def test_reasoning_is_kept_dropped_or_held_short(tmp_path, capsys):
    result, kept = thought(tmp_path / "keep", "keep")
    assert kept == {n: f"{SAID[n]}<|im_end|>" for n in (0, 1, 3)}, (
        "the third tells its name in its reasoning"
    )
    assert (
        result.num_long_reasoning == 1
        and "1 of 3 samples have more than 40 tokens of reasoning" in result.warning
    )
    assert "set generate.reasoning to short or drop" in capsys.readouterr().err
    result, kept = thought(tmp_path / "drop", "drop")
    assert kept == {
        n: f"{text.rpartition('</think>')[2].strip()}<|im_end|>" for n, text in enumerate(SAID)
    }
    assert result.warning is None, "what nobody learns is neither long nor wrong"
    result, kept = thought(tmp_path / "short", "short")
    assert kept == {n: f"{SAID[n]}<|im_end|>" for n in (0, 1)}
    assert result.dropped_by_reason == {"identity": 1, "long_reasoning": 1}
    assert result.warning is None and not capsys.readouterr().err
