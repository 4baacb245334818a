"""scripts/slurm/distill.sbatch on a real Slurm, started here on one node: an array of four jobs, one of them preempted."""

import json
import re
import sys
import threading
import time

import pytest
from run_helpers import run
from slurm_helpers import NEEDS_SLURM, SCRIPT, cluster, field, until
from test_server_runs import arguments, asked, logged

pytestmark = NEEDS_SLURM


@pytest.fixture(scope="module")
def slurm():
    with cluster() as command:
        yield command


def test_an_array_of_four_one_preempted_asks_for_everything_once(slurm, proxy, tmp_path):
    opened = threading.Event()  # after 20 answers the server waits: all four have claimed something and none can have finished

    def trouble(number, path):
        probe = proxy.asked[number].get("n_predict", 0) <= 2
        return None if probe or len(asked(proxy)) <= 20 or opened.wait(300) else "500"

    proxy.trouble = trouble
    given = [str(a) for a in arguments(tmp_path / "run", proxy.url)]
    jobs = slurm(
        "sbatch",
        "--parsable",
        "--array=1-4",
        f"--output={tmp_path}/%a.log",
        f"--export=ALL,PYTHON={sys.executable}",
        str(SCRIPT),
        "generate",
        *given,
    )

    def said():
        return [path.read_text() for path in tmp_path.glob("*.log")]

    until(
        lambda: sum("exact token ids" in text for text in said()) == 4,
        180,
        "four jobs that have begun",
    )
    until(lambda: len(asked(proxy)) > 20 and len(logged(tmp_path / "run")) >= 10, 120, "answers")
    urgent = slurm(
        "sbatch", "--parsable", "--partition=high", "--output=/dev/null", "--wrap", "sleep 1"
    )
    until(
        lambda: re.search(r"PreemptTime=\d", slurm("scontrol", "show", "job", jobs)),
        60,
        "a job to be preempted",
    )
    time.sleep(
        1
    )  # its signal travels; then what it has in flight is answered, and it stops before it asks more
    opened.set()
    until(
        lambda: any("stopped by SIGUSR1" in text for text in said()),
        60,
        "the preempted job to stop by itself",
    )
    until(lambda: not slurm("squeue", "-h"), 180, "the queue to be empty")
    assert field(slurm("scontrol", "show", "job", urgent), "JobState") == "COMPLETED"
    tasks = slurm("scontrol", "show", "job", jobs).split("\n\n")
    assert [field(task, "JobState") for task in tasks] == ["COMPLETED"] * 4, said()
    assert sorted(int(field(task, "Restarts")) for task in tasks) == [0, 0, 0, 1]

    num_asked = len(asked(proxy))
    result = run(*given, word="generate")
    assert result.returncode == 0 and len(asked(proxy)) == num_asked, "the jobs left nothing to ask"
    rows = logged(tmp_path / "run")
    manifest = json.loads((tmp_path / "run/generate/manifest.json").read_text())
    assert len(rows) == len({row["key"] for row in rows}) == manifest["result"]["num_asked"]
    assert num_asked <= len(rows) + 6, "no call beyond those that the preempted job had in flight"
