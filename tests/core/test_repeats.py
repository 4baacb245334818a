"""Where the repeats of a training stand, and their seeds."""

from pathlib import Path

from distill.core.repeats import repeat_folder, repeat_seed


def test_the_first_stands_where_the_only_one_does_and_has_the_recipes_seed():
    assert repeat_folder(Path("train"), 1) == Path("train")
    assert repeat_folder(Path("train"), 3) == Path("train/repeat-3")
    assert repeat_seed(7, 1) == 7


def test_no_two_repeats_of_neighbouring_recipes_have_one_seed():
    seeds = [repeat_seed(seed, repeat) for seed in range(100) for repeat in range(1, 21)]
    assert len(set(seeds)) == len(seeds) and all(0 <= seed < 2**31 for seed in seeds)
