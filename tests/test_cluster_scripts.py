"""The scripts for queues, run by bash as the queue would; the interpreter tells what it is given."""

import os
import subprocess

import pytest
from run_helpers import ROOT

TELLS = """#!/bin/sh
echo "threads=$OMP_NUM_THREADS offline=$HF_HUB_OFFLINE $*"
exit ${STATUS:-0}
"""
SRUN = """#!/bin/sh
[ "$1" = --kill-on-bad-exit=1 ] && shift && SLURM_PROCID=0 SLURM_LOCALID=0 "$@" cpus=$SRUN_CPUS_PER_TASK
"""
LAUNCH = "-m torch.distributed.run --standalone --nproc-per-node 4 "


@pytest.fixture
def queue(tmp_path):
    """`queue("pbs/distill.pbs", WORDS="run x")`: run a script of scripts/ with these variables."""

    def program(name, text):
        path = tmp_path / name
        path.write_text(text)
        path.chmod(0o755)
        return str(path)

    python = program("python", TELLS)
    program("scontrol", f"#!/bin/sh\necho $* >>{tmp_path}/scontrol.log\n")
    program("srun", SRUN)
    program("sleep", "#!/bin/sh\n")  # for Slurm to end the job

    def run(script, *words, **variables):
        kept = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHON": python}
        done = subprocess.run(
            ["bash", ROOT / "scripts" / script, *words],
            env=kept | variables,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        log = tmp_path / "scontrol.log"
        return done, log.read_text() if log.exists() else ""

    return run


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        ({}, "threads=1 offline=1 -m distill run r.yaml run_folder=/x"),
        ({"NCPUS": "16"}, "threads=16 offline=1 -m distill run r.yaml run_folder=/x"),
        (
            {"PBS_ARRAY_INDEX": "2"},
            "threads=1 offline=1 -m distill run r.yaml run_folder=/x --shard auto",
        ),
        (
            {"PROCESSES": "4", "NCPUS": "16"},
            f"threads=4 offline=1 {LAUNCH}-m distill run r.yaml run_folder=/x",
        ),
        ({"PROCESSES": "4"}, f"threads=1 offline=1 {LAUNCH}-m distill run r.yaml run_folder=/x"),
        (
            {"OMP_NUM_THREADS": "3", "NCPUS": "16"},
            "threads=3 offline=1 -m distill run r.yaml run_folder=/x",
        ),
    ],
)
def test_pbs_runs_what_it_is_told_with_the_cores_that_it_was_given(queue, variables, told):
    given = {"PBS_O_WORKDIR": str(ROOT), "WORDS": "run r.yaml run_folder=/x", **variables}
    done, _ = queue("pbs/distill.pbs", **given)
    assert (done.returncode, done.stdout.strip()) == (0, told), done.stderr


def test_pbs_says_what_is_missing(queue):
    assert "give this file to qsub" in queue("pbs/distill.pbs")[0].stderr
    assert "qsub -v WORDS" in queue("pbs/distill.pbs", PBS_O_WORKDIR=str(ROOT))[0].stderr


@pytest.mark.parametrize(
    ("status", "num", "restarts", "is_put_back"),
    [
        (75, 1, 0, True),
        (75, 1, 3, False),
        (2, 1, 0, False),
        (137, 1, 0, False),  # one process alone, killed by itself: out of memory, mostly
        (75, 2, 0, True),
        (2, 2, 0, False),
        (1, 2, 0, False),
        *((status, 2, 0, True) for status in (134, 137, 139, 253)),  # srun's of a rank killed
        (137, 2, 3, False),
    ],
)
def test_slurm_puts_a_job_back_of_which_a_rank_was_gone(queue, status, num, restarts, is_put_back):
    job = {
        "SLURM_JOB_ID": "7",
        "SLURM_SUBMIT_DIR": str(ROOT),
        "SLURM_NTASKS": str(num),
        "SLURM_JOB_NODELIST": "a",
        "STATUS": str(status),
    }
    done, asked = queue("slurm/distill.sbatch", "run", SLURM_RESTART_COUNT=str(restarts), **job)
    assert done.returncode == status
    assert ("requeue 7\n" in asked) is is_put_back


def test_slurm_gives_each_of_several_processes_its_cores(queue):
    job = {"SLURM_JOB_ID": "7", "SLURM_SUBMIT_DIR": str(ROOT), "SLURM_JOB_NODELIST": "a"}
    four = {"SLURM_NTASKS": "2", "SLURM_CPUS_PER_TASK": "4"}
    assert "threads=4 offline=1 -m distill run cpus=4" in queue(
        "slurm/distill.sbatch", "run", **job, **four
    )[0].stdout.replace("\n", " ")


@pytest.mark.parametrize("status", [0, 2, 127])
def test_slurm_knows_how_a_job_ended_that_was_quicker_than_its_script(queue, tmp_path, status):
    late = tmp_path / "late"  # before the script waits for the job it sleeps
    late.write_text("trap 'case $BASH_COMMAND in kill*|wait*) /bin/sleep 0.3;; esac' DEBUG\n")
    job = {"SLURM_JOB_ID": "7", "SLURM_SUBMIT_DIR": str(ROOT), "STATUS": str(status)}
    done, _ = queue("slurm/distill.sbatch", "run", BASH_ENV=str(late), **job)
    assert done.returncode == status


def test_the_container_takes_what_is_here():
    lines = (ROOT / "scripts" / "apptainer" / "distill.def").read_text().splitlines()
    files = lines[lines.index("%files") + 1 : lines.index("%post")]
    assert all((ROOT / line.split()[0]).exists() for line in files if line)
    assert any("scripts/setup" in line for line in lines)
