"""metrics.jsonl: cut back to the checkpoint, and read whatever happened to its last line."""

from pathlib import Path

from distill.training.metrics import Metrics, read_metrics


def steps_in(path: Path) -> list[int]:
    return [row["step"] for row in read_metrics(path)]


def test_a_run_that_continues_drops_the_rows_after_its_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "student.metrics.jsonl"
    metrics = Metrics(path, step=0)
    for step in (1, 2, 3, 4):
        metrics.add({"step": step, "loss": 1 / step})
    again = Metrics(path, step=2)
    assert steps_in(path) == [1, 2]
    again.add({"step": 3, "loss": 0.5})
    assert read_metrics(path)[-1] == {"step": 3, "loss": 0.5}
    Metrics(path, step=0)
    assert steps_in(path) == []


def test_a_torn_last_line_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "student.metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"step": 3, "lo')
    assert steps_in(path) == [1, 2]
    Metrics(path, step=9)
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n'


def test_other_processes_than_the_first_write_nothing(tmp_path: Path) -> None:
    Metrics(None, step=0).add({"step": 1})
    assert list(tmp_path.iterdir()) == []


def test_lines_that_are_no_rows_are_left_out_and_counted(tmp_path: Path, capsys) -> None:
    path = tmp_path / "student.metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n\xff\x00\n[3]\n{"step": "4"}\n{"step": 5}\n' + b"[" * 9999)
    Metrics(path, step=5)
    assert steps_in(path) == [1, 5]
    assert "student.metrics.jsonl: 3 of 5 rows are broken or gone" in capsys.readouterr().out
