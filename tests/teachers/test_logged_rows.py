import random
import tracemalloc

import pytest
from run_helpers import QUICKSTART

from distill.core.jsonl import RowLog
from distill.errors import DataError
from distill.recipe import load_recipe
from distill.teachers.log import AnswerLog, best_rows, final_rows, read_best_rows, read_log
from distill.teachers.logged_rows import LOG_PROBS
from distill.teachers.server.budget import FREE


def row(key, reason, most=100, **more):
    return {
        "key": key,
        "seed": 0,
        "finish_reason": reason,
        "max_new_tokens": most,
        "text": "答",
        "token_ids": [1, 2],
        **more,
    }


def some_rows(num: int) -> list[dict]:
    draw = random.Random(num)
    return [
        row(
            f"k{draw.randrange(num // 2)}",
            draw.choice(["stop", "length", "error", "content_filter"]),
            draw.choice([50, 100, 200]),
            text=f"{n} \u2028",
            token_ids=[draw.randrange(2**31) for _ in range(draw.randrange(4))],
        )
        for n in range(num)
    ]


def logged(folder, rows, num_files=3) -> AnswerLog:
    for start in range(num_files):
        with RowLog(folder / "raw") as log:
            for made in rows[start::num_files]:
                log.append(made)
        with open(log.path, "ab") as f:
            f.write(b'{"torn": 1\n\n')
    return AnswerLog(folder, "raw", "answers", FREE)


@pytest.mark.parametrize("retry", ["false", "true"])
def test_rows_on_disk_are_chosen_as_rows_in_memory(tmp_path, retry):
    rows = some_rows(200)
    in_order = [made for start in range(3) for made in rows[start::3]]
    log = logged(tmp_path, rows)
    found = read_log(log)
    assert found.rows == in_order and found.rows[3:5] == in_order[3:5]
    assert list(found.rows.heads.num_tokens) == [len(made["token_ids"]) for made in in_order]
    assert len(found.torn) == 3 and not found.bad
    overrides = ["generate.max_new_tokens=100", f"generate.retry_errors={retry}"]
    recipe = load_recipe(QUICKSTART, overrides)
    for choose in (best_rows, lambda some: final_rows(some, recipe)):
        on_disk, in_memory = choose(found.rows), choose(in_order)
        assert on_disk == in_memory and list(on_disk) == list(in_memory) and len(on_disk) > 30
    assert read_best_rows(log) == best_rows(in_order)
    assert "none" not in read_best_rows(log)
    with pytest.raises(KeyError):
        read_best_rows(log)["none"]


def test_a_row_that_was_appended_later_changes_nothing_that_was_read(tmp_path):
    best = read_best_rows(logged(tmp_path, [row("a", "stop"), row("b", "stop")], 1))
    path = next((tmp_path / "raw").iterdir())
    with open(path, "ab") as f:
        f.write(path.read_bytes())
    assert best["b"] == row("b", "stop") and len(best) == 2


def test_a_log_that_was_cut_meanwhile_is_told(tmp_path):
    best = read_best_rows(logged(tmp_path, [row("a", "stop"), row("b", "stop")], 1))
    path = next((tmp_path / "raw").iterdir())
    path.write_bytes(path.read_bytes()[50:])
    with pytest.raises(DataError, match="changed while it was read; run the same command again"):
        best["b"]


def test_rows_stay_on_disk(tmp_path):
    ids = [random.Random(n).randrange(150_000) for n in range(300)]
    rows = [
        row(f"{n:032}", "stop", token_ids=ids, text="word " * 200, **{LOG_PROBS: "A" * 5_000})
        for n in range(1_000)
    ]
    log = logged(tmp_path, rows, 1)
    tracemalloc.start()
    best = read_best_rows(log)
    assert all(len(best[made["key"]]["token_ids"]) == 300 for made in rows)
    held, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert LOG_PROBS not in best[rows[0]["key"]]
    assert held < 1_000 * 400 and most < 1_000 * 400 + 200_000, "bytes a row, of 12,000"
