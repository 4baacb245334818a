"""Any number of processes divide blocks by claims in a folder: each block is done once, whoever comes, goes or dies."""

import multiprocessing
import os
import time

import pytest

from distill.core.leases import Leases, assigned_blocks, static_share
from distill.core.processes import Processes

BLOCKS = {f"b{n}": n for n in range(60)}


def work(folder, out):
    """Do what can be claimed; a line for each block done."""
    done = set()
    with (
        open(out / f"{os.getpid()}.txt", "w") as f,
        Leases(folder, BLOCKS, done.__contains__, lambda: None) as mine,
    ):
        for block in mine:
            time.sleep(0.002)
            f.write(f"{block}\n")
            done.add(block)


def test_four_processes_do_every_block_once(tmp_path):
    (tmp_path / "out").mkdir()
    spawned = multiprocessing.get_context("spawn")
    team = [
        spawned.Process(target=work, args=(tmp_path / "leases", tmp_path / "out")) for _ in range(4)
    ]
    for one in team:
        one.start()
    for one in team:
        one.join()
    lines = [path.read_text().split() for path in (tmp_path / "out").iterdir()]
    assert sorted(int(x) for each in lines for x in each) == list(range(60))
    assert len(list((tmp_path / "leases").glob("*.done"))) == 60


def test_a_claim_of_the_future_is_dead_too(tmp_path):
    """As a clock that was set back leaves it."""
    tomorrow = time.time() + 86400
    (tmp_path / "a.0").touch()
    os.utime(tmp_path / "a.0", (tomorrow, tomorrow))
    done = set()
    with Leases(tmp_path, {"a": 1}, done.__contains__, lambda: None) as mine:
        for block in mine:
            done.add(block)
    assert done == {1}


@pytest.fixture
def claims(tmp_path):
    """`claims(done, lifetime)`: the claims of one of several in the same folder; `claims.looked` counts looks at others' work."""

    def make(done, lifetime=600.0, blocks=None):
        def look():
            make.looked += 1

        return Leases(
            tmp_path,
            {"a": 1, "b": 2, "c": 3} if blocks is None else blocks,
            done.__contains__,
            look,
            lifetime,
        )

    make.looked = 0
    return make


def test_what_somebody_holds_is_left_and_what_is_given_back_is_taken(claims):
    done, later = set(), set()
    with claims(done) as first, claims(later) as second:
        mine = iter(first)
        assert next(mine) == 1
        others = iter(second)
        assert next(others) == 2
        later.add(2)
        done.add(1)
        assert next(mine) == 3
        assert list(others) == [] and claims.looked == 0
    # 3 was not done when its holder left
    with claims(later) as third:
        assert list(third) == [3] and claims.looked == 1


def test_a_claim_without_a_sign_of_life_is_anybodys(claims, tmp_path):
    dead = claims(set(), blocks={"a": 1})
    assert dead._take("a")  # and killed: nothing is given back
    os.utime(tmp_path / "a.0", (time.time() - 300,) * 2)
    with claims(set(), lifetime=600) as patient, claims(set(), lifetime=200) as third:
        assert 1 not in list(patient)
        assert next(iter(third)) == 1 and claims.looked == 1
    assert sorted(p.name for p in tmp_path.glob("a.*")) == ["a.0", "a.1"]


def test_signs_of_life_keep_a_claim_however_long_its_block_takes(claims):
    with claims(set(), lifetime=0.5, blocks={"a": 1}) as slow:
        assert next(iter(slow)) == 1
        time.sleep(0.8)
        with claims(set(), lifetime=0.5, blocks={"a": 1}) as other:
            assert list(other) == []


def test_a_sign_that_cannot_be_given_costs_no_other_claim(claims, tmp_path):
    """One failure (here: the claim's file is gone) ended the thread that gives them all."""
    done = set()
    with claims(done, lifetime=0.5, blocks={"a": 1, "b": 2}) as mine:
        blocks = iter(mine)
        assert [next(blocks), next(blocks)] == [1, 2]
        (tmp_path / "a.0").unlink()
        time.sleep(0.8)
        with claims(set(), lifetime=0.5, blocks={"b": 2}) as other:
            assert list(other) == []


def test_what_is_done_elsewhere_is_not_yielded_after_looking_again(tmp_path):
    """One died in the middle: what it had done is on disk, and only looking tells."""
    done = set()
    with Leases(tmp_path, BLOCKS, done.__contains__, lambda: None) as first:
        next(iter(first))
    with Leases(tmp_path, BLOCKS, done.__contains__, lambda: done.update({0})) as second:
        assert next(iter(second)) == 1


def test_without_leases_shares_are_by_number(tmp_path):
    for rank in range(3):
        team = Processes(rank=rank, num=3)
        with assigned_blocks(
            team, tmp_path / "none", BLOCKS, lambda n: n == 4, lambda: None
        ) as mine:
            assert list(mine) == [n for n in range(rank, 60, 3) if n != 4]
        assert static_share(team, list(BLOCKS.values())) == list(range(rank, 60, 3))
    assert not (tmp_path / "none").exists()
    assert (
        static_share(Processes(leases=True), [1, 2]) == [1, 2]
        and Processes(leases=True).is_partial_job
    )
