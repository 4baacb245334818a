"""scripts/measure_idle.py: the table of what the ranks of a run wrote."""

from run_helpers import script

from distill.core.rank_times import RankTime, StageTimes


def test_the_table_has_each_stage_and_the_share_of_all(tmp_path, capsys):
    StageTimes("train", [RankTime(30, 0, 30), RankTime(27, 0, 27)]).write(tmp_path)
    StageTimes("quantize", [RankTime(10, 0, 10), RankTime(5, 0, 5)]).write(tmp_path)
    script("measure_idle")["main"]([str(tmp_path)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[2:] == [
        "| train | 30.0 | 0.0, 3.0 | 5 |",
        "| quantize | 10.0 | 0.0, 5.0 | 25 |",
        "",
        "idle: 10.0% of the processes' time, in 40 s",
    ]
