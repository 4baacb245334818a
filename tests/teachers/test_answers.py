"""Which requests a process asks, and which of them together."""

import json

import pytest
from run_helpers import QUICKSTART

from distill.core.leases import static_share
from distill.core.processes import Processes
from distill.data.prompts import split_prompts
from distill.recipe import load_recipe
from distill.teachers import connect
from distill.teachers.answers import blocks_of
from distill.teachers.requests import Request, RequestOptions


def blocks_for(teacher, requests, processes):
    options = RequestOptions.of(teacher.recipe)
    return blocks_of(teacher, requests, options, teacher.logs.answers, processes)


def shares_of(recipe, prompts, all_processes):
    """What each process would ask, as prompts' ids with the index of the sample."""
    requests = [
        Request(p.id, p, [1] * (5 + n % 7), i, 0) for n, p in enumerate(prompts) for i in range(2)
    ]
    teacher = connect(recipe)
    return [
        [
            (r.prompt.id, r.sample_index)
            for block in static_share(processes, blocks_for(teacher, requests, processes))
            for r in block.requests
        ]
        for processes in all_processes
    ]


@pytest.mark.parametrize("server", [None, "http://127.0.0.1:1"])
def test_shards_follow_from_the_prompts_whatever_their_order_number_of_processes_or_probes(
    server, tmp_path
):
    where = f"teacher.server={server}" if server else "teacher.batch_tokens=9000"
    recipe = load_recipe(QUICKSTART, [f"run_folder={tmp_path}", where])
    prompts = split_prompts(recipe)[0][:200]
    wanted = sorted((p.id, i) for p in prompts for i in range(2))
    one, two = (Processes(job=job, num_jobs=2) for job in range(2))
    for num in (1, 2):  # the first job is started with so many processes
        ranks = [Processes(rank=r, num=num, job=0, num_jobs=2) for r in range(num)]
        found = shares_of(recipe, prompts, [*ranks, two])
        assert sorted(pair for mine in found for pair in mine) == wanted and all(found)
    (before,) = shares_of(recipe, prompts[1:], [one])
    (after,) = shares_of(recipe, prompts, [two])  # one more in front, before the second job starts
    assert not {*before} & {*after} and {*before, *after} >= {
        pair for pair in wanted if pair[0] != prompts[0].id
    }
    (tmp_path / "generate").mkdir()
    (tmp_path / "generate/probe.json").write_text(
        json.dumps({"groups": [[p.id for p in prompts[::5]]]})
    )  # on the second machine alone
    (probed,) = shares_of(recipe, prompts, [two])
    assert sorted(probed) == sorted(after)
