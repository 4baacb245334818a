"""How long ranks were idle, from what each says of a stage."""

import pytest

from distill.core import activity
from distill.core.processes import ALONE
from distill.core.rank_times import RankClock, RankTime, StageTimes, idle_share, read_times
from distill.errors import DataError, MissingError


@pytest.mark.parametrize(
    ("rank", "idle"),
    [
        (RankTime(seconds=10, waited=0, computed=10), 0),
        (RankTime(seconds=4, waited=0, computed=4), 6),  # the others took longer
        (RankTime(seconds=10, waited=3, computed=7), 3),
        (RankTime(seconds=10, waited=9, computed=8), 2),  # a pass that ranks make together
        (RankTime(seconds=10, waited=0, computed=2), 0),  # it waited for a disk, or a server
        (RankTime(seconds=10, waited=5, computed=40), 0),  # what it started had more threads
    ],
)
def test_a_rank_is_idle_while_it_waits_for_others_and_computes_nothing(rank, idle):
    assert rank.idle_seconds(10) == idle


def test_the_share_is_of_all_ranks_seconds_and_the_newest_row_of_a_stage_counts(tmp_path):
    busy, half = RankTime(10, 0, 10), RankTime(5, 0, 5)
    StageTimes("train", [half, half]).write(tmp_path)
    StageTimes("quantize", [busy, half]).write(tmp_path)
    StageTimes("train", [busy, busy]).write(tmp_path)
    times = read_times(tmp_path)
    assert [(stage.stage, stage.idle_seconds) for stage in times] == [("train", 0), ("quantize", 5)]
    assert idle_share(times) == 5 / 40
    assert str(times[1]) == "quantize: 2 processes, idle 25% of their time"


def test_a_run_of_one_process_has_no_such_file_and_another_file_is_refused(tmp_path):
    with pytest.raises(MissingError):
        read_times(tmp_path)
    (tmp_path / "ranks.jsonl").write_text('{"stage": "train"}\n')
    with pytest.raises(DataError, match=r"ranks\.jsonl"):
        read_times(tmp_path)


def test_the_clock_counts_the_waiting_of_a_block_once_however_deep():
    clock = RankClock()
    with activity.waiting(), activity.waiting():
        sum(range(300_000))
    (own,) = clock.meet("train", ALONE).ranks
    assert 0 < own.waited <= own.seconds
    assert own.idle_seconds(own.seconds) <= own.waited
