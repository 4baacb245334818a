"""Three workers killed again and again, and their files torn: no answer is lost, none comes twice, none is another one."""

import random
import signal
import time

from log_helpers import read_row_logs
from run_helpers import QUICKSTART, forks
from server_helpers import TEACHER

from distill import generate
from distill.core.jsonl import read_jsonl
from distill.core.processes import Processes
from distill.core.run_folder import RunFolder
from distill.data.prompts import split_prompts
from distill.filters import prompt_filters
from distill.formats.gguf.write import write_gguf
from distill.recipe import load_recipe
from distill.teachers import connect
from distill.teachers.answers import ask
from distill.teachers.keys import request_maker
from distill.teachers.requests import RequestOptions

NUM_WORKERS, NUM_ROUNDS = 3, 7


def recipe_of(folder, file, *more):
    return load_recipe(
        QUICKSTART,
        [
            f"teacher.gguf={file}",
            "generate.num_prompts=60",
            "generate.max_new_tokens=32",
            "evaluate.num_examples=4",
            "quantize.threads=1",
            f"run_folder={folder}",
            *more,
        ],
    )


def work(folder, file, requests, job):
    """What a worker does, in a process of its own."""
    recipe = recipe_of(folder, file, "teacher.batch_tokens=200")
    teacher = connect(recipe)
    processes = Processes(job=job, num_jobs=NUM_WORKERS)
    ask(teacher, requests, RequestOptions.of(recipe), teacher.logs.answers, processes)


def logged(folder):
    return read_row_logs(folder / "generate/raw")


def tear(path, chance):
    """What a kill or a power cut may leave of a file: half a line more, zeros, or less than was written."""
    data = path.read_bytes()
    ways = (
        data + b'{"key": "half an ans',
        data + bytes(chance.randrange(1, 200)),
        data[: chance.randrange(len(data) // 2, len(data))],
    )
    path.write_bytes(chance.choice(ways))


def run(recipe):
    result = generate.run(recipe, RunFolder.of(recipe), Processes()).result
    return result, [
        row for _, row in read_jsonl(RunFolder.of(recipe).stage("generate") / "kept.jsonl")
    ]


def test_killed_twenty_times_with_torn_files_it_ends_as_unbroken(tmp_path):
    file, folder, chance = tmp_path / "t.gguf", tmp_path / "run", random.Random(5)
    write_gguf(
        TEACHER, file, "q8_0", metadata={}
    )  # of rounded weights a row's answer does not depend on its neighbours
    wanted, unbroken = run(recipe_of(tmp_path / "whole", file))
    recipe = recipe_of(folder, file)
    make = request_maker(connect(recipe), RequestOptions.of(recipe))
    prompts = prompt_filters.select_prompts(recipe, *split_prompts(recipe))[0]
    requests = [make(prompt, 0) for prompt in prompts]

    num_killed = 0
    for number in range(NUM_ROUNDS):
        before = len(logged(folder)[0])
        jobs = [
            (number + n) % NUM_WORKERS for n in range(NUM_WORKERS)
        ]  # another is the first each time
        workers = [forks().Process(target=work, args=(folder, file, requests, job)) for job in jobs]
        for worker in workers:
            worker.start()
        while len(logged(folder)[0]) < before + 3 and any(worker.is_alive() for worker in workers):
            time.sleep(0.005)
        for worker in workers:
            worker.kill()
            worker.join()
        num_killed += sum(worker.exitcode == -signal.SIGKILL for worker in workers)
        assert {worker.exitcode for worker in workers} <= {0, -signal.SIGKILL}
        written = sorted(
            (folder / "generate/raw").glob("*.jsonl"), key=lambda path: path.stat().st_mtime
        )
        if number % 2 and written[-1].stat().st_size:
            tear(written[-1], chance)
    rows, broken = logged(folder)
    assert num_killed >= 20 and broken and 0 < len(rows) < wanted.num_asked, (
        "there is something left to do"
    )

    result, kept = run(recipe_of(folder, file))
    rows, _ = logged(folder)
    assert sorted(row["key"] for row in rows) == sorted(r.key for r in requests), "each once"
    assert kept == unbroken and result.num_asked == wanted.num_asked
