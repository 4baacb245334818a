"""The command line: what it reads, and what it says of what it can't read."""

import pytest

from distill.__main__ import read


@pytest.mark.parametrize(
    "words",
    [
        ["run", "r.yaml", "seed=2", "train.epochs=1", "--redo", "train"],
        ["run", "r.yaml", "--redo", "train", "seed=2", "train.epochs=1"],
        ["run", "--redo", "train", "r.yaml", "seed=2", "train.epochs=1"],
        ["run", "r.yaml", "seed=2", "--redo=train", "train.epochs=1"],
    ],
)
def test_overrides_stand_before_and_after_options(words):
    options = read(words)
    assert (options.recipe, options.redo, options.overrides) == ("r.yaml", "train", ["seed=2", "train.epochs=1"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run", "r.yaml", "--rdo", "train"], "unknown: --rdo"),
        (["run", "r.yaml", "--redo", "trian"], "invalid choice: 'trian'"),
        (["explain", "seed", "x=1"], "unknown: x=1"),
        (["rnu", "r.yaml"], "invalid choice: 'rnu'"),
        (["capture", "r.yaml", "--shard", "5/4"], "'5/4' is not I/N"),
        (["chat", "runs/r", "--threads", "0"], "'0' is not a number from 1 up"),
        (["serve", "runs/r", "generate.top_k=1"], "unknown: generate.top_k=1"),
    ],
)
def test_what_is_not_known_is_refused_by_name(words, said, capsys):
    with pytest.raises(SystemExit) as stopped:
        read(words)
    assert stopped.value.code == 2 and said in capsys.readouterr().err
