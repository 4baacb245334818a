import random
import tracemalloc
from dataclasses import replace

import pytest

from distill.core.jsonl import write_jsonl
from distill.data.samples import Sample
from distill.data.stored_samples import read_samples, split_samples
from distill.errors import DataError


def made(num: int, num_ids: int = 3) -> list[Sample]:
    draw = random.Random(0)
    ids = [[draw.randrange(150_000) for _ in range(num_ids)] for _ in range(num)]
    texts = ["答案", '\u2028 and \\ "', "a"]
    return [
        Sample(
            f"{n}", f"{n // 2}", texts[n % 3], "en", None, "a", ids[n], ids[n][: 1 + n % num_ids]
        )
        for n in range(num)
    ]


def stored(path, samples):
    write_jsonl(path, (sample.row() for sample in samples))
    return read_samples(path)


def test_samples_on_disk_are_those_that_were_written(tmp_path):
    samples = [*made(50), replace(made(1)[0], teacher="big", reference=1.5)]
    read = stored(tmp_path / "kept.jsonl", samples)
    assert read == samples and list(read) == samples and read != samples[1:]
    assert len(read) == 51 and read[-1] == samples[-1] and read[7:20:3] == samples[7:20:3]
    assert list(read.prompt_lengths) == [len(s.prompt_ids) for s in samples]
    assert list(read[5:9].answer_lengths) == [len(s.answer_ids) for s in samples[5:9]]
    assert read.where(s.language == "sw" for s in read) == []
    with pytest.raises(IndexError):
        read[51]


@pytest.mark.parametrize("most", [0, 4, 5, 100])
def test_what_fits_is_told_without_reading(tmp_path, most):
    samples = made(50)
    read = stored(tmp_path / "kept.jsonl", samples)
    assert read.fitting(most) == [s for s in samples if len(s.ids) <= most]


@pytest.mark.parametrize("share", [0.0, 0.02, 0.3, 1.0])
@pytest.mark.parametrize("num", [0, 1, 2, 3, 200])
def test_samples_on_disk_are_divided_as_those_in_memory(tmp_path, num, share):
    samples = made(num)
    read = stored(tmp_path / "kept.jsonl", samples)
    assert split_samples(read, share) == split_samples(samples, share)
    # some of them, as after `fitting`
    assert split_samples(read[1::3], share) == split_samples(samples[1::3], share)


def test_a_row_that_is_no_sample_is_named(tmp_path):
    path = tmp_path / "kept.jsonl"
    good = made(1)[0].row()
    for bad in (good | {"more": 1}, {"key": "k"}, good | {"prompt_ids": 3}):
        write_jsonl(path, [good, bad])
        with pytest.raises(DataError, match=r"kept\.jsonl, line 2: .* --redo generate"):
            read_samples(path)


def test_samples_stay_on_disk(tmp_path):
    write_jsonl(tmp_path / "kept.jsonl", (sample.row() for sample in made(2_000, 300)))
    tracemalloc.start()
    learn, validation = split_samples(read_samples(tmp_path / "kept.jsonl").fitting(900), 0.1)
    assert len(learn) + len(validation) == 2_000 and sum(len(s.ids) for s in learn) > 400_000
    held, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 2_000 * 80 and most < 2_000 * 160 + 100_000, "bytes a sample, of 14,000"
