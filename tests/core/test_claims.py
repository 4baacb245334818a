"""Work that ranks divide as they go: each piece is one rank's, whoever comes first."""

import json
import time

from sharding_helpers import ranks

from distill.core.claims import Claims
from distill.core.processes import ALONE, finish, start


def test_one_process_takes_every_piece_once():
    claims = Claims(ALONE)
    assert list(claims.of("file", ["a", "b"])) == ["a", "b"]
    assert list(claims.of("file", ["a", "b", "c"])) == ["c"], "by its number in the same work"
    assert claims.take("x") and not claims.take("x")
    assert Claims(ALONE).take("x"), "another work"
    claims.wait_for("what nobody else could make")


def take(folder):
    """As one of two ranks: take what there is of two works, then wait for what the first makes."""
    processes = start(2)
    taken = []
    for _ in range(2):
        taken.append(list(Claims(processes).of("piece", range(50))))
        processes.barrier()
    claims = Claims(processes)
    if processes.is_main:
        time.sleep(0.5)
        (folder / "made").touch()
        claims.tell_done("made")
    claims.wait_for("made")
    assert (folder / "made").exists()
    (folder / f"{processes.rank}.json").write_text(json.dumps(taken))
    finish(processes)


def test_two_ranks_divide_every_piece_between_them_and_one_waits_for_the_other(tmp_path):
    started = ranks(take, 2, tmp_path)
    results = [rank.result() for rank in started]
    assert [r.returncode for r in results] == [0, 0], results[0].stderr[-2000:]
    of_ranks = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    for first, second in zip(*of_ranks, strict=True):
        assert sorted(first + second) == list(range(50))
